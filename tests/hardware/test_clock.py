"""The clock: the same order as SimPy's, with fewer events, and nothing left behind."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.simulation import Clock, FirstOf
from accelsim.validation._published_workloads import random_published_workload

WAITS = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4)


def order_of(sleepers: list[list[int]], passing: bool) -> list[tuple[int, int]]:
    """Who goes on when, if each process sleeps so many cycles one after the other."""
    clock = Clock()
    found: list[tuple[int, int]] = []

    def sleeper(number: int, waits: list[int]) -> Iterator[Any]:
        for wait in waits:
            if not (passing and wait and clock.passes(clock.now + wait)):
                yield clock.timeout(wait)
            found.append((clock.now, number))

    for number, waits in enumerate(sleepers):
        clock.process(sleeper(number, waits))  # type: ignore[arg-type]
    clock.run(until=clock.timeout(100))
    assert clock.now == 100
    return found


@given(WAITS)
def test_time_that_passes_without_an_event_changes_no_order(sleepers: list[list[int]]) -> None:
    assert order_of(sleepers, passing=True) == order_of(sleepers, passing=False)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12))
def test_calls_come_in_the_order_of_events(jobs: list[tuple[int, bool]]) -> None:
    """Of one cycle in that in which they were asked for, be they calls or events."""
    clock = Clock()
    found: list[int] = []
    for number, (cycle, as_event) in enumerate(jobs):
        if as_event:
            event: Any = clock.timeout(cycle)
            event.callbacks.append(lambda _, number=number: found.append(number))
        else:
            clock.call(cycle, lambda _, number=number: found.append(number))
    clock.run(until=clock.timeout(100))
    assert found == sorted(range(len(jobs)), key=lambda number: jobs[number][0])


def test_a_call_for_a_cycle_that_has_passed_is_made_now() -> None:
    clock = Clock()
    found: list[int] = []
    clock.call(7, lambda _: clock.call(3, lambda _: found.append(clock.now)))
    clock.run(until=clock.timeout(100))
    assert found == [7]
    assert clock.peek() == math.inf


def test_an_event_that_never_comes_is_an_error() -> None:
    clock = Clock()
    clock.timeout(3)
    with pytest.raises(RuntimeError, match="no event is left"):
        clock.run(until=clock.event())


def test_what_a_process_raises_comes_out() -> None:
    clock = Clock()

    def broken() -> Iterator[Any]:
        yield clock.timeout(1)
        raise ValueError("broken")

    clock.process(broken())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="broken"):
        clock.run(until=clock.timeout(9))


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_of_two_wakes_once(first: int) -> None:
    clock = Clock()
    found: list[int] = []
    cycles = (2, 5) if first == 0 else (5, 2)

    def waits() -> Iterator[Any]:
        yield FirstOf(clock.timeout(cycles[0]), clock.timeout(cycles[1]))
        found.append(clock.now)

    clock.process(waits())  # type: ignore[arg-type]
    clock.run(until=clock.timeout(9))
    assert found == [2]


@pytest.mark.parametrize("policy_seed", [3, 17])
def test_a_run_leaves_no_cyclic_garbage(policy_seed: int) -> None:
    """What rows hold is freed with the run: searching for it took a tenth of its time."""
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, "hbm2-nominal", "memories")
    workload = random_published_workload(policy_seed)
    simulate(workload, machine, memory)
    gc.collect()
    gc.disable()
    # Threads of other tests may leave something too, so what is found is looked at.
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        simulate(workload, machine, memory)
        gc.collect()
        found = Counter(type(item).__qualname__ for item in gc.garbage if is_of_a_run(item))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert found.total() < 20, found


def is_of_a_run(item: Any) -> bool:
    """Whether an object is of a machine, or of the simulation below it."""
    return type(item).__module__.startswith(("accelsim.hardware", "simpy"))
