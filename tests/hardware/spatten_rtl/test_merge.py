"""Ordering and merge alone, against cycles worked out from sections 2.12 and 3.1."""

from __future__ import annotations

from collections.abc import Callable

from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.merge import Merge
from accelsim.hardware.simulation import Clock, Follower, Port

Passes = Callable[..., list[KeyPass]]


class Bench:
    """A merge in front of a top-k stand-in that holds so many lines."""

    def __init__(self, env: Clock, rows: int, lines: int = 2048) -> None:
        self.decided: Port[KeyPass] = Port(env, "of the test")
        self.merged: Port[KeyPass] = Port(env, "of the test")
        self.running = Follower(Merge(rows, lines, self.decided, self.merged).run())

    def give(self, item: KeyPass, decided: int) -> None:
        item.decided = decided
        self.decided.put(item)

    @property
    def order(self) -> list[tuple[int, int]]:
        """Rows as they left, and the cycle of the first line."""
        return [(item.request.row, item.merged) for item in self.merged.items]


def test_rows_leave_in_the_order_of_requests_a_beat_a_cycle(env: Clock, passes_of: Passes) -> None:
    rows = passes_of([64, 32, 16], [32, 16, 8])
    bench = Bench(env, 3)
    # Row 0 is fetched again, so the others are decided first.
    bench.give(rows[1], 40)
    bench.give(rows[2], 100)
    assert bench.order == []
    bench.give(rows[0], 200)
    assert bench.order == [(0, 200), (1, 200 + 64), (2, 200 + 64 + 32)]
    assert rows[2].left_merge.cycle == 200 + 64 + 32 + 16
    assert not bench.running.is_alive


def test_a_row_that_keeps_everything_waits_for_the_value_side(
    env: Clock, passes_of: Passes
) -> None:
    rows = passes_of([64, 64])
    bench = Bench(env, 2)
    bench.give(rows[0], 50)
    bench.give(rows[1], 60)
    assert bench.order == [(0, 50)]
    assert not rows[0].left_merge.known
    rows[0].queued.announce(130)
    # Its last score has its place in cycle 130, after the 64 lines have passed.
    assert rows[0].left_merge.cycle == 130
    assert bench.order == [(0, 50), (1, 130)]


def test_rows_wait_while_the_stand_in_is_full(env: Clock, passes_of: Passes) -> None:
    """100 lines hold one row of 64 and 36 of the next."""
    rows = passes_of([64, 64, 16], [32, 32, 8])
    bench = Bench(env, 3, lines=100)
    for row in rows:
        bench.give(row, 50)
    assert bench.order == [(0, 50), (1, 50 + 64)]
    assert not rows[1].left_merge.known
    rows[0].dropped.announce(300)
    assert rows[1].left_merge.cycle == 300
    # 64 + 16 lines fit: the third does not wait.
    assert bench.order[2] == (2, 300)
    assert rows[2].left_merge.cycle == 300 + 16
