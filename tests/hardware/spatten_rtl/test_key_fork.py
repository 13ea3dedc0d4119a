"""Allocator, arbiter and key fork alone, against cycles worked out from sections 2.3 to 2.5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelsim.hardware.machines.spatten_rtl.items import KeyPass, Matrix
from accelsim.hardware.machines.spatten_rtl.key_fork import KeyFork
from accelsim.hardware.simulation import Clock, Follower, Port

FIRST = 16 + 2
"""16 cycles after reset, and two from a request at the top to the fork (2.3, 2.5)."""
Passes = Callable[..., list[KeyPass]]


class Fetcher:
    """Takes all that it is asked for at once."""

    def __init__(self, env: Clock) -> None:
        self.env = env
        self.asked: list[tuple[int, int, int]] = []

    def ask(self, asker: Any, matrix: Matrix, transactions: Any, ready: int) -> tuple[()]:
        self.asked.append((self.env.now, ready, matrix.lines))
        return ()


class Addresses:
    """One transaction for whatever is asked for."""

    def keys(self, row: int) -> list[int]:
        return [row]

    key_lsbs = keys


class Bench:
    """A fork, and a dot product that takes the last line so many cycles after the fork."""

    def __init__(self, env: Clock, firsts: list[KeyPass], lines: int, scored: int) -> None:
        self.env, self.scored = env, scored
        self.fetcher = Fetcher(env)
        self.lsb_passes: Port[KeyPass] = Port(env, "of the test")
        self.passes: Port[KeyPass] = Port(env, "of the test")
        self.seen: list[KeyPass] = []
        requests = [first.request for first in firsts]
        self.fork = KeyFork(
            env, requests, lines, Addresses(), self.fetcher, self.lsb_passes, self.passes
        )
        Follower(self._multiply())

    def _multiply(self) -> Any:
        while True:
            yield self.passes
            item = self.passes.pop()
            self.seen.append(item)
            item.scored.announce(item.issued + self.scored)

    def run(self, until: int) -> list[int]:
        """Run, and tell when passes were issued."""
        self.env.process(self.fork.run())
        self.env.run(self.env.timeout(until))
        return [item.issued for item in self.seen]


def test_passes_follow_one_another_at_the_last_line(env: Clock, passes_of: Passes) -> None:
    bench = Bench(env, passes_of([64, 64, 64]), lines=2048, scored=70)
    assert bench.run(500) == [FIRST, FIRST + 70, FIRST + 140]
    # Four cycles from the fork to the address FIFOs (2.5); 64 keys are 64 lines.
    assert bench.fetcher.asked[0] == (FIRST, FIRST + 4, 64)
    assert bench.fork.activity.busy_cycles == FIRST + 3
    assert bench.fork.activity.stall_cycles == {"serial_key_fork": 2 * 69}


def test_a_request_waits_for_its_lines(env: Clock, passes_of: Passes) -> None:
    """Lines of 96 and of 104 keys do not go into 199 together."""
    bench = Bench(env, passes_of([96, 104]), lines=199, scored=10)
    env.call(300, lambda _: bench.seen[0].released.announce(310))
    assert bench.run(500) == [FIRST, 310]
    assert bench.fork.activity.stall_cycles["buffer_full"] == 310 - (FIRST + 1)


def test_sixteen_allocations_are_live_at_most(env: Clock, passes_of: Passes) -> None:
    bench = Bench(env, passes_of([8] * 17), lines=2048, scored=1)
    env.call(100, lambda _: bench.seen[0].released.announce(105))
    assert bench.run(500) == [*range(FIRST, FIRST + 16), 105]


def test_lsb_passes_go_first_but_what_is_presented_stays(env: Clock, passes_of: Passes) -> None:
    """A pass comes while the second request waits at the fork for the first (2.4)."""
    firsts = passes_of([64] * 3, refetch_lsb=[True, False, False])
    bench = Bench(env, firsts, lines=2048, scored=70)
    env.call(30, lambda _: bench.lsb_passes.put(KeyPass(env, bench.seen[0].request, bench.seen[0])))
    assert bench.run(500) == [FIRST, FIRST + 70, FIRST + 140, FIRST + 210]
    assert [(item.request.row, item.lsb_pass) for item in bench.seen] == [
        (0, False), (1, False), (0, True), (2, False)
    ]  # fmt: skip


def test_an_lsb_pass_needs_no_lines_of_its_own(env: Clock, passes_of: Passes) -> None:
    firsts = passes_of([64, 64], refetch_lsb=[True, False])
    bench = Bench(env, firsts, lines=64, scored=10)
    env.call(90, lambda _: bench.lsb_passes.put(KeyPass(env, bench.seen[0].request, bench.seen[0])))
    env.call(95, lambda _: bench.seen[0].released.announce(200))
    assert bench.run(500) == [FIRST, 90, 200]


def test_the_second_of_a_pair_asks_for_nothing(env: Clock, passes_of: Passes) -> None:
    """Heads of 6 bits share a fetch; the first takes the lines of both (2.3, 4.3)."""
    bench = Bench(env, passes_of([64, 64], key_bits=[6, 6]), lines=2048, scored=70)
    assert bench.run(500) == [FIRST, FIRST + 70]
    assert len(bench.fetcher.asked) == 1
    assert bench.fork.buffer.high_water == 2 * 64
    assert [item.matrix is None for item in bench.seen] == [False, True]
