"""Books of a block: every cycle is busy or stalled, once."""

from __future__ import annotations

import pytest
import simpy

from accelsim.hardware.simulation import Module


@pytest.mark.parametrize(
    ("start", "end", "work", "busy", "stalled"),
    [(10, 15, 5, 5, 0), (10, 15, 2, 2, 3), (10, 15, 0, 0, 5), (10, 15, 7, 5, 0), (10, 10, 0, 0, 0)],
)
def test_work_on_arrivals_is_the_end_of_the_time_it_took(
    start: int, end: int, work: int, busy: int, stalled: int
) -> None:
    module = Module(simpy.Environment(), "dot_product")
    module.worked_on_arrivals(start, end, work, "awaiting_keys")
    assert module.activity.busy_cycles == busy
    assert module.activity.stall_cycles == ({"awaiting_keys": stalled} if stalled else {})
    assert busy + stalled == end - start
