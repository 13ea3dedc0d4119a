"""Which transactions a tile asks for, and how many of them were asked for before."""

from __future__ import annotations

from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES
from accelsim.hardware.machines.spatten.items import Keys, Row, Values
from accelsim.hardware.machines.spatten.layout import KEYS, LSBS, VALUES, Layout
from accelsim.hardware.machines.spatten.plan import Plan


class Requests:
    """Transactions of keys, queries and values, from where they lie in DRAM.

    Args:
        plan: of the run.

    Attributes:
        layout: where vectors lie; has the transactions of the matrix at hand.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.layout = Layout(plan.workload, plan.rows, plan.config.query_traffic)
        self._starts: list[int] = plan.rows.start.tolist()
        self._msbs_again = 0
        # Bytes of each plane of rows that are run query by query.
        self._moved: dict[int, dict[int, int]] = {}

    @property
    def bytes(self) -> dict[str, int]:
        """Asked for so far, by tensor."""
        return self.layout.bytes

    def keys(self, item: Keys, queries: bool) -> tuple[int, int]:
        """Write transactions of a key tile, and of what is read in front of it.

        Args:
            item: the tile.
            queries: the row's queries are read with it.

        Returns:
            How many, and how many of them come before the vectors.
        """
        row, layout = item.row, self.layout
        begin, layout.count = item.tile * row.tile, 0
        end = begin + item.vectors
        before, plane = 0, LSBS if item.again else KEYS
        if item.again:
            # The MSBs of a row of two passes are gone (section 2). A vector is there when its LSBs
            # are, which come last.
            before = layout.vectors(KEYS, row.index, begin, end) if row.two_pass else 0
            self._msbs_again += before * TRANSACTION_BYTES
        elif item.tile == 0:
            if not row.reread:
                before = layout.before_keys(row.index)
            if queries:
                before += self._write_queries(row)
        count = layout.vectors(plane, row.index, begin, end)
        if row.split:
            self._count(row, plane, count)
        return layout.count, before

    def queries(self, row: Row) -> int:
        """Write transactions of the query vectors of a row, or of one position of it.

        Returns:
            How many.
        """
        self.layout.count = 0
        return self._write_queries(row)

    def values(self, values: Values) -> int:
        """Write transactions of a value tile.

        Returns:
            How many.
        """
        row, layout = values.row, self.layout
        begin, layout.count = values.tile * row.tile, 0
        count = layout.vectors(VALUES, row.index, begin, begin + values.vectors)
        if row.split:
            self._count(row, VALUES, count)
        return count

    def refetched_bytes(self) -> int:
        """Bytes beyond one fetch of each plane of a row, tile by tile."""
        total = self._msbs_again
        for row, planes in self._moved.items():
            whole = self.layout.once(row, self._plan.tiles[row])
            pairs = zip(planes.values(), whole, strict=True)
            total += sum(max(found - once, 0) for found, once in pairs)
        return total

    def _write_queries(self, row: Row) -> int:
        start = self._starts[row.index]
        return self.layout.queries(row.index, row.first - start, row.last - start)

    def _count(self, row: Row, plane: int, transactions: int) -> None:
        planes = self._moved.setdefault(row.index, {KEYS: 0, LSBS: 0, VALUES: 0})
        planes[plane] += transactions * TRANSACTION_BYTES
