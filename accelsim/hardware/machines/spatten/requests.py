"""Which transactions a tile asks for, and how many of them were asked for before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES
from accelsim.hardware.machines.spatten.items import Keys, Row, Values
from accelsim.hardware.machines.spatten.layout import Layout
from accelsim.hardware.machines.spatten.plan import Plan

Ints = NDArray[np.int64]

MSBS, LSBS, VALUES = range(3)
"""Planes that are counted."""


class Requests:
    """Transactions of keys, queries and values, from where they lie in DRAM.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._layout = Layout(plan.workload, plan.rows, plan.config.query_traffic)
        self._msbs_again = 0
        # Bytes of each plane of rows that are run query by query.
        self._moved: dict[int, list[int]] = {}

    @property
    def bytes(self) -> dict[str, int]:
        """Asked for so far, by tensor."""
        return self._layout.bytes

    def keys(self, item: Keys, queries: bool) -> tuple[Ints, int]:
        """Transactions of a key tile, and of what is read in front of it.

        Args:
            item: the tile.
            queries: the row's queries are read with it.

        Returns:
            Byte addresses, and how many of them come before the vectors.
        """
        row, layout = item.row, self._layout
        begin = item.tile * self._plan.tile
        end = begin + self._plan.tile_size(row.keys, item.tile)
        if item.again:
            lsbs = layout.key_lsbs(row.index, begin, end)
            self._count(row, LSBS, lsbs)
            if not row.two_pass:
                return lsbs, 0
            # The MSBs are gone (section 2, two passes).
            msbs = layout.keys(row.index, begin, end)
            self._msbs_again += len(msbs) * TRANSACTION_BYTES
            # A vector is there when its LSBs are, which come last.
            return np.concatenate((msbs, lsbs)), len(msbs)
        keys = layout.keys(row.index, begin, end)
        self._count(row, MSBS, keys)
        if item.tile:
            return keys, 0
        parts = [] if row.reread else [layout.before_keys(row.index)]
        if queries:
            parts.append(self.queries(row))
        parts.append(keys)
        every = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return every, len(every) - len(keys)

    def queries(self, row: Row) -> Ints:
        """Transactions of the query vectors of a row, or of one position of it."""
        start = int(self._plan.rows.start[row.index])
        return self._layout.queries(row.index, row.first - start, row.last - start)

    def values(self, values: Values) -> Ints:
        """Transactions of a value tile."""
        row = values.row
        begin = values.tile * self._plan.tile
        end = begin + self._plan.tile_size(row.values, values.tile)
        transactions = self._layout.values(row.index, begin, end)
        self._count(row, VALUES, transactions)
        return transactions

    def refetched_bytes(self) -> int:
        """Bytes beyond one fetch of each plane of a row, tile by tile."""
        total = self._msbs_again
        for row, planes in self._moved.items():
            whole = self._layout.once(row, self._plan.tile)
            pairs = zip(planes, whole, strict=True)
            total += sum(max(found - once, 0) for found, once in pairs)
        return total

    def _count(self, row: Row, plane: int, transactions: Ints) -> None:
        if row.split:
            planes = self._moved.setdefault(row.index, [0, 0, 0])
            planes[plane] += len(transactions) * TRANSACTION_BYTES
