"""A3 (Ham et al., HPCA 2020): greedy candidate selection and post-scoring selection.

Section numbers are the paper's. Readings of ours, where it leaves room:

* the running sum that switches the minimum side off is looked at after the maximum side of the same
  iteration has been added;
* where no row ends with a positive greedy score, the row with the highest one is the candidate;
* a causal query walks the sorted columns past the keys that it may not see, at no cost;
* the softmax scale is applied after the dot product (a shift where head_dim is 64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import METRICS, account, dense_row
from accelsim.jit import kernel
from accelsim.policies.machine import Float, MachineRule, Outcome, Recorded


@dataclass(frozen=True)
class A3Rule(MachineRule):
    """What A3 computes.

    Attributes:
        iterations: M as a fraction of the keys that a query sees (§VI-B); ``None``: base A3, which
            approximates nothing.
        threshold: T (§IV-D): a row is kept if its weight is at least this fraction of the largest.
        integer_bits: of an input element, beside its sign (§III-B).
        fraction_bits: of an input element; weights carry twice as many.
        range_fit: ``fixed``: inputs beyond the format saturate; ``power-of-two``: queries and keys
            of a layer are shifted into it first, values likewise.
    """

    iterations: float | None = 0.5
    threshold: float = 0.05
    integer_bits: int = 4
    fraction_bits: int = 4
    range_fit: str = "power-of-two"

    @property
    def element_bits(self) -> int:
        """Bits of a query, key or value element."""
        return 1 + self.integer_bits + self.fraction_bits

    def budget(self, visible: NDArray[Any]) -> NDArray[np.int64]:
        """M for numbers of visible keys; 0 for base A3."""
        if self.iterations is None:
            return np.zeros(np.shape(visible), dtype=np.int64)
        return np.maximum(1, np.floor(self.iterations * np.asarray(visible))).astype(np.int64)

    def quantize(self, tensor: NDArray[Any]) -> tuple[Float, float]:
        """Return the tensor as the machine holds it (float64), and the fraction that saturated."""
        wide = np.asarray(tensor, dtype=np.float64)
        limit = 2.0**self.integer_bits - 2.0**-self.fraction_bits
        peak = float(np.abs(wide).max(initial=0.0))
        shift = 1.0
        if self.range_fit == "power-of-two" and peak > 0:
            shift = 2.0 ** np.ceil(np.log2(peak / limit))
        step = shift * 2.0**-self.fraction_bits
        codes = np.rint(wide / step)
        largest = limit * 2.0**self.fraction_bits
        return np.clip(codes, -largest, largest) * step, float((np.abs(codes) > largest).mean())

    def hold(self, recorded: Recorded) -> tuple[Recorded, dict[str, float]]:
        """Quantize; ``saturated_fraction`` is that of input elements beyond the format."""
        held = [self.quantize(tensor) for tensor in recorded]
        saturated = float(np.mean([fraction for _, fraction in held]))
        return Recorded(*(tensor for tensor, _ in held)), {"saturated_fraction": saturated}

    def attend(
        self, recorded: Recorded, held: Recorded, visible: NDArray[np.int64],
        positions: NDArray[np.int64], context: int, scale: float,
    ) -> Outcome:  # fmt: skip
        """Select candidates, score them exactly, drop those of small weight (C, then K rows)."""
        order = np.argsort(held.key[:, :context], axis=1, kind="stable").transpose(0, 2, 1)
        iterations = self.budget(visible)
        counts, used_values, metrics = _attend(
            *recorded,
            *held,
            np.ascontiguousarray(order),
            positions,
            visible,
            iterations,
            scale,
            -np.log(self.threshold) if self.iterations is not None else np.inf,
            2.0 ** (2 * self.fraction_bits),
        )
        kv_heads = len(held.key)
        group = len(held.query) // kv_heads
        grouped = counts.reshape(kv_heads, group * len(positions), 2)
        return Outcome(
            {
                "visible": [np.tile(visible, group)] * kv_heads,
                "iterations": [np.tile(iterations, group)] * kv_heads,
                "candidates": list(grouped[:, :, 0]),
                "kept": list(grouped[:, :, 1]),
            },
            counts[:, :, 0],
            counts[:, :, 1],
            used_values.sum(axis=1),
            metrics,
        )


@kernel
def greedy_candidates(
    query: Float, key: Float, order: NDArray[np.int64], visible: int, iterations: int
) -> NDArray[np.bool_]:
    """Select candidate rows (§IV-C).

    Args:
        query: [head_dim].
        key: [keys, head_dim].
        order: [head_dim, keys], rows of each column by ascending key element.
        visible: rows from this one on are passed over.
        iterations: M.

    Returns:
        Candidates [visible]; at least one.
    """
    dim, keys = order.shape
    greedy = np.zeros(visible)
    # Side 0 walks the products of a column from the largest down, side 1 from the smallest up.
    position = np.empty((2, dim), dtype=np.int64)
    step = np.empty((2, dim), dtype=np.int64)
    product = np.empty((2, dim))
    for side in range(2):
        for d in range(dim):
            down = (query[d] >= 0.0) == (side == 0)
            step[side, d] = -1 if down else 1
            position[side, d] = keys if down else -1
            _advance(query, key, order, visible, side, d, position, step, product)
    total = 0.0
    for _ in range(iterations):
        for side in range(2):
            if side == 1 and total < 0.0:
                continue
            best = 0
            for d in range(1, dim):
                if side == 0 and product[0, d] > product[0, best]:
                    best = d
                if side == 1 and product[1, d] < product[1, best]:
                    best = d
            value = product[side, best]
            if not np.isfinite(value):
                continue
            if (value > 0.0) if side == 0 else (value < 0.0):
                greedy[order[best, position[side, best]]] += value
                total += value
            _advance(query, key, order, visible, side, best, position, step, product)
    chosen: NDArray[np.bool_] = greedy > 0.0
    if not chosen.any():
        chosen[np.argmax(greedy)] = True
    return chosen


@kernel
def _advance(
    query: Float,
    key: Float,
    order: NDArray[np.int64],
    visible: int,
    side: int,
    d: int,
    position: NDArray[np.int64],
    step: NDArray[np.int64],
    product: Float,
) -> None:
    """Move one pointer to the next visible row; an exhausted column never wins again."""
    at = position[side, d] + step[side, d]
    while 0 <= at < order.shape[1] and order[d, at] >= visible:
        at += step[side, d]
    position[side, d] = at
    if 0 <= at < order.shape[1]:
        product[side, d] = query[d] * key[order[d, at], d]
    else:
        product[side, d] = -np.inf if side == 0 else np.inf


@kernel
def _attend(
    raw_query: Float,
    raw_key: Float,
    raw_value: Float,
    query: Float,
    key: Float,
    value: Float,
    order: NDArray[np.int64],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    iterations: NDArray[np.int64],
    scale: float,
    gap: float,
    weight_steps: float,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[Any]]:
    """One layer: counts [heads, rows, (C, K)], values used by any query, sums of METRICS."""
    heads, _, dim = query.shape
    kv_heads = key.shape[0]
    group = heads // kv_heads
    rows, context = len(positions), order.shape[2]
    counts = np.zeros((heads, rows, 2), dtype=np.int64)
    used_values = np.zeros((kv_heads, context), dtype=np.bool_)
    metrics = np.zeros(1, dtype=METRICS)
    log_dense = np.empty(context)
    dense_output, output = np.empty(dim), np.empty(dim)
    scores, weights = np.empty(context), np.empty(context)
    for head in range(heads):
        kv = head // group
        dense_keys = raw_key[kv, :context].T.copy()
        for r in range(rows):
            n = visible[r]
            dense_row(
                raw_query[head, positions[r]],
                dense_keys,
                raw_value[kv],
                n,
                scale,
                log_dense,
                dense_output,
            )
            vector = query[head, positions[r]]
            if iterations[r] > 0:
                scored = greedy_candidates(vector, key[kv], order[kv], n, iterations[r])
            else:
                scored = np.ones(n, dtype=np.bool_)
            best = -np.inf
            for j in range(n):
                if scored[j]:
                    scores[j] = 0.0
                    for d in range(dim):
                        scores[j] += vector[d] * key[kv, j, d]
                    scores[j] *= scale
                    best = max(best, scores[j])
                    counts[head, r, 0] += 1
            total = 0.0
            used = np.zeros(n, dtype=np.bool_)
            for j in range(n):
                weights[j] = 0.0
                if scored[j] and best - scores[j] <= gap:
                    used[j] = True
                    used_values[kv, j] = True
                    weights[j] = np.exp(scores[j] - best)
                    total += weights[j]
                    counts[head, r, 1] += 1
            for d in range(dim):
                output[d] = 0.0
            for j in range(n):
                if used[j]:
                    weights[j] /= total
                    rounded = np.rint(weights[j] * weight_steps) / weight_steps
                    for d in range(dim):
                        output[d] += rounded * value[kv, j, d]
            account(n, log_dense, dense_output, weights, scored, used, output, metrics)
    return counts, used_values, metrics
