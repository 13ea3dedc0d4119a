"""Softmax to top-k of rows of two passes, whose scores are kept (section 2)."""

from __future__ import annotations

import numpy as np

from accelsim.hardware.blocks.softmax import FROM_FIFO
from accelsim.hardware.machines._spatten import BITS_ON_CHIP
from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.decision import Decision
from accelsim.hardware.machines.spatten.items import Keys, Row
from accelsim.hardware.machines.spatten.order import LayerOrder
from accelsim.hardware.machines.spatten.pipeline import DECIDED, FILTERED, SIZE
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.machines.spatten.units import Units
from accelsim.hardware.simulation import Port
from accelsim.hardware.timeline import SCORES, item_code


class KeptScores:
    """Softmax to top-k of rows of two passes, whose scores were kept (section 2).

    Args:
        plan: of the run.
        units: the blocks.
        decision: is told when a row is decided.
        rows: out: rows whose values are known, to the value fork.
        order: is told of rows that are read.
        peak: bytes of all channels a cycle.
        tracks: of the timeline.

    Attributes:
        latest: row whose values are known.
        spilled_reads, spilled_writes: bytes of scores that did not stay on chip.
    """

    def __init__(
        self,
        plan: Plan,
        units: Units,
        decision: Decision,
        rows: Port[Row],
        order: LayerOrder,
        peak: float,
        tracks: Tracks,
    ) -> None:
        self._plan, self._decision, self._rows = plan, decision, rows
        self._order, self._peak, self._tracks = order, peak, tracks
        self._states = (
            units.softmax.state,
            np.zeros(FROM_FIFO + 1, np.int64),
            units.top_k.state,
            units.top_k.buffers,
            units.selector.state,
            units.selector.buffers,
        )
        self.latest: Row | None = None
        self.spilled_reads = self.spilled_writes = 0

    def select(self, item: Keys) -> None:
        """Let a row through, or the queries of its LSB pass; ``item`` is its last tile."""
        row, plan = item.row, self._plan
        on_chip = plan.config.softmax_fifo * plan.config.softmax_parallelism if row.late else 0
        before = self._tracks.look()
        written = pipeline.select_kept(
            *self._states,
            *plan.queries,
            plan.rows.search,
            plan.times,
            row.first,
            row.last,
            item.drops,
            item.again,
            item.scored,
            on_chip,
            BITS_ON_CHIP,
            self._peak,
            row.layer.selects,
        )
        self._tracks.add(before, item_code(row.index, SCORES))
        self.spilled_writes += written
        self.spilled_reads += self._read(item, on_chip)
        if item.drops:
            tiles = row.tiles if row.refetches else 0
            self._decision.announce(row, tiles, plan.latest(row, DECIDED))
            if tiles:
                return
        self.latest = row
        row.kept.announce(plan.latest(row, FILTERED, SIZE))
        self._order.row_read(row)
        self._rows.put(row)

    def _read(self, item: Keys, on_chip: int) -> int:
        """Bytes of scores that come back: for the softmax, and for the filter of what prunes."""
        row = item.row
        keys, values, refetch = (column[row.first : row.last] for column in self._plan.queries)
        needs = refetch > 0
        away = -(-np.maximum(keys - on_chip, 0) * BITS_ON_CHIP // 8)
        dropped = needs if item.drops else np.zeros_like(needs)
        used = needs if item.again else np.ones_like(needs)
        prunes = (values < keys) & ~dropped
        return int((away * used * (1 + prunes)).sum())
