"""Softmax and decision alone, against cycles worked out from sections 2.10, 2.11 and 2.16."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accelsim.hardware.machines.spatten_rtl.decision import Decision
from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.softmax import Softmax
from accelsim.hardware.simulation import Clock, Port

Passes = Callable[..., list[KeyPass]]


class Bench:
    """A decision with a softmax in front, and the arrows behind."""

    def __init__(self, env: Clock, log_width: int = 0) -> None:
        self.lsb_passes: Port[KeyPass] = Port(env, "of the test")
        self.decided: Port[KeyPass] = Port(env, "of the test")
        self.softmax = Softmax(env)
        self.block = Decision(env, log_width, self.softmax, self.lsb_passes, self.decided)


def test_the_softmax_is_a_wire(env: Clock, passes_of: Passes) -> None:
    softmax = Softmax(env)
    first, second = passes_of([64, 32])
    # Its last line has passed in the cycle in which it comes.
    assert softmax.pass_on(first, 100) == 101
    # A line a cycle: 32 lines behind the first row end in cycle 132.
    assert softmax.pass_on(second, 110) == 101 + 32
    assert softmax.activity.busy_cycles == 64 + 32


@pytest.mark.parametrize("log_width", [0, 3])
def test_the_first_decided_beat(env: Clock, passes_of: Passes, log_width: int) -> None:
    """10 and log2 S cycles after the last line (2.11); its lines are usable 5 later (2.16)."""
    bench = Bench(env, log_width)
    (item,) = passes_of([64])
    assert bench.block.decide(item, 100) == 100
    assert item.decided == 100 + 10 + log_width
    assert item.released.cycle == item.decided + 5
    assert list(bench.decided.items) == [item]
    assert bench.block.accepted == 100


def test_passes_leave_a_beat_a_cycle(env: Clock, passes_of: Passes) -> None:
    """The second, shorter one is decided when the first has left, and its scores wait for that."""
    bench = Bench(env)
    first, second = passes_of([64, 8])
    bench.block.decide(first, 100)
    assert bench.block.decide(second, 110) == 110
    assert second.decided == 110 + 64
    assert bench.block.accepted == 110 + 64 - 10
    # Until its last score is accepted there is no room for a third.
    (third,) = passes_of([64])
    assert bench.block.decide(third, 111) == 110 + 64 - 10 + 1


def test_an_lsb_pass_is_at_the_fork_two_cycles_later(env: Clock, passes_of: Passes) -> None:
    bench = Bench(env)
    (first,) = passes_of([64], refetch_lsb=[True])
    bench.block.decide(first, 100)
    assert not bench.decided.items
    assert not first.released.known
    env.run(env.timeout(100 + 10 + 1))
    assert not bench.lsb_passes.items
    env.run(env.timeout(1))
    (lsbs,) = bench.lsb_passes.items
    assert lsbs.lsb_pass
    # The keys of both planes are in the same lines, until the second pass is decided (4.1).
    assert bench.block.decide(lsbs, 200) == 200
    assert first.released.cycle == 200 + 10 + 5
    assert list(bench.decided.items) == [lsbs]


def test_it_takes_nothing_while_it_keeps_what_is_decided(env: Clock, passes_of: Passes) -> None:
    bench = Bench(env)
    first, second = passes_of([8, 8])
    bench.block.decide(first, 100)
    bench.block.hold_until(300)
    assert bench.block.decide(second, 150) == 300
    assert second.decided == 300 + 10
    assert bench.block.activity.stall_cycles["merge_busy"] == 300 - 101
