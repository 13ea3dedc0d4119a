"""Loader: order and time of transfers, buffers, bytes; its channels in a timeline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks.bulk_reads import BulkReads
from accelsim.hardware.blocks.loader import Load, Loader, Read
from accelsim.hardware.blocks.stage import Stage
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.invariants import check
from accelsim.hardware.simulation import Dataflow, Item
from accelsim.hardware.timeline import END, READS, START, TRACK, Recorder
from accelsim.workloads import Workload

MEMORY = load(MemoryConfig, "hbm2-nominal", "memories")


def run(
    sizes: list[int], work: int, buffers: int | None = None, recorder: Recorder | None = None
) -> tuple[Activity, Loader]:
    """One transfer and one item a row, then a stage."""
    rows = len(sizes)
    ones = [1] * rows
    table = {"keys": ones, "values": ones, "key_bits": [8] * rows, "value_bits": [8] * rows}
    flow = Dataflow(Workload.from_columns(table), 1e9, recorder)
    items = flow.queue("items", 1)
    srams = None if buffers is None else flow.queue("srams", buffers)
    orders = (
        Load(row, (Read("value", 4096 * row, size),), Item(row, True), buffers is not None)
        for row, size in enumerate(sizes)
    )
    loader = Loader(flow, "loader", orders, BulkReads(2, MEMORY, 1e9, recorder), items, srams)
    cost = {"cycles": lambda item: work, "operations": lambda item: work}
    Stage[Item](flow, "unit", items, **cost, peak=1, releases=srams)
    activity = flow.run()
    loader.count(activity)
    check(activity, flow.workload)
    return activity, loader


def reference(sizes: list[int], work: int, buffers: int | None) -> int:
    """The same in plain steps: transfers in order, each after the one before was handed on."""
    dram = BulkReads(2, MEMORY, 1e9)
    now = 0
    taken: list[int] = []
    done: list[int] = []
    for i, size in enumerate(sizes):
        if buffers is not None and i >= buffers:
            now = max(now, done[i - buffers])
        now, _ = dram.read(4096 * i, size, now)
        now = max(now, taken[-1] if taken else 0)
        taken.append(max(now, done[-1] if done else 0))
        done.append(taken[-1] + work)
    return done[-1]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 4096), min_size=1, max_size=8),
    work=st.integers(0, 200),
    buffers=st.sampled_from([None, 1, 2, 3]),
)
def test_time_and_bytes(sizes: list[int], work: int, buffers: int | None) -> None:
    recorder = Recorder()
    activity, loader = run(sizes, work, buffers, recorder)
    assert activity.cycles == reference(sizes, work, buffers)
    bursts = sum(-(-size // 32) for size in sizes)
    assert activity.dram_read_bytes["value"] == loader.operations == 32 * bursts
    assert activity.counters["dram_reads"] == bursts
    timeline = recorder.timeline
    channels = timeline.spans[timeline.spans[:, TRACK] >= timeline.modules]
    assert channels[:, READS].sum() == bursts
    for number in set(channels[:, TRACK].tolist()):
        rows = channels[channels[:, TRACK] == number]
        assert (rows[1:, START] >= rows[:-1, END]).all()
    for name, module in timeline.module_activity().items():
        assert module.stall_cycles == activity.modules[name].stall_cycles


def test_one_buffer_reads_nothing_ahead_and_two_do() -> None:
    one, _ = run([3200] * 6, 100, 1)
    two, _ = run([3200] * 6, 100, 2)
    free, _ = run([3200] * 6, 100)
    assert one.modules["loader"].stall_cycles["sram_in_use"] == pytest.approx(500, abs=5)
    assert one.modules["unit"].busy_cycles + one.modules["loader"].busy_cycles == one.cycles
    assert two.cycles < one.cycles - 200
    assert free.cycles <= two.cycles
    assert (one.queues["srams"].high_water, two.queues["srams"].high_water) == (1, 2)
