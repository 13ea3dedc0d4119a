"""Dense attention of a recorded layer, block by block of its queries, by the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention import reference
from accelsim.errors import TraceError
from accelsim.traces._trace import AttentionTrace

_SCORES = 1 << 20
"""Scores of a block: 8 MB in float64, which a cache nearly holds."""


class DenseRows(NamedTuple):
    """Dense attention of some queries of one layer.

    Attributes:
        positions: of the queries, [rows].
        first: key that the first column stands for.
        seen: [rows, keys].
        probabilities: [query_heads, rows, keys].
        output: [query_heads, rows, value_dim].
    """

    positions: NDArray[np.int64]
    first: int
    seen: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    output: NDArray[np.float64]


def dense_rows(
    trace: AttentionTrace, layer: int, positions: NDArray[np.int64] | None = None
) -> Iterator[DenseRows]:
    """Yield what a layer of a trace attends to, as the model computed it.

    Args:
        trace: recorded queries, keys and values.
        layer: which.
        positions: ascending positions of the queries; all if ``None``.

    Raises:
        TraceError: a query that sees no key.
    """
    own = trace.layer(layer)
    query, key, value = trace.query(layer), trace.key(layer), trace.value(layer)
    rows = np.arange(own.tokens) if positions is None else positions
    size = max(_SCORES // (own.query_heads * own.keys), 1)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        seen = trace.seen(layer, part)
        columns = np.flatnonzero(seen.any(axis=0))
        if not seen.any(axis=1).all():
            raise TraceError(f"{trace.path}: layer {layer}: a query sees no key")
        first, end = int(columns[0]), int(columns[-1]) + 1
        seen = seen[:, first:end]
        bias = trace.bias(layer, part, first, end)
        probabilities, output = reference.dense(
            query[:, part], key[:, first:end], value[:, first:end], seen,
            scale=own.scale, softcap=own.softcap, bias=bias, sinks=own.sinks,
        )  # fmt: skip
        yield DenseRows(part, first, seen, probabilities, output)
