"""Metrics are one row each: a new one shows in results, tables, sweeps and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.errors import ConfigError
from accelsim.exploration import replay, sweep
from accelsim.exploration.metrics import METRICS, Metric, Run, goal
from accelsim.hardware.activity import Activity
from accelsim.reports import render
from accelsim.traces import save_trace, synthetic_trace
from accelsim.workloads import Workload


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1, prefill_tokens=8, decode_tokens=2), path)
    return path


@pytest.fixture
def energy_delay(monkeypatch: pytest.MonkeyPatch) -> str:
    """A metric as a contributor adds one."""

    def product(run: Run) -> float:
        return run.energy.total_j * run.activity.seconds

    metric = Metric("energy_delay_j_s", "J·s", "energy × delay", "energy", "lower", product)
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric.name


def test_a_run_has_every_metric_in_order(trace: Path) -> None:
    metrics = replay(trace, policy="spatten-full", baselines=[], streamed=True).metrics
    # Attention alone has no fully connected layers.
    assert list(metrics) == [name for name in METRICS if name != "fc_macs"]
    assert all(value is not None for value in metrics.values())


def test_metrics_follow_from_one_another(trace: Path) -> None:
    result = replay(trace, policy="spatten-full", baselines=[])
    metrics, activity = result.metrics, result.activity
    seconds, steps = metrics["latency_s"], 2
    assert seconds == pytest.approx(metrics["latency_cycles"] / activity.frequency_hz)
    read = sum(result.dram_read_bytes_by_tensor.values())
    assert metrics["dram_read_bytes"] == read
    assert metrics["dram_read_bytes_per_s"] == pytest.approx(read / seconds)
    stages = metrics["prefill_latency_cycles"], metrics["decode_latency_cycles"]
    assert sum(stages) == metrics["latency_cycles"]
    assert min(stages) > 0
    assert metrics["decode_cycles_per_token"] == pytest.approx(stages[1] / steps)
    assert metrics["average_power_w"] == pytest.approx(metrics["energy_j"] / seconds)
    assert metrics["energy_j"] == pytest.approx(sum(result.energy_j_by_part.values()))
    counted = activity.counters
    assert metrics["macs"] == counted["qk_macs"] + counted["pv_macs"]
    looked = sum(counted[name] for name in ("row_hits", "row_misses", "row_conflicts"))
    assert metrics["row_hit_rate"] == pytest.approx(counted["row_hits"] / looked)
    for name in ("energy_j", "energy_accesses_j", "area_mm2"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert metrics["energy_accesses_j"] < metrics["energy_j"]
    # Two multiply-accumulates, Q x K and probability x value, for each pair that a head sees.
    pairs = 4 * (sum(range(1, 9)) + 9 + 10)
    assert metrics["dense_equivalent_op_per_s"] == pytest.approx(2 * 2 * 16 * pairs / seconds)


@pytest.mark.parametrize("value_dim", [16, 8])
def test_bytes_of_decoding_are_those_of_its_rows(value_dim: int) -> None:
    rows = Workload.from_columns(
        {
            "step": [0, 0, 1], "layer": [0, 1, 0], "head": [0, 0, 0], "queries": [4, 4, 1],
            "keys": [4, 4, 5], "values": [4, 4, 3], "key_bits": [8, 8, 8], "value_bits": [8, 8, 8],
        },
        head_dim=16, value_dim=value_dim, name="drawn",
    )  # fmt: skip
    run = Run(rows, Activity(1, 1e9), None, None)  # type: ignore[arg-type]
    metric = METRICS["decode_policy_read_bytes"]
    assert metric.of(run) == 5 * 16 + 3 * value_dim


def test_what_a_run_does_not_have_is_left_out_or_null(trace: Path) -> None:
    metrics = replay(trace, accelerator="a3-base", baselines=[]).metrics
    assert metrics["streamed_cycles"] is None
    assert "row_hit_rate" in metrics
    flat = replay(trace, overrides={"memory": "flat"}, baselines=[]).metrics
    assert "row_hit_rate" not in flat


def test_a_new_metric_shows_everywhere(
    trace: Path, energy_delay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = replay(trace, baselines=[])
    value = result.metrics["energy_j"] * result.metrics["latency_s"]
    assert result.metrics[energy_delay] == pytest.approx(value)

    main(["replay", str(trace)])
    assert "energy × delay" in capsys.readouterr().out
    assert "energy × delay" in render({"dense": result}, "title")

    file = tmp_path / "s.yaml"
    file.write_text(
        f"kind: sweep\nsources: [{trace}]\nmetrics: [{energy_delay}, latency_s, macs]\n"
        "axes: [{key: accelerator.multipliers, values: [256, 512]}]\n"
    )
    results = sweep(file, tmp_path / "store")
    assert results.goals == {energy_delay: "minimize", "latency_s": "minimize", "macs": "report"}
    assert all(row[energy_delay] > 0 for row in results.rows)

    report = tmp_path / "store.html"
    main(["report", str(tmp_path / "store"), "--out", str(report), "--objective", energy_delay])
    assert f"{energy_delay} (J·s)" in report.read_text(encoding="utf-8")


def test_goals_follow_the_better_side() -> None:
    assert goal("latency_s") == "minimize"
    assert goal("row_hit_rate") == "maximize"
    assert goal("macs") == goal("accuracy.relative_output_error") == "report"


def test_a_misspelt_metric_of_a_list_is_named(trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        f"kind: sweep\nsources: [{trace}]\nmetrics: [latency_sec]\n"
        "axes: [{key: accelerator.multipliers, values: [512]}]\n"
    )
    with pytest.raises(ConfigError, match="latency_s"):
        sweep(file, tmp_path / "store")
