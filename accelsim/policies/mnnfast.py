"""MNNFast (Jang et al., ISCA 2019): column-wise streaming with zero-skipping.

The paper could be read in its abstract only. Readings of ours: the weight that is compared with the
threshold is the exponential over the running sum of exponentials up to the end of its chunk, which
is what a single pass knows (it is never below the final probability, so nothing that the final
probability would keep is skipped); the softmax divides once, by the full sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import METRICS, account, dense_row, scores_of_row
from accelsim.attention.quantization import quantize_dequantize
from accelsim.jit import kernel
from accelsim.policies.machine import Float, MachineRule, Outcome, Recorded


@dataclass(frozen=True)
class MnnFastRule(MachineRule):
    """What MNNFast computes.

    Attributes:
        threshold: values whose weight is below it are skipped; 0 skips none.
        chunk_rows: keys (and values) in a chunk.
        element_bits: of a key or value element.
        fetch_skipped: whether skipped values are fetched all the same.
    """

    threshold: float = 0.1
    chunk_rows: int = 64
    element_bits: int = 12
    fetch_skipped: bool = True

    def hold(self, recorded: Recorded) -> tuple[Recorded, dict[str, float]]:
        """Quantize, with one scale for a tensor."""
        held = (quantize_dequantize(x, self.element_bits, "per_tensor") for x in recorded)
        return Recorded(*held), {}

    def attend(
        self, recorded: Recorded, held: Recorded, visible: NDArray[np.int64],
        positions: NDArray[np.int64], context: int, scale: float,
    ) -> Outcome:  # fmt: skip
        """Score all keys, chunk by chunk, and skip values of small weight."""
        chunks, used, used_values, metrics = _attend(
            *recorded, *held, positions, visible, context, scale, self.threshold, self.chunk_rows
        )
        return Outcome(
            {"scored": list(chunks[:, :, 0]), "kept": list(chunks[:, :, 1])},
            np.tile(visible, (len(held.query), 1)),
            used,
            used_values.sum(axis=1),
            metrics,
        )


@kernel
def skip_row(
    scores: Float, visible: int, threshold: float, chunk_rows: int, used: NDArray[np.bool_]
) -> tuple[float, float]:
    """Mark the values that one query uses, chunk by chunk; return the top score and the sum.

    The sum is that of exponentials relative to the top score, over all chunks.
    """
    top, total = -np.inf, 0.0
    for start in range(0, visible, chunk_rows):
        stop = min(start + chunk_rows, visible)
        before = top
        for j in range(start, stop):
            top = max(top, scores[j])
        total *= np.exp(before - top)
        for j in range(start, stop):
            total += np.exp(scores[j] - top)
        for j in range(start, stop):
            used[j] = np.exp(scores[j] - top) >= threshold * total
    return top, total


@kernel
def _attend(
    raw_query: Float,
    raw_key: Float,
    raw_value: Float,
    query: Float,
    key: Float,
    value: Float,
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    context: int,
    scale: float,
    threshold: float,
    chunk_rows: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[Any]]:
    """One layer.

    Returns:
        Counts [kv_heads, chunks, (scored, kept)], values used by each query [heads, rows], by any
        query [kv_heads, context], sums of METRICS.
    """
    heads, _, dim = query.shape
    kv_heads = key.shape[0]
    group = heads // kv_heads
    chunks = (context + chunk_rows - 1) // chunk_rows
    counts = np.zeros((kv_heads, chunks, 2), dtype=np.int64)
    query_values = np.zeros((heads, len(positions)), dtype=np.int64)
    used_values = np.zeros((kv_heads, context), dtype=np.bool_)
    metrics = np.zeros(1, dtype=METRICS)
    log_dense = np.empty(context)
    dense_output, output = np.empty(dim), np.empty(dim)
    scores, weights = np.empty(context), np.empty(context)
    used, scored = np.empty(context, dtype=np.bool_), np.ones(context, dtype=np.bool_)
    for head in range(heads):
        kv = head // group
        dense_keys = raw_key[kv, :context].T.copy()
        keys = key[kv, :context].T.copy()
        for r in range(len(positions)):
            n, at = visible[r], positions[r]
            dense_row(
                raw_query[head, at], dense_keys, raw_value[kv], n, scale, log_dense, dense_output
            )
            scores_of_row(query[head, at], keys, n, scale, scores)
            top, total = skip_row(scores, n, threshold, chunk_rows, used)
            for d in range(dim):
                output[d] = 0.0
            for j in range(n):
                weights[j] = np.exp(scores[j] - top) / total
                counts[kv, j // chunk_rows, 0] += 1
                if used[j]:
                    counts[kv, j // chunk_rows, 1] += 1
                    query_values[head, r] += 1
                    used_values[kv, j] = True
                    for d in range(dim):
                        output[d] += weights[j] * value[kv, j, d]
            account(n, log_dense, dense_output, weights, scored, used, output, metrics)
    return counts, query_values, used_values, metrics
