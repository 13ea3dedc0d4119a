"""Value fork, score queue and weighted sum alone, against cycles worked out from 2.14 and 2.15."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accelsim.hardware import load_accelerator
from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.top_k import TopKStandIn
from accelsim.hardware.machines.spatten_rtl.value_fork import ValueFork, Values
from accelsim.hardware.machines.spatten_rtl.value_unit import WeightedSumUnit
from accelsim.hardware.simulation import Clock, Port

EIGHTH = load_accelerator("spatten-rtl-eighth")
Passes = Callable[..., list[KeyPass]]


class Fetcher:
    """Knows at once in which cycle the last line of a matrix is taken: ``latency`` after asking,
    and one line a cycle."""

    def __init__(self, latency: int) -> None:
        self.latency = latency
        self.asked: list[tuple[int, int, int, int]] = []

    def ask(
        self, asker: Any, values: Values, transactions: Any, ready: int, spread: int, row_beats: int
    ) -> tuple[()]:
        self.asked.append((values.asked, ready, spread, row_beats))
        values.end = self.lines = values.lines
        self.first = values.asked + self.latency
        values.returned = self.first + values.lines - 1 - 14
        values.announce(self.first + values.lines - 1)
        return ()

    def taken(self, beat: int) -> int:
        assert beat < self.lines
        return self.first + beat


class Addresses:
    """One transaction for whatever is asked for."""

    def values(self, row: int) -> list[int]:
        return [row]


class Bench:
    """A value side at 1/8 scale (C = 4, S = 1) that gets its rows from the test."""

    def __init__(self, env: Clock, rows: list[KeyPass], buffer_lines: int = 2048) -> None:
        self.env, self.rows = env, rows
        self.fetcher = Fetcher(latency=50)
        self.merged: Port[KeyPass] = Port(env, "of the test")
        self.top_k = TopKStandIn(env)
        self.unit = WeightedSumUnit(env, 0, len(rows))
        self.fork = ValueFork(
            env,
            EIGHTH.model_copy(update={"buffer_lines": buffer_lines}),
            len(rows),
            64,
            Addresses(),
            self.fetcher,
            self.merged,
            self.top_k,
            self.unit,
        )

    def run(self, merged: list[int]) -> list[int]:
        """Run with rows that leave the merge in the given cycles; the responses."""
        for item, cycle in zip(self.rows, merged, strict=True):
            item.merged = cycle
            self.env.call(cycle, lambda _, item=item: self.merged.put(item))
        self.env.run(self.env.process(self.fork.run()))
        return self.unit.responses


def test_the_first_address_leaves_five_cycles_and_the_gather_behind_the_fork(
    env: Clock, passes_of: Passes
) -> None:
    bench = Bench(env, passes_of([32]))
    responses = bench.run([100])
    # Seven cycles to the fork; a row of four indexes is gathered in three more. Beats become ready
    # as their indexes do, a row in two fetch beats: eight bits are two transactions.
    assert bench.fetcher.asked == [(107, 107 + 3 + 5, 32, 2)]
    # The last line is taken in cycle 107 + 50 + 31; three stages behind (2.15).
    assert responses == [188 + 3]


def test_one_matrix_at_a_time(env: Clock, passes_of: Passes) -> None:
    """The next is asked for when the one before is written and its last line is in the read
    queue: 15 lines before the check, and 5 in the read pipeline (2.8, 2.14)."""
    bench = Bench(env, passes_of([32, 32]))
    responses = bench.run([100, 101])
    # Of 32 lines the last, taken in cycle 188, is written in 188 - 6.
    assert [asked for asked, *_ in bench.fetcher.asked] == [107, 182]
    assert responses == [191, 182 + 50 + 31 + 3]
    assert bench.fork.activity.stall_cycles["one_value_matrix"] == 2 * (182 - 108)


def test_the_second_of_a_pair_finds_its_values(env: Clock, passes_of: Passes) -> None:
    bench = Bench(env, passes_of([32, 32], key_bits=[6, 6], value_bits=[6, 6]))
    responses = bench.run([100, 101])
    assert len(bench.fetcher.asked) == 1
    # A line a cycle behind the first.
    assert responses == [191, 188 + 32 + 3]


@pytest.mark.parametrize(
    ("values", "queued"),
    [
        # A queue of 64 holds all of them at once.
        (64, 107),
        # The 65th has room when the first is multiplied, the 100th when the 36th is.
        (65, 107 + 50 + 1),
        (100, 107 + 50 + 36),
    ],
)
def test_scores_wait_for_values(env: Clock, passes_of: Passes, values: int, queued: int) -> None:
    """The score queue holds 16 C/S beats (2.14)."""
    (item,) = passes_of([104], [values])
    item = KeyPass(env, item.request._replace(prunes=0, value_lines=values, gathered_lines=values))
    Bench(env, [item]).run([100])
    assert item.queued.cycle == queued


def test_scores_of_further_queries_wait_for_lines_that_are_there(
    env: Clock, passes_of: Passes
) -> None:
    """Four queries take 32 lines each; half of their 128 scores are in the queue of 64."""
    (item,) = passes_of([32])
    item = KeyPass(env, item.request._replace(queries=4, value_lines=4 * 32))
    Bench(env, [item]).run([100])
    # The 64th line is taken 63 cycles after the first: 32 as they come, 32 that are there.
    assert item.queued.cycle == 107 + 50 + 63 + 1


@pytest.mark.parametrize(("buffer_lines", "waited"), [(128, 182 - 103), (2048, 0)])
def test_rows_that_stand_before_the_fork(
    env: Clock, passes_of: Passes, buffer_lines: int, waited: int
) -> None:
    """L/64 of them: of two places the first is free again in the cycle in which the second row
    leaves, 182 (see above); the fourth row comes to it in cycle 103."""
    bench = Bench(env, passes_of([32] * 4), buffer_lines)
    bench.run([100, 101, 102, 103])
    assert bench.top_k.activity.stall_cycles.get("value_side_busy", 0) == waited


@pytest.mark.parametrize("log_width", [0, 3])
def test_the_response_comes_behind_the_last_line(
    env: Clock, passes_of: Passes, log_width: int
) -> None:
    """3 and log2 S cycles after it (2.15); without a matrix a line a cycle."""
    (item,) = passes_of([64])
    unit = WeightedSumUnit(env, log_width, 1)
    free = unit.weigh(item.request, asked=10, issued=12, values=None)
    assert unit.responses == [12 + 64 + 3 + log_width]
    assert free == 12 + 64 - 20
    assert unit.activity.busy_cycles == 64
