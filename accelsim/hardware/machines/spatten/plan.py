"""A workload cut into layers, rows and tiles (sections 1 and 2 of the specification)."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.items import Layer, Row
from accelsim.hardware.machines.spatten.rows import rows_of
from accelsim.hardware.simulation import Milestone
from accelsim.jit import direct
from accelsim.workloads import Workload

Ints = NDArray[np.int64]


class Plan:
    """What all blocks know of a run.

    Args:
        env: clock.
        workload: what to run.
        config: of the machine.
        causal: whether a layer waits for the layer before and a token for the token before.

    Attributes:
        workload, config, causal: as given.
        rows: of the workload, as arrays.
        queries: keys, values and need of the LSB plane of each query, int64 [queries] each.
        times: of each query, int64 [queries, 5]; columns are those of :mod:`.pipeline`.
        mixed: rows have keys of several widths.
        tiles: most vectors in a tile of each row of the workload.
        layers: in order.
        items: rows in the order in which they are run.

    Raises:
        WorkloadError: rows that the machine refuses.
    """

    def __init__(
        self, env: simpy.Environment, workload: Workload, config: SpattenConfig, causal: bool
    ) -> None:
        self._env = env
        self.workload, self.config, self.causal = workload, config, causal
        self.rows = rows = rows_of(workload, config)
        self.queries = rows.query_keys, rows.query_values, rows.query_refetch
        self.times: Ints = np.zeros((len(rows.query_keys), 5), np.int64)
        self._latest = functools.partial(direct(pipeline.latest, self.times), self.times)
        self._time = self.times.item
        self.mixed = len(rows.widths) > 1
        self.tiles: list[int] = rows.tiles(config).tolist()
        self._most: list[int] = np.maximum.reduceat(rows.query_keys, rows.start[:-1]).tolist()
        # Plain numbers: an element of an array costs more to read.
        self._given: list[tuple[Any, ...]] = list(
            zip(
                rows.start[:-1].tolist(),
                rows.start[1:].tolist(),
                rows.keys.tolist(),
                rows.values.tolist(),
                rows.refetches.tolist(),
                (rows.lsb_bits > 0).tolist(),
                rows.late.tolist(),
                rows.prunes.tolist(),
                self.tiles,
                (config.multipliers // rows.key_dims).tolist(),
                strict=True,
            )
        )
        self.layers = [Layer(env, group) for group in rows.groups]
        for layer, following in itertools.pairwise(self.layers):
            layer.following = following
            if config.token_selection == "per-query" and not following.group.once:
                layer.selects = following.group.token_cycles
        self.items = [row for layer in self.layers for row in self._rows_of(layer)]

    def latest(self, row: Row, column: int, other: int = -1) -> int:
        """Last cycle of a column of the times of a row, or of the sum of two."""
        if row.last - row.first > 1:
            return self._latest(row.first, row.last, column, other)
        cycle = self._time(row.first, column)
        return cycle if other < 0 else cycle + self._time(row.first, other)

    def _rows_of(self, layer: Layer) -> list[Row]:
        rows, by_query = self.rows, self.config.loop_order == "query-outer"
        found: list[Row] = []
        for index in range(layer.group.first, layer.group.end):
            first, last, keys, _, _, _, late, *_ = self._given[index]
            if by_query and not late and keys > self.tiles[index]:
                edges = np.flatnonzero(np.diff(rows.position[first:last])) + 1 + first
                ends = [first, *edges.tolist(), last]
                found += [self._row(layer, index, *pair) for pair in itertools.pairwise(ends)]
            else:
                found.append(self._row(layer, index, first, last))
        layer.unread = layer.undone = len(found)
        return found

    def _row(self, layer: Layer, index: int, begin: int, end: int) -> Row:
        """A row, or one position of it."""
        row = Row(index, layer, begin, end)
        first, last, row.keys, row.values, row.refetches, *given = self._given[index]
        row.planes, late, prunes, row.tile, row.line = given
        row.split, row.reread = (begin, end) != (first, last), begin > first
        row.late = late or row.split
        if row.split:
            rows = self.rows
            row.refetches = int(rows.query_refetch[begin:end].sum())
            row.keys = int(rows.query_keys[begin:end].max())
            used = rows.query_values[begin:end]
            prunes = bool((used < rows.query_keys[begin:end]).any())
            row.values = min(row.values, int(used.sum()), row.keys) if prunes else row.keys
        row.prunes = prunes
        row.streams = not prunes or end - begin == 1
        row.scores = min(row.line, self.config.scores_per_cycle)
        row.tiles = -(-row.keys // row.tile)
        row.two_pass = row.tiles > 1 and (prunes or row.planes)
        row.value_tiles = -(-row.values // row.tile) if row.two_pass else row.tiles
        row.most = row.keys if row.split else self._most[index]
        row.partly = row.two_pass or row.most < row.keys
        if row.tiles > 1:
            row.final = row.value_tiles - 1 if row.two_pass else (row.most - 1) // row.tile
            row.unused = row.late and row.final < row.value_tiles - 1
        if row.planes:
            row.decision = Milestone(self._env)
        if row.two_pass:
            row.kept = Milestone(self._env)
        if row.two_pass or row.unused:
            row.slotted = Milestone(self._env)
        return row
