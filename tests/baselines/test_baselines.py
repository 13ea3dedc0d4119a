"""Baselines: the dense work of a source, and the roofline of a platform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accelsim.baselines import AttentionShape, Call, Platform, evaluate_baselines
from accelsim.configs import config_root, load, preset_names
from accelsim.errors import ConfigError
from accelsim.functional import run_policy
from accelsim.policies import Policy
from accelsim.traces import synthetic_trace
from accelsim.workloads import Workload

GENERATION = AttentionShape(
    tuple(Call(24, 1, context, True) for context in range(993, 1025)), 16, 16, 64
)
"""GPT-2-Medium, 32 tokens after a context of 992 (SpAtten §V-A)."""


def test_flops_of_generation_match_the_published_count() -> None:
    # 3.17 GFLOP at contexts 993 to 1024; SpAtten Table IV prints 3.3.
    assert GENERATION.flops == pytest.approx(3.17e9, rel=0.01)


def test_titan_xp_reproduces_its_calibration_point() -> None:
    # Table IV, 366.7 ms: the overhead is calibrated on it, so agreement is a check of arithmetic.
    row = evaluate_baselines(GENERATION, ["titan-xp"])["titan-xp/framework-2020"]
    assert row["latency_s"] == pytest.approx(0.3667, rel=0.01)


def test_causal_prefill_counts_the_triangle() -> None:
    assert Call(1, 4, 4, True).pairs == 10
    assert Call(1, 4, 4, False).pairs == 16
    assert Call(1, 1, 7, True).pairs == 7


def test_trace_and_workload_agree_on_the_same_shape() -> None:
    trace = synthetic_trace(prefill_tokens=0, decode_tokens=5, num_query_heads=2, num_kv_heads=2)
    rows = [(s, layer, h) for s in range(5) for layer in range(2) for h in range(2)]
    steps, layers, heads = (list(column) for column in zip(*rows, strict=True))
    contexts = [s + 1 for s in steps]
    workload = Workload.from_columns(
        {
            "step": steps,
            "layer": layers,
            "head": heads,
            "keys": contexts,
            "values": contexts,
            "key_bits": [8] * 20,
            "value_bits": [8] * 20,
        },
        head_dim=trace.head_dim,
    )
    first, second = AttentionShape.from_trace(trace), AttentionShape.from_workload(workload)
    assert first.flops == second.flops
    assert first.bytes_moved(2) == second.bytes_moved(2)


@pytest.mark.parametrize("name", ["titan-xp", "xeon-e5-2640v4", "jetson-nano", "raspberry-pi-4"])
def test_a_tuned_kernel_is_never_slower_than_the_framework(name: str) -> None:
    rows = evaluate_baselines(GENERATION, [name])
    tuned, framework = rows[f"{name}/roofline"], rows[f"{name}/framework-2020"]
    assert 0 < tuned["latency_s"] < framework["latency_s"]
    assert framework["energy_j"] < framework["energy_with_idle_j"]


def test_measured_runs_here() -> None:
    for row in evaluate_baselines(synthetic_shape(), ["measured"]).values():
        assert row["latency_s"] > 0
        assert row["energy_j"] is None
        assert row["machine"]["device"]


def test_idle_power_must_be_below_load_power(tmp_path: Path) -> None:
    text = (config_root() / "baselines" / "a100.yaml").read_text()
    (tmp_path / "x.yaml").write_text(text.replace("idle_power_w: 50", "idle_power_w: 500"))
    with pytest.raises(ConfigError, match="idle_power_w"):
        evaluate_baselines(GENERATION, [str(tmp_path / "x.yaml")])


def synthetic_shape() -> AttentionShape:
    return AttentionShape.from_trace(synthetic_trace())


def test_unknown_platform_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'titan-xp'"):
        evaluate_baselines(synthetic_shape(), ["titan-x"])


def test_titan_xp_predicts_a_latency_it_was_not_calibrated_on() -> None:
    # SpAtten §I: 370 ms for GPT-2 attention of a 30-token sentence. The model gives 321 ms (-13 %).
    sentence = AttentionShape(tuple(Call(24, 1, n, True) for n in range(1, 31)), 16, 16, 64)
    row = evaluate_baselines(sentence, ["titan-xp"])["titan-xp/framework-2020"]
    assert row["latency_s"] == pytest.approx(0.370, rel=0.15)


def test_roofline_by_hand() -> None:
    # One decode call at 1000 tokens: Q, K, V, O once at 2 B, 85 % of 2039 GB/s, one 5 us launch.
    shape = AttentionShape((Call(1, 1, 1000, True),), 16, 4, 64)
    row = evaluate_baselines(shape, ["a100"])["a100/roofline"]
    moved = (2 * 1000 * 4 + 2 * 16) * 64 * 2
    assert row["dram_bytes"] == moved
    assert row["latency_s"] == pytest.approx(moved / (2039e9 * 0.85) + 5e-6)
    assert row["energy_j"] == pytest.approx(row["latency_s"] * 350)
    # A long prefill is bound by arithmetic: 4 operations a pair, head and element, 80 % of 312 T.
    long = AttentionShape((Call(1, 8192, 8192, True),), 16, 16, 64)
    flops = 4 * (8192 * 8193 // 2) * 16 * 64
    row = evaluate_baselines(long, ["a100"])["a100/roofline"]
    assert row["latency_s"] == pytest.approx(flops / (312e12 * 0.8) + 5e-6)


def test_only_the_framework_moves_scores_through_memory() -> None:
    shape = AttentionShape((Call(1, 100, 100, True),), 2, 2, 64)
    rows = evaluate_baselines(shape, ["titan-xp"])
    moved = rows["titan-xp/roofline"]["dram_bytes"]
    assert rows["titan-xp/framework-2020"]["dram_bytes"] == moved + 4 * 100 * 100 * 2 * 4


@pytest.mark.parametrize("reading", ["framework-2020", "roofline"])
def test_more_bandwidth_is_never_slower(tmp_path: Path, reading: str) -> None:
    text = (config_root() / "baselines" / "titan-xp.yaml").read_text()
    latencies = []
    for bandwidth in ("500e9", "1000e9", "2039e9", "8000e9"):
        path = tmp_path / f"{bandwidth}.yaml"
        path.write_text(
            text.replace("bandwidth_byte_per_s: 547.6e9", f"bandwidth_byte_per_s: {bandwidth}")
        )
        rows = evaluate_baselines(GENERATION, [str(path)])
        latencies.append(rows[f"{path}/{reading}"]["latency_s"])
    assert latencies == sorted(latencies, reverse=True)
    assert latencies[0] > latencies[-1]


@pytest.mark.parametrize("policy", ["dense", "spatten-full", "spatten-heads"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prefill_tokens": 0},
        {"causal": False, "decode_tokens": 0},
        {"num_kv_heads": 4},
    ],
)
def test_a_pruned_workload_stands_for_the_dense_shape(policy: str, options: dict[str, Any]) -> None:
    trace = synthetic_trace(**options)
    workload = run_policy(trace, load(Policy, policy, "policies")).workload
    first, second = AttentionShape.from_trace(trace), AttentionShape.from_workload(workload)
    assert (first.query_heads, first.kv_heads) == (second.query_heads, second.kv_heads)
    assert first.flops == second.flops
    assert first.bytes_moved(2) == second.bytes_moved(2)


@pytest.mark.parametrize("name", preset_names("baselines"))
def test_every_reading_names_its_source(name: str) -> None:
    platform = load(Platform, name, "baselines")
    readings = [r for r in (platform.framework_2020, platform.tuned_kernel) if r is not None]
    texts = (platform.source, platform.power_source, *(r.source for r in readings))
    assert all(len(text) > 10 for text in texts)
