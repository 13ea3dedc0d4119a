"""The functional model in plain float64 NumPy: slow, obvious, and what the kernels must equal."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

_COMPARATORS = 16
"""Of the top-k engine (SpAtten, HPCA 2021, Table I)."""


class Attention(NamedTuple):
    """Attention of some rows.

    Attributes:
        probabilities: [rows, keys], before value pruning; zero where masked.
        used: [rows, keys], which values are multiplied.
        output: [rows, head_dim].
        refetched: [rows], which rows needed the LSB plane.
    """

    probabilities: Float
    used: Mask
    output: Float
    refetched: Mask


def softmax(scores: Float, mask: Mask) -> Float:
    """Softmax along the last axis over the unmasked scores; masked ones get zero."""
    masked = np.where(mask, scores, -np.inf)
    exponentials = np.exp(masked - masked.max(axis=-1, keepdims=True))
    total: Float = exponentials.sum(axis=-1, keepdims=True)
    return np.asarray(exponentials / total, dtype=np.float64)


def stable_topk(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Ascending indexes of the ``k`` largest; among equals the lower index wins."""
    return np.sort(np.argsort(-np.asarray(values), kind="stable")[:k])


def dense(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    mask: Mask,
    *,
    scale: float,
    softcap: float | None = None,
    bias: Float | None = None,
    sinks: NDArray[Any] | None = None,
) -> tuple[Float, Float]:
    """Attention of all heads, as a model computes it: no policy, no quantization.

    Args:
        query: [query_heads, rows, key_dim].
        key: [kv_heads, keys, key_dim]; kv_heads divides query_heads.
        value: [kv_heads, keys, value_dim].
        mask: [rows, keys], keys that a row may see; at least one each.
        scale: of the scores.
        softcap: c of ``c * tanh(score / c)``, after scaling.
        bias: added then, of a shape that broadcasts to [query_heads, rows, keys].
        sinks: [query_heads], scores that take part in the softmax and have no value.

    Returns:
        Probabilities [query_heads, rows, keys], whose sum is below one where there are sinks, and
        the output [query_heads, rows, value_dim].
    """
    heads, rows, _ = query.shape
    kv_heads, keys, _ = key.shape
    grouped = (np.asarray(query, dtype=np.float64) * scale).reshape(kv_heads, -1, query.shape[2])
    scores = grouped @ np.asarray(key, dtype=np.float64).transpose(0, 2, 1)
    scores = scores.reshape(heads, rows, keys)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores[:, ~mask] = -np.inf
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink = np.asarray(sinks, dtype=np.float64)[:, None, None]
        top = np.maximum(top, sink)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sink - top)
    weights /= total
    output = weights.reshape(kv_heads, -1, keys) @ np.asarray(value, dtype=np.float64)
    return weights, np.asarray(output.reshape(heads, rows, -1))


def attention(
    query: NDArray[Any],
    key_first: NDArray[Any],
    key_both: NDArray[Any],
    value: NDArray[Any],
    mask: Mask,
    *,
    scale: float,
    threshold: float = 0.0,
    value_budget: NDArray[np.int64] | None = None,
) -> Attention:
    """Attention under a mask, with progressive quantization and local value pruning.

    Args:
        query: [rows, head_dim].
        key_first: keys from the first fetch, [keys, head_dim].
        key_both: keys from both planes.
        value: [keys, head_dim].
        mask: [rows, keys], keys that a row may see.
        scale: of the scores.
        threshold: rows whose largest probability is below it are computed from ``key_both``.
        value_budget: values kept of n visible keys, indexed by n; ``None`` keeps all.
    """
    wide = np.asarray(query, dtype=np.float64) * scale
    probabilities = softmax(wide @ np.asarray(key_first, dtype=np.float64).T, mask)
    refetched: Mask = probabilities.max(axis=-1) < threshold
    again = softmax(wide @ np.asarray(key_both, dtype=np.float64).T, mask)
    probabilities = np.where(refetched[:, None], again, probabilities)
    used = mask.copy()
    if value_budget is not None:
        for row in range(len(mask)):
            visible = np.flatnonzero(mask[row])
            used[row] = False
            top = stable_topk(probabilities[row, visible], int(value_budget[len(visible)]))
            used[row, visible[top]] = True
    output = np.where(used, probabilities, 0.0) @ np.asarray(value, dtype=np.float64)
    return Attention(probabilities, used, output, refetched)


def quick_select(values: NDArray[Any], target: int, seed: int) -> tuple[float, int, int, int, int]:
    """Model the engine's FIFOs with lists; see :func:`accelsim.functional.topk_engine`."""
    state = seed % 2147483646 + 1
    for _ in range(4):
        state = state * 48271 % 2147483647
    current, passes, elements, beats = [float(v) for v in values], 0, 0, 0
    while True:
        state = state * 48271 % 2147483647
        pivot = current[state % len(current)]
        passes, elements = passes + 1, elements + len(current)
        less: list[float] = []
        greater: list[float] = []
        for start in range(0, len(current), _COMPARATORS):
            row = current[start : start + _COMPARATORS]
            beats += 1
            less += zero_eliminate(row, [v < pivot for v in row])
            greater += zero_eliminate(row, [v > pivot for v in row])
        equal = len(current) - len(less) - len(greater)
        if target <= len(greater):
            current = greater
        elif target <= len(greater) + equal:
            return pivot, target - len(greater), passes, elements, beats
        else:
            target -= len(greater) + equal
            current = less


def zero_eliminate(row: list[float], keep: list[bool]) -> list[float]:
    """Compact a row as the hardware does (SpAtten, section IV-B).

    A prefix sum counts the gaps before each element; log2(n) shift stages move it left by that
    count, one binary digit a stage, so that the order stays.
    """
    gaps = np.cumsum([not k for k in keep]) if keep else np.zeros(0, dtype=np.int64)
    places: list[tuple[float, int] | None] = [
        (v, int(g)) if k else None for v, g, k in zip(row, gaps, keep, strict=True)
    ]
    distance = 1
    while distance < max(len(row), 2):
        shifted: list[tuple[float, int] | None] = [None] * len(row)
        for i, place in enumerate(places):
            if place is not None:
                shifted[i - distance if place[1] & distance else i] = place
        places = shifted
        distance *= 2
    return [place[0] for place in places if place is not None]
