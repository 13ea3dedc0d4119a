"""Query x key alone, against cycles worked out from sections 2.8, 2.9 and 2.12."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accelsim.hardware.machines.spatten_rtl.fetch_kernel import KEY
from accelsim.hardware.machines.spatten_rtl.items import KeyPass, Matrix
from accelsim.hardware.machines.spatten_rtl.score_unit import ScoreUnit
from accelsim.hardware.simulation import Clock, Follower, Port

Passes = Callable[..., list[KeyPass]]


class Decision:
    """Takes each pass in a cycle that the test tells, at the earliest when it is offered."""

    def __init__(self, accepted: int, takes: list[int]) -> None:
        self.accepted, self.takes = accepted, takes
        self.offered: list[int] = []
        self.held: list[int] = []

    def decide(self, item: KeyPass, offered: int) -> int:
        self.offered.append(offered)
        return max(self.takes.pop(0) if self.takes else 0, offered)

    def hold_until(self, cycle: int) -> None:
        self.held.append(cycle)


class Bench:
    """A unit of one vector a line, or of more."""

    def __init__(
        self, env: Clock, log_width: int = 0, accepted: int = 0, takes: list[int] | None = None
    ) -> None:
        self.env = env
        self.passes: Port[KeyPass] = Port(env, "of the test")
        self.decision = Decision(accepted, takes or [])
        self.unit = ScoreUnit(env, log_width, self.passes, self.decision)
        self.running = Follower(self.unit.run())

    def give(self, item: KeyPass, issued: int, arrives: int | None = None) -> int | None:
        """Hand a pass on, with keys of which the last line comes in a cycle, or that are there;
        the cycle in which the last line is taken, if it is known by then."""
        item.issued = issued
        if arrives is not None:
            row, lines = item.request.row, item.score_lines
            item.matrix = Matrix(self.env, row, KEY, item.code, lines, issued)
            item.matrix.announce(arrives)
        self.passes.put(item)
        return item.scored.cycle


def test_keys_that_come_slower_than_a_line_a_cycle(env: Clock, passes_of: Passes) -> None:
    bench = Bench(env)
    assert bench.give(*passes_of([64]), issued=10, arrives=100) == 100
    assert bench.unit.activity.busy_cycles == 64
    assert bench.unit.activity.stall_cycles == {"no_keys": 10, "awaiting_keys": 90 - 64}


def test_keys_that_come_faster_take_a_cycle_a_line(env: Clock, passes_of: Passes) -> None:
    assert Bench(env).give(*passes_of([64]), issued=10, arrives=20) == 10 + 64


def test_keys_of_a_pair_are_there(env: Clock, passes_of: Passes) -> None:
    """Eight cycles to the first line of what is in the buffer already (2.8)."""
    first, second = passes_of([64, 64], key_bits=[6, 6])
    bench = Bench(env)
    bench.give(first, issued=10, arrives=90)
    assert bench.give(second, issued=90) == 90 + 8 + 64


@pytest.mark.parametrize(("log_width", "inside"), [(0, 8), (3, 8 + 2 * 3)])
def test_lines_stand_behind_those_that_are_not_accepted(
    env: Clock, passes_of: Passes, log_width: int, inside: int
) -> None:
    """All but those in the dot product and the maximum tree, 8 and twice log2 S (2.9)."""
    bench = Bench(env, log_width, accepted=1000)
    assert bench.give(*passes_of([64]), issued=10, arrives=20) == 1000 + 64 - inside


def test_two_passes_stand_before_the_decision(env: Clock, passes_of: Passes) -> None:
    first, second, third, fourth = passes_of([64] * 4)
    bench = Bench(env, takes=[500])
    assert bench.give(first, issued=10, arrives=20) == 74
    # The second is multiplied behind it, the last line when the first is taken.
    assert bench.give(second, issued=74, arrives=90) == 500
    # The third is offered when the first has gone from its place.
    assert bench.give(third, issued=500, arrives=510) == 564
    assert bench.give(fourth, issued=564, arrives=570) == 628
    assert bench.decision.offered == [74, 500, 564, 628]


def test_the_second_of_a_pair_stands_beside_the_first(env: Clock, passes_of: Passes) -> None:
    """It needs no fetch, and has its place while the decision is busy with the pass before."""
    first, second = passes_of([64, 64], key_bits=[6, 6])
    bench = Bench(env, takes=[500])
    bench.give(first, issued=10, arrives=20)
    assert bench.give(second, issued=74) == 74 + 8 + 64
    assert bench.decision.offered == [74, 74 + 8 + 64]


def test_a_decided_lsb_pass_stands_until_the_merge_has_let_it_go(
    env: Clock, passes_of: Passes
) -> None:
    """Nothing stands between the decision and the merge for it (2.12)."""
    first, other = passes_of([64, 64], refetch_lsb=[True, False])
    lsbs = KeyPass(env, first.request, first)
    bench = Bench(env)
    bench.give(first, issued=10, arrives=80)
    bench.give(lsbs, issued=80, arrives=160)
    assert bench.give(other, issued=160, arrives=240) == 240
    assert len(bench.decision.offered) == 2
    lsbs.left_merge.announce(400)
    assert bench.decision.held == [400]
    assert bench.decision.offered == [80, 160, 240]
