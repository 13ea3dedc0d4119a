"""Foresight: what is known of rows that wait behind one of which too little is known.

The hardware decides a row while its first probability waits in the divider of the softmax, and
reads on until the divider is full. The event engine works a row out when it knows when its values
come, or find room; decisions, room for scores, and with them the lines of keys, would be told too
late. No block of the hardware does this.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import MatrixFetcher
from accelsim.hardware.blocks.softmax import known_reads
from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.decision import RELEASE, Decision
from accelsim.hardware.machines.spatten.items import Keys, Row
from accelsim.hardware.machines.spatten.pipeline import DECIDED
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.machines.spatten.units import Units
from accelsim.hardware.simulation import Port
from accelsim.jit import direct, in_place, inlined

FAR = 1 << 50
"""A cycle that is never reached."""

Ints = NDArray[np.int64]

Scored = tuple[Keys, int, int]
"""Tile, its first query and that after the last whose scores are known."""


class Foresight:
    """Lets rows go on as far as that makes no difference: as if no value came and none had room.

    Args:
        plan: of the run.
        units: the blocks.
        fetcher: for its beats.
        scored: what waits behind the row at hand.
        room: out: the softmax will have read some beats.
        decision: is told when a row is decided.

    Attributes:
        blocked: looks what is known of scores that wait for room in the softmax, if there are some.
        needed: keys wait for lines or a decision, and it is not known how long.
    """

    def __init__(
        self,
        plan: Plan,
        units: Units,
        fetcher: MatrixFetcher,
        scored: Port[Scored],
        room: Port[None],
        decision: Decision,
    ) -> None:
        self._plan, self._fetcher, self._scored = plan, fetcher, scored
        self._room, self._decision = room, decision
        self.blocked: Callable[[], None] | None = None
        self.needed = self._refetches = False
        self._states = copy.deepcopy(units.selecting)
        # As plain integers: records are copied by the field.
        copied = [array.view(np.int64).reshape(-1) for array in (*self._states, *units.selecting)]
        self._copy = functools.partial(direct(copy_states, *copied), *copied)
        times = np.zeros_like(plan.times)
        arrays = *self._states, *plan.queries, plan.rows.search, times
        select = direct(pipeline.select, *arrays, fetcher.beats)
        self._select_queries = functools.partial(select, *arrays)
        self._latest = functools.partial(direct(pipeline.latest, times), times)
        softmax = *units.selecting[:2], *self._states[:2]
        self._known_reads = functools.partial(direct(known_reads, *softmax), *softmax)
        self._planes = any(row.planes and not row.two_pass for row in plan.items)
        self._waiting: Scored | None = None
        self._weighs_late = self._stuck = False

    def wait(self, scored: Scored, weighs_late: bool) -> None:
        """The selection waits with these queries.

        Args:
            scored: what it waits with.
            weighs_late: whether there are late rows before whose weighted sum is not known.
        """
        self._waiting, self._weighs_late, self._stuck = scored, weighs_late, False
        self.look()

    def go_on(self) -> None:
        """The selection waits no more."""
        self._waiting = None

    def block(self, look: Callable[[], None], refetches: bool) -> None:
        """Scores wait for room in the softmax.

        Args:
            look: see ``blocked``.
            refetches: they are of a row that has an LSB pass.
        """
        self.blocked, self._refetches = look, refetches
        self.look()

    def need(self) -> None:
        """Keys wait, and it is not known how long."""
        self.needed = True
        if self.blocked is not None:
            self.look()

    def look(self) -> None:
        """Decide rows whose scores are known, in their order, and find room for further scores."""
        if self._waiting is None:
            return
        decides = self._planes and not self._stuck
        reads = self.blocked is not None and (self.needed or (decides and self._refetches))
        if not (reads or decides):
            return
        ahead = [self._waiting, *self._scored.items]
        while not (reads or self._decides(*ahead[-1])):
            ahead.pop()
            if not ahead:
                return
        self._copy()
        if self._weighs_late:
            self._states[-1]["free"] = FAR
        decided: list[tuple[Row, int]] = []
        for item, query, scored in ahead:
            if item.row.two_pass:
                break
            self._select(item, query, scored)
            if self._decides(item, query, scored):
                row = item.row
                cycle = self._latest(row.first, row.last, DECIDED, -1)
                if cycle >= FAR:
                    # So are all behind it, until the selection goes on.
                    self._stuck = True
                    break
                decided.append((row, cycle))
        # The blocks may look again as soon as they are told something.
        found = reads and self._known_reads(FAR) and not self._room.items
        for row, cycle in decided:
            decide(self._decision, row, cycle)
        if found:
            self._room.put(None)
        elif self.needed and self.blocked is not None:
            self.blocked()

    @staticmethod
    def _decides(item: Keys, query: int, scored: int) -> bool:
        """Whether these queries are the last of a row that is not decided."""
        row = item.row
        return item.drops and scored == row.last and not row.two_pass and not row.decision.known

    def _select(self, item: Keys, query: int, scored: int) -> None:
        """Let queries through, on copies of the blocks' states."""
        row = item.row
        if self._plan.mixed:
            self._states[-1]["scores"] = row.scores
        slot = row.slots[item.tile].slot if row.late and item.tile in row.slots else None
        self._select_queries(
            query,
            scored,
            item.tile * row.tile,
            row.tile,
            item.drops,
            item.again,
            not row.late,
            FAR if slot is None else slot,
            self._fetcher.beats,
            0,
            0,
            0,
            0,
            FAR,
            False,
            1 if item.tile else 0,
            0,
            row.layer.selects,
        )


@inlined
def _overwrite(mine: Ints, real: Ints) -> None:
    for i in range(len(mine)):
        mine[i] = real[i]


@in_place
def copy_states(
    soft: Ints,
    fifo: Ints,
    topk: Ints,
    buffers: Ints,
    selector: Ints,
    begun: Ints,
    sums: Ints,
    soft_now: Ints,
    fifo_now: Ints,
    topk_now: Ints,
    buffers_now: Ints,
    selector_now: Ints,
    begun_now: Ints,
    sums_now: Ints,
) -> None:
    """Copy the states of all blocks in one call; see ``Units.selecting``."""
    _overwrite(soft, soft_now)
    _overwrite(fifo, fifo_now)
    _overwrite(topk, topk_now)
    _overwrite(buffers, buffers_now)
    _overwrite(selector, selector_now)
    _overwrite(begun, begun_now)
    _overwrite(sums, sums_now)


def decide(decision: Decision, row: Row, decided: int) -> None:
    """The last query of a row of one tile is decided: its LSB pass follows, or its keys go."""
    decision.announce(row, 1 if row.refetches else 0, decided)
    if not row.refetches:
        row.released.announce(decided + RELEASE)
