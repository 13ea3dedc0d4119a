"""Key side: the fork that asks for keys, and the dot product that takes them (sections 4 and 5)."""

from __future__ import annotations

import copy
import functools
from collections import deque
from typing import Any

import numpy as np

from accelsim.hardware.blocks.matrix_fetcher import FILL, Matrix, MatrixFetcher
from accelsim.hardware.blocks.ring_buffer import RingBuffer
from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.decision import REFETCH_DELAY, RELEASE
from accelsim.hardware.machines.spatten.foresight import FAR, Foresight
from accelsim.hardware.machines.spatten.items import Keys, Row, Values
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.requests import Requests
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.machines.spatten.units import Units
from accelsim.hardware.simulation import Clock, FirstOf, Milestone, Module, Port
from accelsim.hardware.simulation._module import Following, Process
from accelsim.hardware.timeline import KEYS_LSB, KEYS_MSB, Recorder, item_code
from accelsim.jit import direct

FORK = 2
"""First cycle in which the key fork can issue (release, section 2.5)."""
FORK_TO_FETCH = 4
"""From the key fork to the address FIFOs (release, section 2.5)."""


def code_of(item: Keys) -> int:
    """Of a key tile, for the timeline."""
    return item_code(item.row.index, KEYS_LSB if item.again else KEYS_MSB)


