"""Which transactions a tile asks for, and how many of them were asked for before."""

from __future__ import annotations

from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES, Matrix, MatrixFetcher
from accelsim.hardware.machines.spatten.items import Keys, Row, Values
from accelsim.hardware.machines.spatten.layout import KEYS, LSBS, VALUES, Layout
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.hardware.simulation import Clock


class Requests:
    """Transactions of keys, queries and values, from where they lie in DRAM.

    Args:
        env: clock.
        plan: of the run.

    Attributes:
        rest: what was asked for last that nobody uses.
    """

    def __init__(self, env: Clock, plan: Plan) -> None:
        self._plan, self._env = plan, env
        self.rest: Matrix | None = None
        self._layout = Layout(plan.workload, plan.rows, plan.config.query_traffic)
        self._starts: list[int] = plan.rows.start.tolist()
        self._msbs_again = 0
        # Bytes of each plane of rows that are run query by query.
        self._moved: dict[int, dict[int, int]] = {}

    @property
    def bytes(self) -> dict[str, int]:
        """Asked for so far, by tensor."""
        return self._layout.bytes

    def keys(self, item: Keys, queries: bool) -> tuple[int, int, int]:
        """Write transactions of a key tile, and of what is read in front of it.

        Args:
            item: the tile.
            queries: the row's queries are read with it.

        Returns:
            How many, how many of them come before the vectors, and how many bring all that is used.
        """
        row, layout = item.row, self._layout
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
        some = 0
        if row.partly and 0 < (used := row.used(item.vectors, item.tile)) < item.vectors:
            some = before + layout.length(plane, row.index, begin, begin + used)
        count = layout.vectors(plane, row.index, begin, end)
        if row.split:
            self._count(row, plane, count)
        return layout.count, before, some or layout.count

    def queries(self, row: Row) -> int:
        """Write transactions of the query vectors of a row, or of one position of it.

        Returns:
            How many.
        """
        self._layout.count = 0
        return self._write_queries(row)

    def values(self, values: Values) -> tuple[int, int]:
        """Write transactions of a value tile.

        Returns:
            How many, and how many bring all that is used.
        """
        row, layout = values.row, self._layout
        begin, layout.count = values.tile * row.tile, 0
        some = 0
        if (
            row.partly
            and 0 < (used := row.used_values(values.vectors, values.tile)) < values.vectors
        ):
            some = layout.length(VALUES, row.index, begin, begin + used)
        count = layout.vectors(VALUES, row.index, begin, begin + values.vectors)
        if row.split:
            self._count(row, VALUES, count)
        return count, some or count

    def ask(
        self,
        fetcher: MatrixFetcher,
        matrix: Matrix,
        count: int,
        used: int,
        ready: int,
        spread: int = 0,
    ) -> None:
        """Ask for the transactions that were written last.

        A matrix is known when all of it is there. Where queries use its first vectors only, the
        fetch beats that bring them are one of their own, and what follows is another: the beats
        are the same, one after the other. What becomes known bit by bit is one matrix.

        Args:
            fetcher: asked.
            matrix: what is asked for.
            count: transactions.
            used: of them, up to the last that is used.
            ready, spread: see :meth:`MatrixFetcher.ask`.
        """
        written = self._layout.written
        some = -(-used // fetcher.ports) * fetcher.ports
        if some >= count or spread:
            fetcher.ask(matrix, written, count, ready, spread)
            return
        fetcher.ask(matrix, written, some, ready)
        self.rest = Matrix(self._env, matrix.code, matrix.asked)
        fetcher.ask(self.rest, written[some:], count - some, ready)

    def refetched_bytes(self) -> int:
        """Bytes beyond one fetch of each plane of a row, tile by tile."""
        total = self._msbs_again
        for row, planes in self._moved.items():
            whole = self._layout.once(row, self._plan.tiles[row])
            pairs = zip(planes.values(), whole, strict=True)
            total += sum(max(found - once, 0) for found, once in pairs)
        return total

    def _write_queries(self, row: Row) -> int:
        start = self._starts[row.index]
        return self._layout.queries(row.index, row.first - start, row.last - start)

    def _count(self, row: Row, plane: int, transactions: int) -> None:
        planes = self._moved.setdefault(row.index, {KEYS: 0, LSBS: 0, VALUES: 0})
        planes[plane] += transactions * TRANSACTION_BYTES
