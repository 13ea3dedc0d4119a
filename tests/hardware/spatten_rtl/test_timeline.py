"""Timelines of both engines: the same run, every cycle told once, sums that are the activity's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.errors import AccelsimError, ConfigError
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.hardware.timeline import (
    END,
    ITEM,
    NO_ITEM,
    PASSES,
    READS,
    START,
    STATE,
    TRACK,
    UNKNOWN,
    Recorder,
    Timeline,
    parse_window,
)
from accelsim.validation._published_workloads import random_published_workload
from accelsim.validation.engines import random_workload
from accelsim.workloads import Workload

MACHINES = {name: load_accelerator(name) for name in ("spatten-rtl-eighth", "spatten-rtl")}
PAPER = load_accelerator("spatten-paper")
REFETCHED = Workload.from_columns(
    {
        "keys": [200] * 4, "values": [64] * 4, "key_bits": [8] * 4, "value_bits": [8] * 4,
        "refetch_lsb": [True] * 4, "layer": [3] * 4, "head": [4, 5, 6, 7],
    }
)  # fmt: skip


def recorded(
    workload: Workload,
    machine: AcceleratorConfig,
    engine: str,
    window: tuple[int | None, int | None] = (None, None),
) -> tuple[Activity, Timeline]:
    memory = load(MemoryConfig, machine.memory, "memories")
    recorder = Recorder(window)
    return simulate(workload, machine, memory, engine, recorder), recorder.timeline


def check(activity: Activity, timeline: Timeline) -> None:
    """Everything that holds for every run, whole or in a window."""
    first, last = timeline.window
    assert set(timeline.tracks[: timeline.modules]) == set(activity.modules)
    for number in range(len(timeline.tracks)):
        rows = timeline.spans[timeline.spans[:, TRACK] == number]
        assert (rows[:, END] > rows[:, START]).all()
        assert (rows[1:, START] >= rows[:-1, END]).all(), "spans overlap"
        if len(rows):
            assert rows[0, START] >= first
            assert rows[-1, END] <= last
    if (first, last) == (0, activity.cycles):
        told = {n: (m.busy_cycles, m.stall_cycles) for n, m in timeline.module_activity().items()}
        assert told == {n: (m.busy_cycles, m.stall_cycles) for n, m in activity.modules.items()}
        channels = timeline.spans[timeline.spans[:, TRACK] >= timeline.modules]
        spilled = activity.dram_read_bytes.get("spill", 0) // 32  # these take no turn
        assert channels[:, READS].sum() == activity.counters["dram_reads"] - spilled
    for name, module in activity.modules.items():
        total = module.busy_cycles + sum(module.stall_cycles.values())
        assert total == activity.cycles, name
        assert all(cycles > 0 for cycles in module.stall_cycles.values())


SEEDS = st.integers(0, 10_000)


@settings(max_examples=15, deadline=None)
@given(
    seed=SEEDS, name=st.sampled_from(sorted(MACHINES)), engine=st.sampled_from(["event", "cycle"])
)
def test_every_cycle_of_every_module_is_told_once(seed: int, name: str, engine: str) -> None:
    workload, machine = random_workload(seed), MACHINES[name]
    activity, timeline = recorded(workload, machine, engine)
    check(activity, timeline)
    memory = load(MemoryConfig, machine.memory, "memories")
    plain = simulate(workload, machine, memory, engine)
    assert plain.cycles == activity.cycles
    assert plain.completion_cycles == activity.completion_cycles
    assert plain.counters == activity.counters
    if engine == "event":
        assert plain.modules == activity.modules


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, parallelism=st.sampled_from([2, 8]), depth=st.sampled_from([0, 2]))
def test_modules_of_the_published_machine_add_up(seed: int, parallelism: int, depth: int) -> None:
    machine = PAPER.model_copy(
        update={"softmax_parallelism": parallelism, "key_prefetch_depth": depth}
    )
    workload = random_published_workload(seed)
    activity, timeline = recorded(workload, machine, "event")
    check(activity, timeline)
    memory = load(MemoryConfig, machine.memory, "memories")
    plain = simulate(workload, machine, memory)
    assert plain.completion_cycles == activity.completion_cycles
    assert plain.modules == activity.modules


@pytest.mark.parametrize("engine", ["event", "cycle"])
def test_items_are_named_and_do_their_work(engine: str) -> None:
    activity, timeline = recorded(REFETCHED, MACHINES["spatten-rtl-eighth"], engine)
    spans = timeline.spans
    names = {timeline.label(item) for item in spans[spans[:, ITEM] != NO_ITEM, ITEM].tolist()}
    assert names == {f"L3 H{head} {part}" for head in (4, 5, 6, 7) for part in PASSES}
    # One line a cycle: 200 keys twice, 64 values, for each of four requests.
    assert activity.modules["qk_unit"].busy_cycles == pytest.approx(4 * 2 * 200, rel=0.02)
    assert activity.modules["pv_unit"].busy_cycles == pytest.approx(4 * 64, rel=0.1)
    last = spans[:, TRACK] == timeline.tracks.index("pv_unit")
    ends = {
        row: int(spans[last & (spans[:, ITEM] >> 2 == row) & (spans[:, STATE] == 0), END].max())
        for row in range(4)
    }
    # Broadcast, multiplier and accumulator registers after the last line (2.15).
    assert [activity.completion_cycles[row] - ends[row] for row in range(4)] == pytest.approx(
        [3] * 4, abs=1
    )


def test_the_serial_key_fork_shows() -> None:
    for engine, reason in (("event", "serial_key_fork"), ("cycle", "key_fork_busy")):
        activity, _ = recorded(REFETCHED, MACHINES["spatten-rtl-eighth"], engine)
        assert activity.modules["allocator"].stall_cycles[reason] > activity.cycles / 2


def test_channels_owe_keys_before_values() -> None:
    _, timeline = recorded(REFETCHED, MACHINES["spatten-rtl"], "cycle")
    rows = timeline.spans[timeline.spans[:, TRACK] == timeline.tracks.index("DRAM channel 0")]
    of_first = [PASSES[item & 3] for item in rows[rows[:, ITEM] >> 2 == 0, ITEM].tolist()]
    assert list(dict.fromkeys(of_first)) == ["keys MSB", "keys LSB", "values"]


@pytest.mark.parametrize("engine", ["event", "cycle"])
def test_a_window_is_a_part_of_the_whole(engine: str) -> None:
    machine = MACHINES["spatten-rtl-eighth"]
    activity, whole = recorded(REFETCHED, machine, engine)
    start, end = 300, 900
    again, part = recorded(REFETCHED, machine, engine, (start, end))
    check(again, part)
    assert part.window == (start, end)
    assert again.modules == activity.modules
    clipped = whole.spans[(whole.spans[:, START] < end) & (whole.spans[:, END] > start)].copy()
    cut = (clipped[:, START] < start) | (clipped[:, END] > end)
    clipped[cut & (clipped[:, TRACK] >= whole.modules), READS] = UNKNOWN
    clipped[:, [START, END]] = clipped[:, [START, END]].clip(start, end)
    assert np.array_equal(part.spans, clipped)
    for module in part.module_activity().values():
        assert module.busy_cycles + sum(module.stall_cycles.values()) == end - start
    assert recorded(REFETCHED, machine, engine, (300, None))[1].window == (300, activity.cycles)


@pytest.mark.parametrize("text", ["", "7", "a:b", "1:2:3", "0:1e3", "1.5:2"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(AccelsimError, match="expected START:END in cycles"):
        parse_window(text)


@pytest.mark.parametrize("window", [(5, 5), (9, 3), (-1, 4), (None, 0)])
def test_windows_without_cycles(window: tuple[int | None, int | None]) -> None:
    with pytest.raises(AccelsimError, match="0 <= START < END"):
        Recorder(window)


def test_a_window_after_the_end() -> None:
    with pytest.raises(AccelsimError, match="the run ends at cycle"):
        recorded(REFETCHED, MACHINES["spatten-rtl-eighth"], "event", (10**9, None))


def test_kinds_without_a_timeline_say_so() -> None:
    machine = load_accelerator("spatten-e2e")
    memory = load(MemoryConfig, machine.memory, "memories")
    with pytest.raises(ConfigError, match=r"'spatten-e2e' records no timeline \(kinds that do: a3"):
        simulate(REFETCHED, machine, memory, recorder=Recorder())
