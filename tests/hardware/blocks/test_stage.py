"""Stages, queues and dataflows against a plain recurrence of a line with blocking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks.stage import Stage
from accelsim.hardware.invariants import check
from accelsim.hardware.simulation import Block, Dataflow, Item, Process, Queue, Wire
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload


@dataclass(frozen=True)
class Job(Item):
    cycles: tuple[int, ...]


class Source(Block):
    """Gives each job in its cycle, or later."""

    def __init__(self, flow: Dataflow, sink: Queue[Job], jobs: list[Job], times: list[int]) -> None:
        super().__init__(flow, "source", outputs=(sink,))
        self.sink, self.jobs, self.times = sink, jobs, times

    def run(self) -> Process:
        for job, time in zip(self.jobs, self.times, strict=True):
            yield from self.wait(self.env.timeout(max(time - int(self.env.now), 0)), "waiting")
            yield from self.give(self.sink, job, "full")


def workload(rows: int) -> Workload:
    return Workload.from_columns(
        {"keys": [1] * rows, "values": [1] * rows, "key_bits": [8] * rows, "value_bits": [8] * rows}
    )


def line(
    service: list[tuple[int, ...]], times: list[int], depths: list[int], recorder: Recorder | None
) -> tuple[Dataflow, Activity]:
    """A source and one stage behind each queue."""
    flow = Dataflow(workload(len(service)), 1e9, recorder)
    queues = [flow.queue(f"q{k}", depth) for k, depth in enumerate(depths)]
    jobs = [Job(i, True, cycles) for i, cycles in enumerate(service)]
    Source(flow, queues[0], jobs, times)
    for k, queue in enumerate(queues):
        Stage[Job](
            flow,
            f"stage{k}",
            queue,
            queues[k + 1] if k + 1 < len(queues) else None,
            cycles=lambda job, k=k: job.cycles[k],
            operations=lambda job, k=k: 3 * job.cycles[k],
            peak=3,
        )
    return flow, flow.run()


def reference(service: list[tuple[int, ...]], times: list[int], depths: list[int]) -> int:
    """Cycle in which the last stage is done with the last job.

    ``taken[k][i]``: stage k takes job i; ``given[k][i]``: job i is put into queue k, which needs
    job i - depth to have been taken out of it.
    """
    n, stages = len(service), len(depths)
    taken = np.zeros((stages, n), int)
    given = np.zeros((stages + 1, n), int)
    for i in range(n):
        for k in range(stages + 1):
            ready = times[i] if k == 0 else taken[k - 1, i] + service[i][k - 1]
            before = given[k, i - 1] if i else 0
            room = taken[k, i - depths[k]] if k < stages and i >= depths[k] else 0
            given[k, i] = max(ready, before, room)
            if k < stages:
                taken[k, i] = max(given[k, i], given[k + 1, i - 1] if i else 0)
    return int(given[stages, -1])


@settings(deadline=None, max_examples=150)
@given(data=st.data(), stages=st.integers(1, 4), jobs=st.integers(1, 12))
def test_a_line_of_stages_follows_the_recurrence(
    data: st.DataObject, stages: int, jobs: int
) -> None:
    cycles = st.tuples(*[st.integers(0, 9)] * stages)
    service = data.draw(st.lists(cycles, min_size=jobs, max_size=jobs))
    times = sorted(data.draw(st.lists(st.integers(1, 30), min_size=jobs, max_size=jobs)))
    depths = data.draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages))
    recorder = Recorder()
    flow, activity = line(service, times, depths, recorder)
    assert activity.cycles == reference(service, times, depths)
    check(activity, flow.workload)
    for k, depth in enumerate(depths):
        work = sum(job[k] for job in service)
        module = activity.modules[f"stage{k}"]
        assert (module.busy_cycles, module.operations) == (work, 3 * work)
        assert 1 <= activity.queues[f"q{k}"].high_water <= depth
    recorded = recorder.timeline.module_activity()
    for name, module in recorded.items():
        assert module.busy_cycles == activity.modules[name].busy_cycles
        assert module.stall_cycles == activity.modules[name].stall_cycles


def test_stalls_are_charged_to_what_is_missing() -> None:
    _, activity = line([(2, 5), (2, 5), (2, 5)], [3, 3, 3], [1, 1], None)
    assert activity.modules["stage0"].stall_cycles == {
        "no_source": 3, "next_module_busy": 1, "idle": 10
    }  # fmt: skip
    assert activity.modules["stage1"].stall_cycles == {"no_stage0": 5}
    assert activity.queues["q1"].high_water == 1


def test_high_water_is_the_most_that_waited() -> None:
    _, activity = line([(9,)] * 5, [0] * 5, [3], None)
    assert activity.queues["q0"].high_water == 3
    _, activity = line([(1,)] * 5, [0, 2, 4, 6, 8], [3], None)
    assert activity.queues["q0"].high_water == 1


def test_wiring_is_that_of_the_blocks() -> None:
    flow, _ = line([(1, 1)], [0], [2, 4], None)
    assert flow.wiring() == [
        Wire("source", "stage0", "q0", 2),
        Wire("stage0", "stage1", "q1", 4),
    ]


def test_blocks_that_wait_for_one_another_are_named() -> None:
    flow = Dataflow(workload(2), 1e9)
    first, second = flow.queue("first"), flow.queue("second")
    Source(flow, first, [Job(0, True, ()), Job(1, True, ())], [0, 0])
    # The stage releases what nobody claimed, and nobody takes what it gives.
    Stage[Job](flow, "stage", first, second, cycles=lambda job: 1, operations=lambda job: 1, peak=1)
    with pytest.raises(SimulationError, match=r"no progress after cycle 2; waiting: stage"):
        flow.run()


def test_a_consumer_that_waits_is_told_that_nothing_comes() -> None:
    flow = Dataflow(workload(2), 1e9)
    first, second = flow.queue("first"), flow.queue("second")
    Source(flow, first, [Job(0, True, ()), Job(1, True, ())], [0, 0])
    unit = {"operations": lambda job: 1, "peak": 1}
    Stage[Job](
        flow, "filter", first, second, cycles=lambda job: 7,
        forward=lambda job: job if job.row == 0 else None, **unit,
    )  # fmt: skip
    Stage[Job](flow, "sink", second, cycles=lambda job: 1, **unit)
    activity = flow.run()
    assert activity.cycles == 14
    # It had its one item in cycle 7, and waited for another until the filter had ended.
    assert activity.modules["sink"].stall_cycles == {"no_filter": 7 + 6}
