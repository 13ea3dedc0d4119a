"""A3's published cycle law, its traffic, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.energy import EnergyTable, evaluate
from accelsim.errors import WorkloadError
from accelsim.hardware import accelerator_of, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.a3 import A3Config
from accelsim.hardware.timeline import READS, TRACK, Recorder
from accelsim.traces import synthetic_trace
from accelsim.workloads import RivalWorkload, Workload

MEMORY = load(MemoryConfig, "hbm2-nominal", "memories")


def dense(keys: int, queries: int) -> Workload:
    return Workload.from_columns(
        {"keys": [keys], "values": [keys], "queries": [queries], "key_bits": [9], "value_bits": [9]}
    )


def run(name: str, work: Workload, **overrides: Any) -> Activity:
    return simulate(work, load_accelerator(name, overrides), MEMORY)


@settings(deadline=None, max_examples=60)
@given(keys=st.integers(1, 320), queries=st.integers(1, 12))
def test_base_takes_n_plus_9_per_query_and_3n_plus_27_latency(keys: int, queries: int) -> None:
    activity = run("a3-base", dense(keys, queries), transfers=False)
    assert activity.cycles == 3 * keys + 27 + (queries - 1) * (keys + 9)


@pytest.mark.parametrize("keys", [1, 320])
def test_base_at_the_ends_of_its_range(keys: int) -> None:
    one, many = (run("a3-base", dense(keys, q), transfers=False).cycles for q in (1, 101))
    assert one == 3 * keys + 27
    assert many - one == 100 * (keys + 9)


def counted(counts: dict[str, list[int]], keys: int) -> RivalWorkload:
    work = dense(keys, len(counts["visible"]))
    arrays = {name: np.array(values, dtype=np.int64) for name, values in counts.items()}
    return RivalWorkload(work.columns, 64, "counted", counts=arrays)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), keys=st.integers(64, 320), queries=st.integers(1, 8))
def test_approximate_latency_and_throughput(data: Any, keys: int, queries: int) -> None:
    scan = -(-keys // 16)
    candidates = data.draw(st.integers(scan, keys // 2 - 5))
    kept = data.draw(st.integers(-(-candidates // 16), candidates))
    iterations = keys // 2
    work = counted(
        {
            "visible": [keys] * queries,
            "iterations": [iterations] * queries,
            "candidates": [candidates] * queries,
            "kept": [kept] * queries,
        },
        keys,
    )
    activity = run("a3-conservative", work, transfers=False)
    # M + C + K + K + alpha, alpha = 4 to fill and 9 in each of three modules; then M + 4 each, as
    # candidate selection is the slowest module while C + 9 <= M + 4.
    latency = iterations + candidates + 2 * kept + 31
    assert activity.cycles == latency + (queries - 1) * (iterations + 4)


def test_matrices_are_loaded_before_their_queries_through_the_bank_model() -> None:
    on_chip = run("a3-base", dense(320, 4), transfers=False).cycles
    activity = run("a3-base", dense(320, 4))
    assert activity.dram_read_bytes["key_msb"] == 320 * 72
    assert activity.dram_read_bytes["value"] == 320 * 72
    assert activity.dram_read_bytes["query"] == 4 * 96  # 72 B in whole bursts
    transfer = (2 * 320 * 72) / 64  # cycles at 64 GB/s
    assert on_chip + transfer < activity.cycles < on_chip + 1.5 * transfer + 100
    moved = sum(activity.dram_read_bytes.values())
    assert activity.counters["dram_reads"] == moved // 32


def test_rows_beyond_the_srams_come_from_dram_for_every_query() -> None:
    few, many = run("a3-base", dense(400, 1)), run("a3-base", dense(400, 3))
    extra = many.dram_read_bytes["value"] - few.dram_read_bytes["value"]
    assert extra == 2 * 80 * 72
    assert few.dram_read_bytes["value"] == 400 * 72


def test_sorting_is_an_option() -> None:
    trace = synthetic_trace(seed=2, head_dim=64, prefill_tokens=32, decode_tokens=0)
    machine = load_accelerator("a3-conservative")
    decide = accelerator_of("a3").decide
    assert decide is not None
    work = decide(trace, machine).workload
    free = simulate(work, machine, MEMORY).cycles
    paid = simulate(
        work, load_accelerator("a3-conservative", {"sort_comparisons_per_cycle": 64}), MEMORY
    ).cycles
    assert paid - free == pytest.approx(work.rows * 32 * 5, abs=work.rows * 20)


@pytest.mark.parametrize("name", ["a3-base", "a3-conservative", "a3-aggressive"])
def test_books_timeline_and_energy_are_complete(name: str) -> None:
    trace = synthetic_trace(seed=2, head_dim=64, prefill_tokens=24, decode_tokens=2)
    machine = load_accelerator(name)
    decide = accelerator_of("a3").decide
    assert decide is not None
    work = decide(trace, machine).workload
    recorder = Recorder()
    activity = simulate(work, machine, MEMORY, recorder=recorder)
    assert activity == simulate(work, machine, MEMORY)
    timeline = recorder.timeline
    assert set(timeline.tracks[timeline.modules :]) == {"DRAM channel 0", "DRAM channel 1"}
    for module, spans in timeline.module_activity().items():
        assert spans.busy_cycles == activity.modules[module].busy_cycles
        assert spans.stall_cycles == activity.modules[module].stall_cycles
        assert spans.busy_cycles + sum(spans.stall_cycles.values()) == activity.cycles
    channels = timeline.spans[timeline.spans[:, TRACK] >= timeline.modules]
    assert channels[:, READS].sum() == activity.counters["dram_reads"]
    report = evaluate(activity, load(EnergyTable, machine.energy, "energy"), machine, MEMORY)
    assert not any(
        w.startswith("energy leaves out") and "dram_refreshes" not in w for w in report.warnings
    )


def test_operations_and_queues_of_each_module() -> None:
    activity = run("a3-base", dense(320, 4))
    counted = {name: module.operations for name, module in activity.modules.items()}
    assert counted == {
        "loader": sum(activity.dram_read_bytes.values()),
        "candidate_selection": 0,
        "dot_product": activity.counters["qk_macs"],
        "exponent": activity.counters["exponentials"],
        "output": activity.counters["pv_macs"],
    }
    peaks = {n: m.peak_operations_per_cycle for n, m in activity.modules.items()}
    assert peaks == {
        "loader": 64, "candidate_selection": 1, "dot_product": 64, "exponent": 1, "output": 64
    }  # fmt: skip
    names = {"queries", "candidates", "scores", "weights", "srams"}
    assert set(activity.queues) == names
    assert all((q.depth, q.high_water) == (1, 1) for q in activity.queues.values())


def test_approximate_needs_tensors_or_fractions() -> None:
    with pytest.raises(WorkloadError, match="candidate_fraction"):
        run("a3-aggressive", dense(64, 1))
    activity = run("a3-aggressive", dense(64, 1), candidate_fraction=0.25, kept_fraction=0.125)
    assert activity.counters["qk_macs"] == 16 * 64
    assert activity.counters["pv_macs"] == 8 * 64


def test_pruned_workloads_and_wide_heads_are_refused() -> None:
    pruned = Workload.from_columns(
        {"keys": [8], "values": [4], "key_bits": [9], "value_bits": [9], "context_tokens": [8]}
    )
    with pytest.raises(WorkloadError, match="own rule"):
        run("a3-base", pruned)
    wide = Workload.from_columns(
        {"keys": [8], "values": [8], "key_bits": [9], "value_bits": [9]}, head_dim=128
    )
    with pytest.raises(WorkloadError, match="head_dim 128"):
        run("a3-base", wide)


def test_sizes_are_those_of_the_paper_if_a_file_names_none() -> None:
    """d = 64, n = 320, 9-bit elements (§VI-B, §VI-D); a row of 320 has a number of 9 bits."""
    given = {"kind": "a3", "description": "x", "source": "x"}
    config = A3Config.model_validate(given)
    assert (config.multipliers, config.capacity_rows, config.element_bits) == (64, 320, 9)
    assert (config.module_overhead, config.selection_fill, config.scan_width) == (9, 4, 16)
    assert config.buffer_bytes == 2 * 320 * 64 * 9 / 8
    approximate = A3Config.model_validate(given | {"iterations": 0.5})
    assert approximate.buffer_bytes == 320 * 64 * (9 + 9 + 18) / 8
    bits = {
        rows: approximate.model_copy(update={"capacity_rows": rows}).sorted_entry_bits - 9
        for rows in (1, 2, 256, 257, 320)
    }
    assert bits == {1: 0, 2: 1, 256: 8, 257: 9, 320: 9}
