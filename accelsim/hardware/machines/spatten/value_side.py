"""Value side: the fork that asks for values, and the weighted sum of late rows (section 8)."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import simpy
from simpy.events import EventPriority

from accelsim.hardware.blocks.buffer_pool import BufferPool
from accelsim.hardware.blocks.matrix_fetcher import Matrix, MatrixFetcher
from accelsim.hardware.blocks.weighted_sum import WeightedSum
from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.items import Again, Row, Values
from accelsim.hardware.machines.spatten.key_side import FORK_TO_FETCH
from accelsim.hardware.machines.spatten.order import LayerOrder
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.requests import Requests
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.simulation import Clock, Milestone, Module, Port, Stream
from accelsim.hardware.simulation._module import Following, Process
from accelsim.hardware.timeline import VALUES, Recorder, item_code
from accelsim.jit import direct

VALUES_TO_FETCH = 5
"""From the value fork to the address FIFOs (release, section 2.14)."""
_LEAVES = VALUES_TO_FETCH - FORK_TO_FETCH
"""Cycles until a request is as far from the fetcher as one that leaves the key fork."""
_AFTER_KEYS = EventPriority(2)
"""Priority of what comes after all else of its cycle: keys go first."""
_WHOLE_ROW = 1 << 40
"""Tile of a query whose keys are all in one."""

Knowing = Generator[Milestone | Stream, None, None]
"""Part of a follower; see :class:`accelsim.hardware.simulation.Follower`."""


class ValueFork(Module):
    """Asks for value tiles: of early rows behind their keys, of others when they are needed.

    Args:
        env: clock.
        plan: of the run.
        requests: transactions of the tiles.
        fetcher: asked for them.
        early: in: value tiles of early rows, from the key fork.
        kept_rows: in: two-pass rows whose values are known.
        slotless: in: value tiles that the key fork saw and that have no place in the buffer yet.
        tiles: out: tiles to the weighted sum, but for those of early rows.
        recorder: takes the timeline, if given.

    Attributes:
        buffer: of values.
        operations: tiles that were asked for.
    """

    def __init__(
        self,
        env: Clock,
        plan: Plan,
        requests: Requests,
        fetcher: MatrixFetcher,
        early: Port[Values],
        kept_rows: Port[Row],
        slotless: deque[Values],
        tiles: Port[Values | Again],
        recorder: Recorder | None,
    ) -> None:
        super().__init__(env, "value_fork", recorder)
        self._clock = env
        self._requests, self._fetcher = requests, fetcher
        self._early, self._kept_rows, self._tiles = early, kept_rows, tiles
        self._slotless = slotless
        lines, depth = plan.config.buffer_lines, plan.config.value_prefetch_depth
        self.buffer = BufferPool(env, lines, 1 + depth)
        self.operations = 0
        self._asked = -1
        # Cycle in which the last two-pass row took its last slot.
        self._kept_until = 0
        # Late tiles whose weighted sum is not known yet.
        self._unweighed: deque[Values | Again] = deque()
        self._slot_taken: simpy.Event | None = None

    def run(self) -> Process:
        """Ask for the values of early rows, as far as the buffer has room."""
        env, returned = self._clock, self.buffer.returned
        while True:
            if not self._early.items:
                yield self._early.filled()
            values = self._early.pop()
            row = values.row
            while self._slotless and self._slotless[0].row.index < row.index:
                # A late row before it must find a slot first.
                self._slot_taken = env.event()
                yield self._slot_taken
            while not self.buffer.fits(values.lines):
                if not returned.items:
                    yield returned.filled()
                    continue
                yield from self.sleep_until(returned.items[0][1])
                self.buffer.take_back()
            self.buffer.allocate(values.lines)
            # A row before it may have taken its slot ahead of time.
            yield from self.sleep_until(max(self.buffer.since, self._kept_until))
            left = env.event()
            left._ok, left._value = True, None
            env.schedule(left, priority=_AFTER_KEYS, delay=_LEAVES)
            yield left
            self._ask(values)
            values.filtered.announce(0)

    def place_kept(self) -> Following:
        """Slots of the value tiles of two-pass rows, and of those that follow, one after the
        other."""
        while True:
            yield self._kept_rows
            row = self._kept_rows.pop()
            if row.two_pass:
                kept, first = row.kept.cycle, 0
                assert kept is not None
            else:
                kept, first = row.slots[row.final].ready, row.final + 1
            for tile in range(first, row.value_tiles):
                values = row.slots.setdefault(tile, Values(self.env, row, tile))
                yield from self.take_slot(values)
                self._kept_until = max(kept, values.slot or 0)
                values.ready = kept
                values.filtered.announce(0)
                self.ask_late(values)
            row.slotted.announce(kept)

    @property
    def weighs_late(self) -> bool:
        """Whether the weighted sum of a late row is not known yet."""
        return bool(self._unweighed) and not self._unweighed[-1].weighed.known

    def find_slot(self, values: Values) -> bool:
        """Lines of the value buffer for a tile, ahead of time, if enough releases are known.

        Returns:
            Whether it has them.
        """
        if values.slot is not None:
            return True
        values.slot = self.buffer.reserve(values.lines)
        if values.slot is None:
            return False
        if values in self._slotless:
            self._slotless.remove(values)
            if self._slot_taken is not None:
                waiting, self._slot_taken = self._slot_taken, None
                waiting.succeed()
        return True

    def take_slot(self, values: Values) -> Knowing:
        """Wait until enough releases are known for :meth:`find_slot`."""
        while not self.find_slot(values):
            yield self.buffer.returned

    def ask_late(self, item: Values | Again) -> None:
        """Ask for a tile in the cycle in which it is ready and has its slot.

        Queries of an LSB pass ask for nothing; they follow their tile to the weighted sum.
        """
        slot = item.slot if isinstance(item, Values) else item.values.slot
        item.ready = max(item.ready, slot or 0)
        self._unweighed.append(item)
        self._clock.call(item.ready + _LEAVES, lambda _: self._leave_late(item), _AFTER_KEYS)

    def await_early(self, values: Values) -> Knowing:
        """Until it is known when the values of an early row are there, and the weighted sum of all
        late rows before."""
        while self._unweighed:
            yield self._unweighed[0].weighed
            self._unweighed.popleft()
        yield values.filtered
        yield values.matrix

    def release(self, values: Values, cycle: int) -> None:
        """Give the lines of a tile back from a cycle on."""
        self.buffer.release(values.lines, cycle)

    def _leave_late(self, item: Values | Again) -> None:
        if isinstance(item, Values):
            self._ask(item)
        self._tiles.put(item)

    def _ask(self, values: Values) -> None:
        # One matrix a cycle.
        now = self._asked = max(self._clock.now, self._asked + 1)
        self.item = code = item_code(values.row.index, VALUES)
        values.matrix = matrix = Matrix(self._clock, code, now)
        count, used = self._requests.values(values)
        matrix.transactions = count
        self._requests.ask(self._fetcher, matrix, count, used, now + FORK_TO_FETCH, values.spread)
        self.operations += 1
        self.worked(now, 1)


class WeightedSumUnit:
    """Probability x value of late rows, in the order in which their values are asked for.

    Args:
        plan: of the run.
        weighted_sum: the array; early rows enter it from the softmax, see ``Selection``.
        fetcher: knows when the vectors of a matrix arrive.
        tiles: in: value tiles, from the value fork.
        fork: takes the lines of a tile back.
        order: is told of rows that are done.
        tracks: of the timeline.
    """

    def __init__(
        self,
        plan: Plan,
        weighted_sum: WeightedSum,
        fetcher: MatrixFetcher,
        tiles: Port[Values | Again],
        fork: ValueFork,
        order: LayerOrder,
        tracks: Tracks,
    ) -> None:
        self._plan, self._order, self._tracks = plan, order, tracks
        self._tiles, self._fork = tiles, fork
        self._sums = weighted_sum.state
        self._free = self._sums["free"]
        states: tuple[Any, ...] = weighted_sum.state, fetcher.beats, *plan.queries
        weigh = direct(pipeline.weigh_late, *states, plan.times, plan.times)
        self._weigh_queries: Callable[..., int] = functools.partial(weigh, *states)

    def run(self) -> Following:
        """Multiply tile after tile."""
        while True:
            if not self._tiles.items:
                yield self._tiles
            item = self._tiles.pop()
            again = isinstance(item, Again)
            values = item.values if isinstance(item, Again) else item
            if not values.matrix.known:
                yield values.matrix
            if not values.filtered.known:
                yield values.filtered
            row = values.row
            # Queries of the LSB pass come on their own, if the others did not wait for them.
            which = 1 if again else (0 if values.phases == 1 else 2)
            before, was_free = self._tracks.look(), self._free.item()
            free = self._weigh(values, which) + 1
            self._tracks.add(before, item_code(row.index, VALUES))
            item.weighed.announce(free)
            if which == 0:
                continue
            if values.tile == row.final:
                self._order.row_done(row)
            if values.tile == row.value_tiles - 1:
                self._order.row_gone(row)
            # Nobody may use it (section 4).
            self._fork.release(values, free if free > was_free else values.matrix.usable + 1)

    def _weigh(self, values: Values, which: int) -> int:
        """Multiply the queries of a tile; the cycle of the last beat."""
        row, plan, matrix = values.row, self._plan, values.matrix
        first, last = row.first, row.last
        if plan.mixed:
            self._sums["scores"] = row.scores
        part, parts = (values.tile, row.value_tiles) if row.two_pass else (0, 0)
        return self._weigh_queries(
            plan.times[first:last] if values.given is None else values.given,
            plan.times,
            first,
            last,
            0 if row.two_pass else values.tile * row.tile,
            _WHOLE_ROW if row.two_pass else row.tile,
            part,
            parts,
            row.streams,
            which,
            matrix.begin,
            matrix.end,
            matrix.transactions,
            values.vectors,
            matrix.usable,
        )