class KeyFork(Module):
    """Asks for key tiles: LSB passes first, else in order, as far as the key buffer has room.

    Args:
        env: clock.
        plan: of the run.
        requests: transactions of the tiles.
        fetcher: asked for them.
        lsb_passes: in: key tiles whose LSB plane is needed.
        tiles: out: key tiles, as they were asked for, to the dot product.
        values: out: value tiles of early rows, to the value fork.
        slotless: out: value tiles of all other rows, which will need a place in the value buffer.
        foresight: is told when keys wait for lines.
        recorder: takes the timeline, if given.

    Attributes:
        buffer: of keys.
        operations: tiles that were issued.
    """

    def __init__(
        self,
        env: Clock,
        plan: Plan,
        requests: Requests,
        fetcher: MatrixFetcher,
        lsb_passes: Port[Keys],
        tiles: Port[Keys],
        values: Port[Values],
        slotless: deque[Values],
        foresight: Foresight,
        recorder: Recorder | None,
    ) -> None:
        super().__init__(env, "allocator", recorder)
        self._clock, self._foresight = env, foresight
        self._plan, self._requests, self._fetcher = plan, requests, fetcher
        self._lsb_passes, self._tiles = lsb_passes, tiles
        self._values, self._slotless = values, slotless
        self.buffer = RingBuffer(plan.config.buffer_lines, 1 + plan.config.key_prefetch_depth)
        self.operations = 0
        self._new = deque(Keys(row, tile) for row in plan.items for tile in range(row.tiles))
        # Decisions of rows with an LSB plane that have not come, as far as is known.
        self._undecided: deque[Milestone] = deque()
        self._never = Milestone(env)

    def run(self) -> Process:
        """Issue tile after tile, one a cycle."""
        left = len(self._new) + sum(
            row.tiles if row.two_pass else 1 for row in self._plan.items if row.refetches
        )
        yield from self.busy(FORK)
        clock, free, foresight = self._clock, FORK, self._foresight
        for _ in range(left):
            while (obstacle := self._obstacle()) is not None:
                awaited, later, reason = obstacle
                start = max(clock.now, free)
                if awaited.cycle is None and reason != "awaiting_layer":
                    foresight.need()
                # Nothing comes in between: neither a pass nor anything that would bring one about.
                passed = awaited.cycle is not None and clock.passes(awaited.cycle + later)
                if not passed:
                    yield FirstOf(self._lsb_passes.filled(), awaited.awaited(later))
                self.stalled(start, clock.now - start, reason)
            foresight.needed = False
            # A pass may have come in the cycle of the tile before.
            if free > clock.now and not clock.passes(free):
                yield clock.until(free)
            item = self._lsb_passes.pop() if self._lsb_passes.items else self._new.popleft()
            self._take_lines(item)
            self.operations += 1
            self._issue(item)
            free = clock.now + 1
            self.worked(free - 1, 1)
            row = item.row
            if row.two_pass and row.planes and item.tile == row.tiles - 1 and not item.again:
                # What comes behind would take the lines that its LSB pass needs (section 6).
                decided = row.decision.awaited(REFETCH_DELAY)
                yield from self.wait(decided, "awaiting_decision", since=free)
        while True:
            # Nothing is left to issue; the followers end the run.
            yield self.env.event()

    def _obstacle(self) -> tuple[Milestone, int, str] | None:
        """What to wait for before the next tile can be issued, how much longer, and why; an LSB
        pass that comes may end the wait."""
        passes = self._lsb_passes
        if passes.items:
            in_the_way = self._in_the_way(passes.items[0])
            return None if in_the_way is None else (in_the_way, 0, "buffer_full")
        if not self._new:
            return self._never, 0, "awaiting_decision"
        item = self._new[0]
        keys = item.row.layer.keys
        if not keys.reached:
            return keys, 0, "awaiting_layer"
        undecided = self._awaited_decision(item)
        if undecided is not None:
            return undecided, REFETCH_DELAY, "awaiting_decision"
        in_the_way = self._in_the_way(item)
        return None if in_the_way is None else (in_the_way, 0, "buffer_full")

    def _in_the_way(self, item: Keys) -> Milestone | None:
        """The release that a tile must wait for; an LSB pass of one tile has its keys' lines."""
        if item.again and not item.row.two_pass:
            return None
        return self.buffer.in_the_way(item.lines)

    def _take_lines(self, item: Keys) -> None:
        if item.again and not item.row.two_pass:
            return
        item.released = Milestone(self.env)
        self.buffer.allocate(item.lines, item.released)

    def _awaited_decision(self, item: Keys) -> Milestone | None:
        """A decision that must come before keys are asked for.

        Keys of a next layer, or of a row whose scores are kept, would stand in front of the LSB
        passes of the rows before, and wait for them.
        """
        row = item.row
        first = item.tile == 0 and row.index == row.layer.group.first and self._plan.causal
        if not (first or (row.two_pass and row.planes and item.tile == 0)):
            return None
        while self._undecided:
            decided = self._undecided[0]
            if decided.cycle is None or decided.cycle + REFETCH_DELAY > self.env.now:
                return decided
            self._undecided.popleft()
        return None

    def _issue(self, item: Keys) -> None:
        """Ask for a tile, and tell who waits for it."""
        row, env = item.row, self._clock
        now = env.now
        begins = item.tile == 0 and not item.again
        started = row.layer.start.reached
        if begins and not started:
            event = row.layer.start.awaited()
            assert event.callbacks is not None
            event.callbacks.append(lambda _: self._ask_queries(row))
            row.queries = Matrix(env, item_code(row.index, KEYS_MSB), now)
        item.matrix = matrix = Matrix(env, code_of(item), now)
        count, matrix.before, used = self._requests.keys(item, queries=started)
        matrix.transactions = count - matrix.before
        self._requests.ask(self._fetcher, matrix, count, used, now + FORK_TO_FETCH)
        if row.planes and begins:
            self._undecided.append(row.decision)
        # Values that no query uses follow those before, wherever the keys are.
        follow = item.tile > row.final and row.late and not row.two_pass
        if not (item.again or follow) and item.tile < row.value_tiles:
            values = row.slots[item.tile] = Values(env, row, item.tile)
            if row.late or row.two_pass:
                self._slotless.append(values)
            else:
                self._values.put(values)
        self._tiles.put(item)

    def _ask_queries(self, row: Row) -> None:
        """Queries whose layer starts behind the request of their keys."""
        matrix, count = row.queries, self._requests.queries(row)
        assert matrix is not None
        now = self._clock.now
        if count:
            self._requests.ask(self._fetcher, matrix, count, count, now + FORK_TO_FETCH)
        else:
            matrix.usable = now
            matrix.announce(now - FILL)


