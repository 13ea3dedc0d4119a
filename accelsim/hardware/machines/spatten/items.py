"""What the blocks of the published SpAtten hand to one another.

A :class:`Layer` has rows, a :class:`Row` has tiles of keys and of values. Sections are those of
docs/accelerators/spatten-published.md.
"""

from __future__ import annotations

import numpy as np
import simpy
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import Matrix
from accelsim.hardware.machines.spatten.rows import Group
from accelsim.hardware.simulation import Milestone


class Layer:
    """A group at run time.

    Attributes:
        group: which.
        following: the group after it, if there is one.
        start: cycle from which queries are read.
        keys: cycle from which keys are asked for.
        unread: rows that are not read out of the softmax yet.
        undone: rows without all outputs.
        done: last output so far.
        step_start: start of its step's first group.
        selects: cycles of the token search after every query; 0 if there is none.
    """

    __slots__ = (
        "done",
        "following",
        "group",
        "keys",
        "selects",
        "start",
        "step_start",
        "undone",
        "unread",
    )

    def __init__(self, env: simpy.Environment, group: Group) -> None:
        self.group = group
        self.following: Layer | None = None
        self.start, self.keys = Milestone(env), Milestone(env)
        self.unread = self.undone = 0
        self.done = self.step_start = self.selects = 0


class Row:
    """A row on its way (section 1); a position of one, where it is run query by query.

    Attributes:
        index: of the workload.
        layer: its group.
        first, last: queries, from the first to that before the last.
        keys, values: vectors.
        tile: most vectors in a tile of them.
        line: vectors in a line of a buffer.
        scores: vectors that the arrays take in a cycle.
        late, two_pass, planes: what it is.
        split, reread: it is one position of a row; not the first.
        prunes: some of its queries use fewer values than keys.
        streams: its queries use the first of its values, and need not wait for all.
        tiles, value_tiles: how many.
        final: the last tile of values that a query uses.
        unused: it is a late one, and there are tiles behind.
        partly: there may be tiles of which only the first vectors are used.
        most: keys of the query that has most of them.
        refetches: queries that need the LSB plane.
        queries: request of the query vectors, if they are not read with the first keys.
        slots: request of the values, by tile.
        decision: of a row with an LSB plane: of the last query in the first pass.
        kept: of a two-pass row: all its queries have been filtered.
        slotted: of such a row, and where tiles are unused: all its value tiles have slots.
        released: of a one-tile row with an LSB plane: the lines of its keys are free.
    """

    __slots__ = (
        "decision",
        "final",
        "first",
        "index",
        "kept",
        "keys",
        "last",
        "late",
        "layer",
        "line",
        "most",
        "partly",
        "planes",
        "prunes",
        "queries",
        "refetches",
        "released",
        "reread",
        "scores",
        "slots",
        "slotted",
        "split",
        "streams",
        "tile",
        "tiles",
        "two_pass",
        "unused",
        "value_tiles",
        "values",
    )

    def __init__(self, index: int, layer: Layer, first: int, last: int) -> None:
        self.index, self.layer, self.first, self.last = index, layer, first, last
        self.keys = self.values = self.refetches = 0
        self.tile = self.line = self.scores = 1
        self.late = self.two_pass = self.planes = self.prunes = self.streams = False
        self.reread = self.split = self.unused = self.partly = False
        self.tiles = self.value_tiles = 1
        self.final = self.most = 0
        self.queries: Matrix | None = None
        self.slots: dict[int, Values] = {}
        self.decision: Milestone
        self.kept: Milestone
        self.slotted: Milestone
        self.released: Milestone

    def used(self, vectors: int, tile: int) -> int:
        """Vectors of a tile of so many that its queries use: the first ones."""
        return min(max(self.most - tile * self.tile, 0), vectors)

    def used_values(self, vectors: int, tile: int) -> int:
        """As :meth:`used`, of values."""
        if not self.streams:
            return vectors
        if self.two_pass:
            most = self.values if self.prunes else self.most
            return min(-(-most // self.value_tiles), vectors)
        return vectors if self.prunes else self.used(vectors, tile)

    def cut(self, vectors: int, tile: int) -> tuple[int, int]:
        """Vectors of one tile of so many, and the lines that they take."""
        size = min(vectors - tile * self.tile, self.tile)
        return size, -(-size // self.line)


class Keys:
    """A key tile: what the key fork issues.

    Attributes:
        row: whose.
        tile: which.
        again: the pass with the LSB plane.
        vectors, lines: of the tile.
        drops: whether queries that need the LSB plane are dropped here.
        matrix: in memory, once it is asked for.
        released: its lines are free, once it has some.
        scored: cycle in which its last score is there.
        values: tile of values that goes with it, once it is known that it is needed.
    """

    __slots__ = (
        "again",
        "drops",
        "lines",
        "matrix",
        "released",
        "row",
        "scored",
        "tile",
        "values",
        "vectors",
    )

    def __init__(self, row: Row, tile: int, again: bool = False) -> None:
        self.row, self.tile, self.again = row, tile, again
        self.vectors, self.lines = row.cut(row.keys, tile)
        self.drops = row.planes and not again
        self.matrix: Matrix
        self.released: Milestone
        self.scored = 0
        self.values: Values | None = None


class Values:
    """A value tile.

    Attributes:
        row: whose.
        tile: which.
        vectors, lines: of the tile.
        slot: cycle from which it has lines; ``None`` if not known yet.
        phases: 1 if queries of the LSB pass will come on their own, else 2.
        given: times of the queries over this tile, if those over the next would overwrite them.
        ready, spread: cycle in which it is asked for, and cycles over which it becomes known.
        filtered: of a late row: it is known when its queries are filtered; of an early one: the
            matrix is asked for.
        matrix: in memory, once it is asked for.
        weighed: of a late row: it is known when its queries are multiplied, but for those of an
            LSB pass that come on their own.
    """

    __slots__ = (
        "filtered",
        "given",
        "lines",
        "matrix",
        "phases",
        "ready",
        "row",
        "slot",
        "spread",
        "tile",
        "vectors",
        "weighed",
    )

    def __init__(self, env: simpy.Environment, row: Row, tile: int) -> None:
        self.row, self.tile = row, tile
        self.vectors, self.lines = row.cut(row.values, tile)
        self.slot: int | None = None
        self.phases = 2
        self.given: NDArray[np.int64] | None = None
        self.ready = self.spread = 0
        self.matrix: Matrix
        self.weighed = Milestone(env)
        self.filtered = Milestone(env)


class Again:
    """The queries of an LSB pass, whose values are in the buffer already.

    Attributes:
        values: the tile.
        ready: cycle in which the first of them reaches the weighted sum.
        weighed: it is known when they are multiplied.
    """

    __slots__ = ("ready", "values", "weighed")

    def __init__(self, env: simpy.Environment, values: Values, ready: int) -> None:
        self.values, self.ready = values, ready
        self.weighed = Milestone(env)
