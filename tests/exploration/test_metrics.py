"""Metrics are one row each: a new one shows in results, tables, sweeps and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.errors import ConfigError
from accelsim.exploration import replay, sweep
from accelsim.exploration.metrics import METRICS, Metric, Run, goal
from accelsim.reports import render
from accelsim.traces import save_trace, synthetic_trace


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
