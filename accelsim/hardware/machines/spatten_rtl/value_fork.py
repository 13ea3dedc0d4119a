"""Value fork and score queue (section 2.14)."""

from __future__ import annotations

from collections import deque

from accelsim.hardware.machines.spatten_rtl.addresses import AddressMap
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.facts import ATOM, SCORE_ROWS
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import VALUE
from accelsim.hardware.machines.spatten_rtl.fetcher import MatrixFetcher
from accelsim.hardware.machines.spatten_rtl.items import KeyPass, Matrix
from accelsim.hardware.machines.spatten_rtl.requests import Request
from accelsim.hardware.machines.spatten_rtl.top_k import TopKStandIn
from accelsim.hardware.machines.spatten_rtl.value_unit import WeightedSumUnit
from accelsim.hardware.simulation import Clock, Module, Pause, Port, Process
from accelsim.hardware.timeline import VALUES, Recorder, item_code

_GATHER_TO_FETCH = 5
"""From the value fork to the address FIFOs, plus rows gathered (2.14)."""


class ScoreQueue:
    """Scores between the value fork and the multipliers; one leaves when its value is multiplied.

    Args:
        lines: that it holds.
        fetcher: knows when lines of values were taken.
    """

    def __init__(self, lines: int, fetcher: MatrixFetcher) -> None:
        self.lines = lines
        self._fetcher = fetcher

    def last_enters(self, values: Values, taken: int) -> int:
        """Cycle in which the last score of more than it holds finds room.

        Args:
            values: matrix that has come.
            taken: cycle in which its last line is taken.
        """
        beats, lines = values.end - values.begin, values.item.request.value_lines
        waiting = lines - self.lines
        # Further queries take the lines that are there by then, one a cycle.
        later = max(waiting - values.lines + 1, 0)
        beat = values.begin + (waiting - later) * beats // values.lines
        room = self._fetcher.taken(beat) + later
        return min(room, max(taken, values.asked + lines))


class Values(Matrix):
    """The values of a request; with them it is known when its last score is in the score queue.

    Args:
        env: clock.
        item: whose they are.
        lines: buffer lines that they fill.
        asked: cycle in which they are asked for.
        queue: where its scores wait.
    """

    __slots__ = ("item", "queue")

    def __init__(
        self, env: Clock, item: KeyPass, lines: int, asked: int, queue: ScoreQueue
    ) -> None:
        row = item.request.row
        super().__init__(env, row, VALUE, item_code(row, VALUES), lines, asked)
        self.item, self.queue = item, queue

    def announce(self, cycle: int) -> None:
        """Tell the cycle in which the last line is taken; to what waits for scores first."""
        if not self.item.queued.known:
            self.item.queued.announce(self.queue.last_enters(self, cycle))
        super().announce(cycle)


class ValueFork(Module):
    """Asks for the values of one request after the other.

    The descriptors hold one matrix: the next is described when the one before has been written and
    read (2.14).

    Args:
        env: clock.
        config: of the machine.
        rows: requests in all.
        head_dim: elements of a vector.
        addresses: of the values.
        fetcher: asked for them.
        merged: in: from the merge, past the top-k stand-in.
        top_k: the stand-in.
        unit: multiplies the values.
        recorder: takes the timeline, if given.
    """

    def __init__(
        self,
        env: Clock,
        config: SpattenRtlConfig,
        rows: int,
        head_dim: int,
        addresses: AddressMap,
        fetcher: MatrixFetcher,
        merged: Port[KeyPass],
        top_k: TopKStandIn,
        unit: WeightedSumUnit,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(env, "value_fork", recorder)
        self._clock = env
        self._rows, self._head_dim = rows, head_dim
        self._addresses, self._fetcher = addresses, fetcher
        self._merged, self._top_k, self._unit = merged, top_k, unit
        row_beats = config.fetch_channels // config.vectors_per_line
        self._queue = ScoreQueue(SCORE_ROWS * row_beats, fetcher)
        # Beats of scores after the first in a row of indexes.
        self._gathered = row_beats - 1
        # Cycles in which the last rows left the queue before it.
        self._left = deque([0] * max(config.buffer_lines // 64, 2))

    def run(self) -> Process:
        """Ask for the values of request after request."""
        free = 0
        for _ in range(self._rows):
            if not self._merged.items:
                yield self._merged.filled()
            item = self._merged.pop()
            request = item.request
            leaves, arrives = self._top_k.search(item, self._left.popleft())
            self._left.append(max(leaves, free))
            asked = max(leaves, free, arrives, self._clock.now)
            self.turn_to(item_code(request.row, VALUES), free, asked, "no_probabilities")
            # The second of a fused pair finds its values in the buffer (4.3).
            fetches = request.value_part == 0
            fits = not fetches or request.value_lines <= self._queue.lines
            if fits:
                item.queued.announce(asked)
                self._top_k.drain(item, asked)
            yield from self.sleep_until(asked)
            values = None
            if fetches:
                values = Values(self._clock, item, request.gathered_lines, asked, self._queue)
                yield from self._ask(values, request)
            issued = self._clock.now
            self.worked(issued, 1)
            free = issued + 1
            if values is not None and not values.known:
                # It is known when they are there before they are.
                yield values.announced()
            if not fits:
                self._top_k.drain(item, asked)
            done = self._unit.weigh(request, asked, issued, values)
            self.stalled(free, done - free, "one_value_matrix")
            free = max(free, done)

    def _ask(self, values: Values, request: Request) -> Pause:
        # A row of indexes gathers one beat of scores a cycle; while it does, the arbiter stays with
        # this matrix (2.6, 2.14).
        ready = values.asked + self._gathered + _GATHER_TO_FETCH
        transactions = self._addresses.values(request.row)
        row_bits = request.value_bits * request.value_fused * self._head_dim
        row_beats = -(-row_bits // (8 * ATOM))
        return self._fetcher.ask(self, values, transactions, ready, values.lines, row_beats)
