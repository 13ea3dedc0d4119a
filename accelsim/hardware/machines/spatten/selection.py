"""Selection: softmax, top-k of values and of tokens, for rows of one pass (sections 5 to 7)."""

from __future__ import annotations

import functools

import numpy as np
import simpy
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import MatrixFetcher
from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.decision import Decision
from accelsim.hardware.machines.spatten.foresight import Foresight, decide
from accelsim.hardware.machines.spatten.items import Again, Keys, Row, Values
from accelsim.hardware.machines.spatten.kept_scores import KeptScores
from accelsim.hardware.machines.spatten.order import LayerOrder
from accelsim.hardware.machines.spatten.pipeline import DECIDED, FILTERED, GIVEN, SIZE
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.machines.spatten.units import Units
from accelsim.hardware.machines.spatten.value_side import ValueFork
from accelsim.hardware.simulation import Port
from accelsim.hardware.simulation._module import Following
from accelsim.hardware.timeline import SCORES, item_code
from accelsim.jit import direct


class Selection:
    """Softmax to top-k of rows of one pass; early rows go on to the weighted sum.

    Args:
        env: clock.
        plan: of the run.
        units: the blocks.
        fetcher: knows when the vectors of a matrix arrive.
        scored: in: tile, its first query and that after the last whose scores are known.
        room: out: the softmax has read some rows out.
        decision: is told when a row is decided.
        foresight: is told with what the selection waits.
        kept_scores: takes rows of two passes.
        kept_rows: out: rows with value tiles that no query uses, to the value fork.
        fork: of values: asked for those of late rows.
        order: is told of rows that are read, and done.
        peak: bytes of all channels a cycle.
        tracks: of the timeline.
    """

    def __init__(
        self,
        env: simpy.Environment,
        plan: Plan,
        units: Units,
        fetcher: MatrixFetcher,
        scored: Port[tuple[Keys, int, int]],
        room: Port[None],
        decision: Decision,
        foresight: Foresight,
        kept_scores: KeptScores,
        kept_rows: Port[Row],
        fork: ValueFork,
        order: LayerOrder,
        peak: float,
        tracks: Tracks,
    ) -> None:
        self._env, self._plan, self._tracks = env, plan, tracks
        self._fetcher, self._fork, self._order = fetcher, fork, order
        self._scored, self._room = scored, room
        self._decision, self._foresight = decision, foresight
        self._kept_scores, self._rows = kept_scores, kept_rows
        self._sums = units.weighted_sum.state
        self._sums_free = self._sums["free"]
        arrays = *units.selecting, *plan.queries, plan.rows.search, plan.times
        select = direct(pipeline.select, *arrays, fetcher.beats)
        self._select_queries = functools.partial(select, *arrays)
        self._peak = peak

    def run(self) -> Following:
        """Select in the order of the scores."""
        while True:
            if not self._scored.items:
                yield self._scored
            item, query, scored = self._scored.pop()
            row = item.row
            if row.two_pass:
                if item.tile == row.tiles - 1:
                    self._kept_scores.select(item)
                continue
            if row.late and item.tile > row.final:
                if item.tile == row.tiles - 1:
                    self._order.row_gone(row)
                continue
            all_dropped = item.drops and row.refetches == row.last - row.first
            if item.values is None and not all_dropped:
                values = item.values = row.slots[item.tile]
                before = self._kept_scores.latest
                slotless = before is not None and not before.slotted.known
                if slotless or not (row.late and self._fork.find_slot(values)):
                    self._foresight.wait((item, query, scored), self._fork.weighs_late)
                    if before is not None and slotless:
                        yield before.slotted
                    if row.late:
                        yield from self._fork.take_slot(values)
                    else:
                        yield from self._fork.await_early(values)
                    self._foresight.go_on()
            self._select(item, item.values, query, scored)
            if not self._room.items:
                self._room.put(None)
            if scored == row.last:
                self._selected(item, item.values)

    def _select(self, item: Keys, values: Values | None, query: int, scored: int) -> None:
        """Let queries through softmax and top-k, those of early rows through the weighted sum.

        Args:
            item: the key tile.
            values: that go with it.
            query, scored: from which query on, and that after the last.
        """
        row, plan = item.row, self._plan
        if plan.mixed:
            self._sums["scores"] = row.scores
        early = not row.late
        begin = end = transactions = vectors = at = slot = 0
        if early and values is not None:
            matrix = values.matrix
            begin, end, transactions = matrix.begin, matrix.end, matrix.transactions
            vectors = values.vectors
            at = matrix.usable
        if row.late and values is not None:
            slot = values.slot or 0
        # Written after every tile but the last, read before every one but the first.
        spill = self._spill(row) if early and item.tile else 0
        # All that stays while queries go through one by one.
        rest = (
            item.tile * row.tile,
            row.tile,
            item.drops,
            item.again,
            early,
            slot,
            self._fetcher.beats,
            begin,
            end,
            transactions,
            vectors,
            at,
            row.streams,
            1 if item.tile else 0,
            spill,
            row.layer.selects,
        )
        if not self._tracks.on:
            self._select_queries(query, scored, *rest)
            return

        def select(first: int, last: int) -> int:
            self._select_queries(first, last, *rest)
            return last

        self._tracks.queries(select, query, scored, item_code(row.index, SCORES))

    def _spill(self, row: Row) -> int:
        """Cycles in which a partial result of a query goes out and comes back."""
        width = int(self._plan.rows.value_dims[row.index])
        return int(np.ceil(2 * self._plan.config.partial_size(width) / self._peak))

    def _selected(self, item: Keys, values: Values | None) -> None:
        """All queries of a tile, or of its LSB pass, are known up to their filters."""
        row = item.row
        drops = item.drops and row.refetches > 0
        if item.drops and not row.decision.known:
            decide(self._decision, row, self._plan.latest(row, DECIDED))
        if values is not None:
            if row.late:
                self._ask_late(item, values, drops)
            elif item.tile > row.final:
                self._fork.release(values, values.matrix.usable + 1)
            elif not drops:
                self._fork.release(values, self._sums_free.item())
        if drops:
            return
        if item.tile == row.final:
            if row.unused:
                self._kept_scores.latest = row
                self._rows.put(row)
            self._order.row_read(row)
            if not row.late:
                self._order.row_done(row)
        if item.tile == row.tiles - 1 and not row.late:
            self._order.row_gone(row)

    def _ask_late(self, item: Keys, values: Values, drops: bool) -> None:
        """When the values of a late row are asked for (section 8)."""
        row, plan = item.row, self._plan
        if row.tiles > 1:
            values.given = plan.times[row.first : row.last].copy()
        if not row.prunes:
            keys, _, refetch = (column[row.first : row.last] for column in plan.queries)
            self._ask_all(item, values, drops, keys, refetch > 0)
        elif not drops:
            values.phases = 2
            if row.last - row.first == 1:
                values.ready = plan.latest(row, FILTERED)
                values.spread = plan.latest(row, SIZE)
            else:
                values.ready = plan.latest(row, FILTERED, SIZE)
            self._fork.ask_late(values)
        if not values.filtered.known and values.ready:
            values.filtered.announce(0)

    def _ask_all(
        self,
        item: Keys,
        values: Values,
        drops: bool,
        keys: NDArray[np.int64],
        refetch: NDArray[np.bool_],
    ) -> None:
        """Values of a late row that prunes none: with the first probability of its first query."""
        fresh = values.ready == 0
        now = refetch
        if fresh:
            now = ~refetch if drops else np.ones_like(refetch)
        times = self._plan.times[item.row.first : item.row.last, GIVEN][now]
        there = keys[now] > item.tile * item.row.tile
        ready = max(int(times[there].min()), 1)
        if not fresh:
            self._fork.ask_late(Again(self._env, values, ready))
            return
        values.ready = ready
        values.phases = 1 if drops else 2
        self._fork.ask_late(values)
