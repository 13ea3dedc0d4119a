"""What each query of each row of a Workload asks for: the detail below the row's sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError

BEAT = 16
"""Scores that the published top-k engine reads in a cycle (SpAtten, HPCA 2021, Table I)."""

FIELDS: dict[str, tuple[Any, str]] = {
    "position": (np.int32, "token index of the query"),
    "keys": (np.int32, "keys that this query scores: those kept that it may see"),
    "values": (np.int32, "values that it multiplies"),
    "refetch": (np.bool_, "its scores are computed again with the LSB plane"),
    "topk_passes": (np.int16, "quick-select passes of its local value top-k; 0: none"),
    "topk_beats": (np.int32, "sum over these passes of ceil(scores read / 16)"),
}
"""Per-query field to (dtype, meaning)."""

SUMS = {
    "query_keys": "keys",
    "query_values": "values",
    "refetch_queries": "refetch",
    "topk_passes": "topk_passes",
    "topk_beats": "topk_beats",
}
"""Workload column to the field that it sums over the queries of a row."""


def exact(values: Any, dtype: Any, where: str) -> NDArray[Any]:
    """Return whole numbers (or true and false) as another type, each the number it was.

    Args:
        values: one number a row.
        dtype: NumPy's integer type, or ``bool``.
        where: what they are, for errors.

    Raises:
        WorkloadError: other numbers than integers, or one that the type cannot hold.
    """
    array = np.asarray(values)
    kind = np.dtype(dtype)
    whole = array.dtype.kind == "f" and bool((array == np.floor(array)).all())
    right = array.dtype.kind in "iu" or whole
    if kind == np.bool_:
        low, high, right = 0, 1, right or array.dtype.kind == "b"
    else:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
    if not right or array.ndim != 1:
        raise WorkloadError(f"{where}: expected {kind.name}, one a row; got {array.dtype.name}")
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        row = int(np.flatnonzero((array < low) | (array > high))[0])
        raise WorkloadError(f"{where}: row {row} is {array[row]}; expected {low} to {high}")
    return np.ascontiguousarray(array, dtype=kind)


@dataclass(frozen=True)
class QueryTable:
    """Per-query detail of a workload; row ``r`` owns the entries ``start[r]:start[r + 1]``.

    Every array but ``start`` is one-dimensional, over the queries of all rows in row order. Queries
    of a row come in the order of their positions; under grouped-query attention the living query
    heads of the group follow each other for one position, then for the next.

    Beats are of an engine of 16 comparators, each pass rounded up on its own. The scores of a pass
    do not depend on the comparators, but their number per pass is not kept: for an engine of
    another width ``P``, draw the passes of a quick select on ranks with the target ``values`` of
    ``keys`` (:func:`accelsim.workloads.quick_select_work`), seeded by step, layer, head and query.

    Attributes:
        start: int64 [rows + 1].
        position, keys, values, refetch, topk_passes, topk_beats: see :data:`FIELDS`.
    """

    start: NDArray[np.int64]
    position: NDArray[np.int32]
    keys: NDArray[np.int32]
    values: NDArray[np.int32]
    refetch: NDArray[np.bool_]
    topk_passes: NDArray[np.int16]
    topk_beats: NDArray[np.int32]

    @classmethod
    def of(cls, queries: Any, fields: Mapping[str, Any]) -> Self:
        """Build a table from queries per row [rows] and the arrays of :data:`FIELDS`, cast."""
        start = np.concatenate(([0], np.cumsum(queries, dtype=np.int64)))
        cast = {
            name: exact(fields[name], dtype, f"query table: field '{name}'")
            for name, (dtype, _) in FIELDS.items()
        }
        return cls(start=start, **cast)

    @classmethod
    def join(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Build a table from the per-query arrays of each row."""
        parts = list(rows)
        return cls.of(
            [len(part["keys"]) for part in parts],
            {name: np.concatenate([part[name] for part in parts]) for name in FIELDS},
        )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    def row_sums(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Sum a per-query array over the queries of each row; int64 [rows]."""
        total = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
        return np.asarray(total[self.start[1:]] - total[self.start[:-1]])

    def row_of(self) -> NDArray[np.int64]:
        """Row of each entry, int64 [entries]."""
        return np.repeat(np.arange(self.rows), np.diff(self.start))

    def select(self, chosen: NDArray[np.int64]) -> QueryTable:
        """Return the table of the rows ``chosen``, in that order."""
        counts = np.diff(self.start)[chosen]
        start = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        entries = np.arange(start[-1]) + np.repeat(self.start[chosen] - start[:-1], counts)
        return QueryTable.of(counts, {name: getattr(self, name)[entries] for name in FIELDS})

    def sums(self) -> dict[str, NDArray[np.int64]]:
        """The columns of the workload that follow from the table, each int64 [rows]."""
        given = {column: self.row_sums(getattr(self, field)) for column, field in SUMS.items()}
        again = self.row_sums(np.where(self.refetch, self.keys, 0))
        return given | {"queries": np.diff(self.start), "refetch_query_keys": again}

    def check(self, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
        """Compare with the columns of the workload ``name``.

        Raises:
            WorkloadError: arrays of unequal length, a sum that is not the column's, a query that
                scores more keys than its row fetches or multiplies more values than it scores.
        """
        rows = len(columns["step"])
        if self.rows != rows:
            raise WorkloadError(
                f"workload '{name}': the query table has {self.rows} rows; expected {rows}"
            )
        lengths = {len(getattr(self, field)) for field in FIELDS}
        if lengths != {int(self.start[-1])}:
            raise WorkloadError(
                f"workload '{name}': the query table has fields of {sorted(lengths)} entries; "
                f"expected {self.start[-1]}"
            )
        for column, sums in self.sums().items():
            wrong = np.flatnonzero(sums != columns[column])
            if wrong.size:
                row = int(wrong[0])
                raise WorkloadError(
                    f"workload '{name}': row {row}: {column} = {columns[column][row]}; expected "
                    f"{sums[row]}, the sum over its queries"
                )
        fetched = np.repeat(columns["keys"], np.diff(self.start))
        wrong = np.flatnonzero(
            (self.keys > fetched) | (self.values > self.keys) | (self.values < 0)
        )
        if wrong.size:
            at = int(wrong[0])
            raise WorkloadError(
                f"workload '{name}': row {self.row_of()[at]}: a query with {self.keys[at]} keys "
                f"and {self.values[at]} values; expected keys up to the {fetched[at]} of its row, "
                "and values up to its keys"
            )
