"""Attention timed on the machine at hand, with NumPy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.baselines._shape import AttentionShape, Call

_BUDGET_S = 1.0
_MAX_SIZES = 8
_ELEMENT_BYTES = 4
_BLOCK_SCORES = 1 << 22
"""Scores held at once (16 MiB), so that a long prefill does not exhaust the memory."""


def measure(shape: AttentionShape) -> dict[str, Any]:
    """Time dense float32 attention for the calls of ``shape``.

    At most eight call sizes, spread over the range, are timed (median of repeats within one
    second, one repeat where a single call takes longer); the time of the others is read off the
    line between them. Masked scores are computed too. Energy is not known here, and ``dram_bytes``
    is what has to move, not what was observed.
    """
    calls = sorted(shape.calls, key=lambda call: call.pairs)
    picks = sorted({round(i) for i in np.linspace(0, len(calls) - 1, _MAX_SIZES)})
    timed = [(calls[i].pairs, _time(shape, calls[i], _BUDGET_S / len(picks))) for i in picks]
    sizes, seconds = (np.array(column) for column in zip(*timed, strict=True))
    latency = sum(call.count * float(np.interp(call.pairs, sizes, seconds)) for call in calls)
    return {
        "latency_s": latency,
        "energy_j": None,
        "dram_bytes": shape.bytes_moved(_ELEMENT_BYTES),
        "kind": "measured",
    }


def _time(shape: AttentionShape, call: Call, budget_s: float) -> float:
    rng = np.random.default_rng(0)
    group = shape.query_heads // shape.kv_heads
    query = rng.standard_normal(
        (shape.kv_heads, group * call.queries, shape.head_dim), dtype=np.float32
    )
    key, value = (
        rng.standard_normal((shape.kv_heads, call.context, shape.head_dim), dtype=np.float32)
        for _ in range(2)
    )
    warm_up = _timed(query, key, value)
    if warm_up > budget_s:
        return warm_up
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while not samples or time.perf_counter() < end:
        samples.append(_timed(query, key, value))
    return float(np.median(samples))


def _timed(
    query: NDArray[np.float32], key: NDArray[np.float32], value: NDArray[np.float32]
) -> float:
    rows = max(_BLOCK_SCORES // (key.shape[0] * key.shape[1]), 1)
    start = time.perf_counter()
    for first in range(0, query.shape[1], rows):
        _attend(query[:, first : first + rows], key, value)
    return time.perf_counter() - start


def _attend(
    query: NDArray[np.float32], key: NDArray[np.float32], value: NDArray[np.float32]
) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = query @ key.transpose(0, 2, 1)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    output: NDArray[np.float32] = scores @ value
    return output