class ScoreUnit:
    """Query x key: takes key tiles in the order of the fork, as the softmax takes their scores.

    Args:
        plan: of the run.
        units: the array, and the softmax behind it, for whose FIFO scores wait.
        fetcher: knows when the vectors of a matrix arrive.
        tiles: in: key tiles, from the key fork.
        room: in: the softmax has read some rows out.
        scored: out: tile, its first query and that after the last whose scores are known.
        foresight: looks at them.
        tracks: of the timeline.
    """

    def __init__(
        self,
        plan: Plan,
        units: Units,
        fetcher: MatrixFetcher,
        tiles: Port[Keys],
        room: Port[None],
        scored: Port[tuple[Keys, int, int]],
        foresight: Foresight,
        tracks: Tracks,
    ) -> None:
        self._plan, self._tracks = plan, tracks
        self._dot_product, softmax = units.dot_product, units.softmax
        keys, _, refetch = plan.queries
        dot: Any = self._dot_product.state
        arrays = dot, softmax.state, softmax.ring, fetcher.beats, keys, refetch
        self._score_queries = functools.partial(direct(pipeline.score, *arrays), *arrays)
        states = arrays[:3]
        copies = copy.deepcopy(states)
        ahead = direct(pipeline.score_ahead, *copies, *arrays[3:])
        self._score_ahead = functools.partial(ahead, *copies, *arrays[3:])
        # As plain integers: records are copied by the field.
        self._copied = [
            (mine.view(np.int64), now.view(np.int64))
            for mine, now in zip(copies, states, strict=True)
        ]
        self._free = self._dot_product.state["free"]
        self._tiles, self._room, self._scored = tiles, room, scored
        self._foresight = foresight
        # Two-pass rows whose scores are kept.
        self._keeping: deque[Row] = deque()

    def run(self) -> Following:
        """Multiply tile after tile."""
        dot, latency, tiles = self._dot_product, self._dot_product.latency, self._tiles
        while True:
            if not tiles.items:
                yield tiles
            item = tiles.pop()
            row = item.row
            if self._plan.mixed:
                dot.state["scores"] = row.scores
            if not item.matrix.known:
                yield item.matrix
            ready = 0
            if row.queries is not None:
                if not row.queries.known:
                    yield row.queries
                ready = row.queries.usable
            elif self._plan.causal:
                ready = row.layer.start.cycle or 0
            if row.two_pass and item.tile == 0 and not item.again:
                # The scores of two rows are kept at most.
                while len(self._keeping) > 1:
                    before = self._keeping.popleft()
                    yield before.kept
                    ready = max(ready, before.kept.cycle or 0)
                self._keeping.append(row)
            scored = row.first
            arrived = item.matrix.usable
            before = self._free.item()
            while True:
                query = scored
                if self._tracks.on:
                    score = functools.partial(self._score, item, ready, arrived)
                    scored = self._tracks.queries(score, query, row.last, code_of(item))
                else:
                    scored = self._score(item, ready, arrived, query, row.last)
                if scored == row.last:
                    break
                self._scored.put((item, query, scored))
                look = functools.partial(self._look_ahead, item, ready, arrived, scored)
                self._foresight.block(look, row.refetches > 0)
                while not self._room.items:
                    yield self._room
                self._foresight.blocked = None
                self._room.items.clear()
            free = self._free.item()
            # Nobody may use it (section 4).
            self._release(item, free if free > before else arrived + 1)
            item.scored = free - 1 + latency
            self._scored.put((item, query, scored))
            self._foresight.look()

    def _score(self, item: Keys, ready: int, arrived: int, query: int, last: int) -> int:
        """Multiply queries with a key tile; the first that the softmax may not take yet."""
        row, matrix = item.row, item.matrix
        return self._score_queries(
            query,
            last,
            item.tile * row.tile,
            row.tile,
            item.again,
            row.two_pass,
            matrix.begin,
            matrix.end,
            matrix.before,
            matrix.transactions,
            item.vectors,
            arrived,
            ready,
        )

    def _look_ahead(self, item: Keys, ready: int, arrived: int, query: int) -> None:
        """Release a tile whose last scores wait behind it for room, if it is known when.

        The pipeline takes them before it is known when they find room in the FIFO.
        """
        row, matrix = item.row, item.matrix
        if item.drops or (row.released if item.again else item.released).known:
            return
        for mine, now in self._copied:
            np.copyto(mine, now)
        free = self._score_ahead(
            query,
            row.last,
            item.tile * row.tile,
            row.tile,
            item.again,
            matrix.begin,
            matrix.end,
            matrix.before,
            matrix.transactions,
            item.vectors,
            arrived,
            ready,
            FAR,
        )
        if free < FAR:
            self._release(item, free)

    def _release(self, item: Keys, used: int) -> None:
        """Give the lines of a tile back, or leave that to the decision (section 4)."""
        row = item.row
        if not row.planes or row.two_pass:
            if not item.released.known:
                item.released.announce(used)
        elif not item.again:
            row.released = item.released
        elif not row.released.known:
            row.released.announce(used + RELEASE)
