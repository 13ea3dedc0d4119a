"""MNNFast: time of the shared array, streaming, skipped values."""

from __future__ import annotations

from typing import Any

import pytest

from accelsim.configs import load
from accelsim.errors import WorkloadError
from accelsim.hardware import accelerator_of, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.mnnfast import MnnFastConfig
from accelsim.hardware.timeline import READS, TRACK, Recorder
from accelsim.traces import synthetic_trace
from accelsim.workloads import Workload

MEMORY = load(MemoryConfig, "hbm2-nominal", "memories")


def dense(keys: int, queries: int) -> Workload:
    columns = {"keys": [keys], "values": [keys], "queries": [queries]}
    return Workload.from_columns({**columns, "key_bits": [12], "value_bits": [12]})


def run(work: Workload, **overrides: Any) -> Activity:
    return simulate(work, load_accelerator("mnnfast", overrides), MEMORY)


@pytest.mark.parametrize(("sharing", "vectors"), [("shared", 320 * 1.25), ("split", 640)])
def test_compute_time(sharing: str, vectors: float) -> None:
    activity = run(dense(320, 40), kept_fraction=0.25, sharing=sharing)
    # Two 64-wide vectors a cycle, and 9 cycles to drain each of five chunks.
    assert activity.modules["compute"].busy_cycles == vectors * 40 / 2 + 5 * 9
    assert activity.counters["pv_macs"] == 40 * 80 * 64
    assert activity.counters["divisions"] == 40 * 64


def test_the_next_chunk_is_fetched_during_this_one() -> None:
    activity = run(dense(640, 1), kept_fraction=1.0)
    fetched = 640 * 2 * 96
    assert activity.dram_read_bytes["key_msb"] + activity.dram_read_bytes["value"] == fetched
    # Bandwidth-bound: little more than the transfer at what the bank model delivers.
    assert fetched / 64 < activity.cycles < 1.6 * fetched / 64


def test_skipped_values_save_dram_only_if_told_so() -> None:
    trace = synthetic_trace(seed=4, head_dim=64, prefill_tokens=8, decode_tokens=4)
    decide = accelerator_of("mnnfast").decide
    assert decide is not None
    sizes = {}
    for fetch in (True, False):
        machine = load_accelerator("mnnfast", {"fetch_skipped": fetch})
        activity = simulate(decide(trace, machine).workload, machine, MEMORY)
        sizes[fetch] = activity.dram_read_bytes["value"]
        for module in activity.modules.values():
            assert module.busy_cycles + sum(module.stall_cycles.values()) == activity.cycles
    assert sizes[False] < sizes[True]


def test_rows_whose_values_are_all_skipped_read_one() -> None:
    trace = synthetic_trace(seed=4, head_dim=64, prefill_tokens=40, decode_tokens=1)
    decide = accelerator_of("mnnfast").decide
    assert decide is not None
    machine = load_accelerator("mnnfast", {"fetch_skipped": False, "threshold": 1.0})
    work = decide(trace, machine).workload
    decoded = work["step"] > 0
    assert (work["values"][decoded] == 1).all()
    activity = simulate(work, machine, MEMORY)
    assert activity.dram_read_bytes["value"] > 0


@pytest.mark.parametrize("queries", [1, 3, 40])
def test_the_divider_is_the_last_to_work(queries: int) -> None:
    activity = run(dense(64, queries), kept_fraction=1.0)
    division = -(-queries * 64 // 8)
    modules = activity.modules
    assert modules["divider"].busy_cycles == division
    # One chunk: load, compute, divide, one after the other.
    assert activity.cycles == sum(module.busy_cycles for module in modules.values())
    assert modules["divider"].stall_cycles == {"no_sums": activity.cycles - division}


def test_books_timeline_operations_and_queues() -> None:
    trace = synthetic_trace(seed=4, head_dim=64, prefill_tokens=100, decode_tokens=2)
    machine = load_accelerator("mnnfast")
    decide = accelerator_of("mnnfast").decide
    assert decide is not None
    work = decide(trace, machine).workload
    recorder = Recorder()
    activity = simulate(work, machine, MEMORY, recorder=recorder)
    assert activity == simulate(work, machine, MEMORY)
    timeline = recorder.timeline
    for module, spans in timeline.module_activity().items():
        assert spans.busy_cycles == activity.modules[module].busy_cycles
        assert spans.stall_cycles == activity.modules[module].stall_cycles
    channels = timeline.spans[timeline.spans[:, TRACK] >= timeline.modules]
    assert channels[:, READS].sum() == activity.counters["dram_reads"]
    counters = activity.counters
    assert {name: module.operations for name, module in activity.modules.items()} == {
        "loader": sum(activity.dram_read_bytes.values()),
        "compute": counters["qk_macs"] + counters["pv_macs"],
        "divider": counters["divisions"],
    }
    assert {name: q.depth for name, q in activity.queues.items()} == {"chunks": 1, "sums": 1}
    assert activity.queues["chunks"].high_water == 1


def test_needs_tensors_or_a_fraction() -> None:
    with pytest.raises(WorkloadError, match="kept_fraction"):
        run(dense(64, 1))


def test_sizes_if_a_file_names_none() -> None:
    """Two channels of 32 GB/s; three pairs of chunks of 64 vectors of 64 elements."""
    given = {"kind": "mnnfast", "description": "x", "source": "x"}
    config = MnnFastConfig.model_validate(given)
    assert (config.channels, config.chunk_rows, config.element_bits) == (2, 64, 12)
    assert config.buffer_bytes == 3 * 2 * 64 * 64 * 12 / 8
    assert config.model_copy(update={"chunk_rows": 32}).buffer_bytes == 3 * 2 * 32 * 64 * 12 / 8
