"""``accelsim replay``: its JSON contract, and bytes against decisions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.functional import run_policy
from accelsim.policies import load_policy
from accelsim.traces import load_trace, save_trace, synthetic_trace

TRACES = Path(__file__).parents[2] / "traces"
SOURCES = {
    "smollm2": str(TRACES / "smollm2-64p-32d.safetensors"),
    "minilm": str(TRACES / "minilm-128.safetensors"),
    "csv": str(TRACES / "spatten-gpt2" / "small.csv"),
    "benchmark": "bert-base-cola",
}
MEASURES = {"latency_s", "energy_j", "dram_bytes", "speedup", "energy_ratio", "kind"}


def run(capsys, *arguments):
    """Run a verb; everything on standard output must be one JSON document without NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    main([*arguments, "--json", "-"])
    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def numbers(value):
    """Yield every leaf that claims to be a measurement."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    else:
        yield value


@pytest.mark.parametrize("name", SOURCES)
def test_contract(name, capsys):
    result = run(capsys, "replay", SOURCES[name])
    assert result["schema"] == "accelsim.result/1"
    metrics = result["metrics"]
    assert metrics.pop("streamed_cycles") is None
    parts = metrics["prefill_latency_cycles"], metrics["decode_latency_cycles"]
    assert sum(parts) == metrics["latency_cycles"]
    for queue in result["queues"].values():
        assert 0 <= queue["high_water"] <= queue["depth"]
    assert result["manifest"]["dependencies"] in ("causal", "streamed")
    assert {
        "latency_cycles", "latency_s", "dram_read_bytes", "dram_write_bytes", "energy_j",
        "average_power_w",
    } <= set(metrics)  # fmt: skip
    by_tensor = result["dram_read_bytes_by_tensor"]
    assert {"query", "key_msb", "key_lsb", "value"} <= set(by_tensor)
    assert {"dram", "sram", "logic"} <= set(result["energy_j_by_part"])
    for section in ("metrics", "dram_read_bytes_by_tensor", "energy_j_by_part", "modules"):
        for leaf in numbers(result[section]):
            assert type(leaf) in (int, float)
            assert math.isfinite(leaf)
    assert sum(by_tensor.values()) == metrics["dram_read_bytes"]
    assert math.isclose(sum(result["energy_j_by_part"].values()), metrics["energy_j"])
    assert math.isclose(metrics["average_power_w"] * metrics["latency_s"], metrics["energy_j"])
    for module in result["modules"].values():
        assert {"busy_cycles", "stall_cycles"} <= set(module)
        assert module.get("operations", 0) <= (
            module.get("peak_operations_per_cycle", 0) * module["busy_cycles"]
        )
    assert (result["accuracy"] is None) == (name in ("csv", "benchmark"))
    assert {"titan-xp/framework-2020", "raspberry-pi-4/roofline"} <= set(result["baselines"])
    for row in result["baselines"].values():
        assert set(row) >= MEASURES
        assert row["kind"] in ("framework-2020", "roofline", "measured-kernel")
        assert row["speedup"] == pytest.approx(row["latency_s"] / metrics["latency_s"])
        assert all(row[m] is None or type(row[m]) in (int, float) for m in MEASURES - {"kind"})
    assert result["manifest"]


@pytest.mark.parametrize("policy", ["dense", "spatten-full"])
@pytest.mark.parametrize("source", ["smollm2", "minilm"])
def test_bytes_are_those_of_the_decisions(source, policy, capsys):
    """Masks to the byte; DRAM adds the rounding of fetches to ``rounding`` vectors, no more."""
    result = run(capsys, "replay", SOURCES[source], "--policy", policy)
    workload = run_policy(load_trace(SOURCES[source]), load_policy(policy)).workload
    decided = workload.policy_bytes()
    assert result["metrics"]["policy_read_bytes"] == sum(decided.values())
    moved = result["dram_read_bytes_by_tensor"]
    for tensor in ("key_msb", "key_lsb", "value"):
        assert moved[tensor] >= decided[tensor]
    pairs = {"key_msb": ("keys", "key_bits"), "value": ("values", "value_bits")}
    for tensor, (count, bits) in pairs.items():
        vector_bits = int(workload[bits].max()) * workload.head_dim
        waste = moved[tensor] - decided[tensor]
        assert waste <= workload.rows * 32 * vector_bits / 8, (count, waste)


def test_replay_writes_its_folder(tmp_path, capsys):
    save_trace(synthetic_trace(), tmp_path / "t.safetensors")
    document = run(capsys, "replay", str(tmp_path / "t.safetensors"), "--out", str(tmp_path / "o"))
    assert json.loads((tmp_path / "o" / "result.json").read_text()) == document
    assert (tmp_path / "o" / "report.html").read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["report.html", "result.json"]
