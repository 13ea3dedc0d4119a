"""The two allocators of buffers against lists of what is inside."""

from __future__ import annotations

from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.hardware.blocks.buffer_pool import BufferPool
from accelsim.hardware.blocks.ring_buffer import RingBuffer
from accelsim.hardware.simulation import Follower, Milestone

LINES = 8
JOBS = st.lists(
    st.tuples(st.integers(1, LINES), st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=30
)
"""Lines of a matrix, cycles in which it is used, cycles before the next one comes."""


@given(JOBS, st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_a_ring_gives_lines_back_in_order(jobs: list[tuple[int, int, int]], most: int) -> None:
    env = simpy.Environment()
    ring = RingBuffer(LINES, most)
    starts: list[int] = []

    def fork() -> Any:
        for lines, used, gap in jobs:
            while (in_the_way := ring.in_the_way(lines)) is not None:
                yield in_the_way.awaited()
            released = Milestone(env)
            ring.allocate(lines, released)
            starts.append(int(env.now))
            # Known ahead, as by the blocks that run ahead of time.
            released.announce(int(env.now) + used)
            yield env.timeout(gap)

    env.run(env.process(fork()))
    expected: list[int] = []
    leaves: list[tuple[int, int]] = []
    now = marks = matrices = 0
    for lines, used, gap in jobs:
        # Lines come back in order: behind a matrix that stays, those of the next ones stay too.
        while True:
            inside = leaves[
                next((i for i, (_, end) in enumerate(leaves) if end > now), len(leaves)) :
            ]
            if len(inside) < most and sum(size for size, _ in inside) + lines <= LINES:
                break
            now = inside[0][1]
        leaves.append((lines, now + used))
        expected.append(now)
        marks = max(marks, sum(size for size, _ in inside) + lines)
        matrices = max(matrices, len(inside) + 1)
        now += gap
    assert starts == expected
    assert (ring.high_water, ring.most_matrices) == (marks, matrices)


@given(JOBS, st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_a_pool_gives_lines_back_as_they_come(jobs: list[tuple[int, int, int]], most: int) -> None:
    env = simpy.Environment()
    pool = BufferPool(env, LINES, most)
    found: list[int] = []

    def take() -> Any:
        for lines, _, _ in jobs:
            while (cycle := pool.reserve(lines)) is None:
                yield pool.returned
            found.append(cycle)

    follower = Follower(take())
    # Releases in the order of time, each of a matrix that is inside.
    inside: list[tuple[int, int]] = []
    free: list[int] = []
    now, since, marks, matrices = 0, 0, 0, 0
    waiting = [lines for lines, _, _ in jobs]
    while waiting:
        while len(inside) == most or sum(size for size, _ in inside) + waiting[0] > LINES:
            order = jobs[len(free)][2] % len(inside)
            lines, _ = inside.pop(order)
            now += jobs[len(free)][1]
            pool.release(lines, now)
            since = now
        inside.append((waiting.pop(0), 0))
        free.append(since)
        marks = max(marks, sum(size for size, _ in inside))
        matrices = max(matrices, len(inside))
    assert not follower.is_alive
    assert found == free
    assert (pool.high_water, pool.most_matrices) == (marks, matrices)


def test_a_pool_lends_nothing_that_it_has_not() -> None:
    pool = BufferPool(simpy.Environment(), LINES, 2)
    pool.allocate(LINES - 1)
    assert pool.fits(1)
    assert not pool.fits(2)
    pool.allocate(1)
    assert not pool.fits(0)
    pool.release(1, 7)
    assert not pool.fits(1)
    pool.take_back()
    assert pool.since == 7
    assert pool.fits(1)


def test_what_a_release_leaves_is_not_there_before_it() -> None:
    pool = BufferPool(simpy.Environment(), LINES, 3)
    found: list[int] = []

    def take() -> Any:
        for lines in (LINES, 2, 1):
            while (cycle := pool.reserve(lines)) is None:
                yield pool.returned
            found.append(cycle)

    Follower(take())
    pool.release(LINES, 7)
    assert found == [0, 7, 7]


@pytest.mark.parametrize("known", [True, False])
def test_a_ring_waits_for_the_oldest(known: bool) -> None:
    env = simpy.Environment()
    ring = RingBuffer(LINES, 4)
    first, second = Milestone(env), Milestone(env)
    ring.allocate(LINES // 2, first)
    ring.allocate(LINES // 2, second)
    second.announce(0)
    if known:
        first.announce(5)
    assert ring.in_the_way(1) is first
    env.run(until=10)
    if not known:
        first.announce(10)
    assert ring.in_the_way(LINES) is None
