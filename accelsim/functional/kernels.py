"""Numba kernels: attention under a policy, and the top-k engine's quick-select.

Each has a plain NumPy twin in :mod:`accelsim.functional.reference`; hypothesis ties them together.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_LCG_MULTIPLIER = 6364136223846793005
_LCG_INCREMENT = 1442695040888963407


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def quick_select(values: NDArray[np.float64], k: int, seed: int) -> tuple[float, int, int, int]:
    """Find the k-th largest value with the engine's own passes.

    SpAtten §IV-B, Algorithm 3: a random pivot splits the remaining elements into two FIFOs, less
    and greater; the search goes on in the one that holds the k-th largest. One pass reads every
    remaining element once.

    Args:
        values: scores [n] float64.
        k: rank of the wanted element, 1 to n.
        seed: of the pivot generator.

    Returns:
        (k-th largest value, how many elements equal to it are kept, passes, elements read).
    """
    fifo = values.copy()
    less = np.empty_like(fifo)
    greater = np.empty_like(fifo)
    count = len(fifo)
    target = k
    passes = 0
    elements = 0
    state = np.uint64(seed) * np.uint64(_LCG_MULTIPLIER) + np.uint64(_LCG_INCREMENT)
    while True:
        state = state * np.uint64(_LCG_MULTIPLIER) + np.uint64(_LCG_INCREMENT)
        pivot = fifo[int((state >> np.uint64(33)) % np.uint64(count))]
        passes += 1
        elements += count
        num_less = 0
        num_greater = 0
        for i in range(count):
            x = fifo[i]
            if x < pivot:
                less[num_less] = x
                num_less += 1
            elif x > pivot:
                greater[num_greater] = x
                num_greater += 1
        num_equal = count - num_less - num_greater
        if num_greater >= target:
            fifo, greater = greater, fifo
            count = num_greater
        elif num_greater + num_equal >= target:
            return pivot, target - num_greater, passes, elements
        else:
            target -= num_greater + num_equal
            fifo, less = less, fifo
            count = num_less


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def top_k_mask(
    values: NDArray[np.float64], k: int, seed: int
) -> tuple[NDArray[np.bool_], int, int]:
    """Mark the ``k`` largest; of equal ones the first come first. Returns (mask, passes, elements).

    The filter pass of the engine: elements above the k-th largest pass the zero eliminator, ties
    pass until their number is used up, and the input order is preserved.
    """
    mask = np.zeros(len(values), dtype=np.bool_)
    if k >= len(values):
        mask[:] = True
        return mask, 0, 0
    if k <= 0:
        return mask, 0, 0
    threshold, ties, passes, elements = quick_select(values, k, seed)
    for i in range(len(values)):
        if values[i] > threshold:
            mask[i] = True
        elif values[i] == threshold and ties > 0:
            mask[i] = True
            ties -= 1
    return mask, passes, elements


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _softmax_rows(
    query: NDArray[Any], keys: NDArray[Any], kept: NDArray[Any], visible: int, row: NDArray[Any]
) -> float:
    """Write the probabilities of ``kept[:visible]`` to ``row``; return the largest."""
    top = -np.inf
    for i in range(visible):
        score = 0.0
        token = kept[i]
        for d in range(len(query)):
            score += query[d] * keys[token, d]
        row[i] = score
        top = max(top, score)
    total = 0.0
    for i in range(visible):
        row[i] = np.exp(row[i] - top)
        total += row[i]
    for i in range(visible):
        row[i] /= total
    return 1.0 / total


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def attend_layer(
    queries: NDArray[Any],
    coarse_keys: NDArray[Any],
    full_keys: NDArray[Any],
    values: NDArray[Any],
    raw_queries: NDArray[Any],
    raw_keys: NDArray[Any],
    raw_values: NDArray[Any],
    positions: NDArray[Any],
    kept: NDArray[Any],
    live_heads: NDArray[Any],
    causal: bool,
    context: int,
    threshold: float,
    value_keep: float,
    seed: int,
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Attention of one layer and step under a policy, beside dense attention on the raw tensors.

    Args:
        queries: quantized and scaled queries [heads, tokens, dim] float32.
        coarse_keys: keys of the first fetch [kv_heads, tokens, dim] float32.
        full_keys: keys after the second fetch; the same array where there is none.
        values: quantized values [kv_heads, tokens, dim] float32.
        raw_queries: recorded and scaled queries, for the dense comparison.
        raw_keys: recorded keys.
        raw_values: recorded values.
        positions: token indexes of the queries of this step, ascending.
        kept: token indexes that survive here, ascending.
        live_heads: query heads that live [heads] bool.
        causal: a query sees only tokens up to its own.
        context: tokens in the context.
        threshold: a row whose largest probability is below it is computed again with full keys.
        value_keep: share of the visible kept tokens whose values are fetched.
        seed: of the top-k engine's pivots.

    Returns:
        importance added per token [tokens]; head magnitude [heads]; values fetched
        [kv_heads, tokens] bool; counts [kv_heads, 8] int64 (query_keys, query_values, refetch
        queries, refetch query_keys, largest row, its target, passes, elements); refetch rows per
        head [heads]; sums [heads, 8] float64 (squared error, squared norm, cosine, KL, kept mass,
        rows, refetched rows, largest probability).
    """
    heads, tokens, dim = queries.shape
    kv_heads = coarse_keys.shape[0]
    group = heads // kv_heads
    importance = np.zeros(tokens)
    magnitude = np.zeros(heads)
    fetched = np.zeros((kv_heads, tokens), dtype=np.bool_)
    counts = np.zeros((kv_heads, 8), dtype=np.int64)
    refetches = np.zeros(heads, dtype=np.int64)
    sums = np.zeros((heads, 8))
    every = np.arange(tokens)
    row = np.empty(tokens)
    dense = np.empty(tokens)
    output = np.empty(dim)
    truth = np.empty(dim)
    for head in range(heads):
        kv = head // group
        for index in range(len(positions)):
            position = positions[index]
            seen = position + 1 if causal else context
            _softmax_rows(raw_queries[head, position], raw_keys[kv], every, seen, dense)
            truth[:] = 0.0
            for token in range(seen):
                for d in range(dim):
                    truth[d] += dense[token] * raw_values[kv, token, d]
            output[:] = 0.0
            if live_heads[head]:
                visible = np.searchsorted(kept, position, side="right") if causal else len(kept)
                top = _softmax_rows(queries[head, position], coarse_keys[kv], kept, visible, row)
                counts[kv, 0] += visible
                if top < threshold:
                    top = _softmax_rows(queries[head, position], full_keys[kv], kept, visible, row)
                    counts[kv, 2] += 1
                    counts[kv, 3] += visible
                    refetches[head] += 1
                    sums[head, 6] += 1
                target = int(np.ceil(np.round(value_keep * visible, 9)))
                chosen, passes, elements = top_k_mask(
                    row[:visible], target, seed + head * 65537 + position
                )
                counts[kv, 1] += target
                counts[kv, 6] += passes
                counts[kv, 7] += elements
                if passes > 0 and visible > counts[kv, 4]:
                    counts[kv, 4] = visible
                    counts[kv, 5] = target
                for i in range(visible):
                    token = kept[i]
                    p = row[i]
                    importance[token] += p
                    sums[head, 4] += dense[token]
                    if p > 0.0 and dense[token] > 0.0:
                        sums[head, 3] += p * np.log(p / dense[token])
                    if chosen[i]:
                        fetched[kv, token] = True
                        for d in range(dim):
                            output[d] += p * values[kv, token, d]
                sums[head, 7] += top
            error = 0.0
            norm = 0.0
            own = 0.0
            dot = 0.0
            for d in range(dim):
                magnitude[head] += abs(output[d])
                error += (output[d] - truth[d]) ** 2
                norm += truth[d] ** 2
                own += output[d] ** 2
                dot += output[d] * truth[d]
            sums[head, 0] += error
            sums[head, 1] += norm
            if norm > 0.0 and own > 0.0:
                sums[head, 2] += dot / np.sqrt(norm * own)
            elif norm == own:
                sums[head, 2] += 1.0
            sums[head, 5] += 1
    return importance, magnitude, fetched, counts, refetches, sums
