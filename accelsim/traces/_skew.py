"""How uneven the attention of a trace is: what pruning and progressive quantization live on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelsim.traces._trace import AttentionTrace

TOP_SHARE = 0.10
"""Share of the keys of a query whose mass is reported."""

FLAT_BELOW = 0.1
"""A query whose largest probability is below this counts as flat: the threshold under which
SpAtten fetches the least significant bits (HPCA 2021, section III-D)."""


@dataclass(frozen=True)
class LayerSkew:
    """Skew of one layer, averaged over its query heads and queries.

    Attributes:
        layer: the layer, as numbered in the trace.
        top_mass: probability mass on the ceil(10 %) most probable keys of a query.
        flat_fraction: fraction of queries whose largest probability is below 0.1.
        first_token_mass: probability mass on the first token.
    """

    layer: int
    top_mass: float
    flat_fraction: float
    first_token_mass: float


def layer_skew(trace: AttentionTrace, layer: int) -> LayerSkew:
    """Return the skew of one layer.

    Raises:
        TraceError: a layer that the trace does not hold.
    """
    query, key = trace.query(layer), trace.key(layer)
    top = flat = first = 0.0
    contexts = (
        np.arange(1, trace.tokens + 1) if trace.causal else np.full(trace.tokens, trace.tokens)
    )
    counts = np.ceil(TOP_SHARE * contexts).astype(np.int64)
    for head in range(trace.num_query_heads):
        rows = _probabilities(query[head], key[head // trace.group], trace.scale, trace.causal)
        ordered = -np.sort(-rows, axis=1)
        top += float(np.cumsum(ordered, axis=1)[np.arange(trace.tokens), counts - 1].sum())
        flat += float((ordered[:, 0] < FLAT_BELOW).sum())
        first += float(rows[:, 0].sum())
    total = trace.num_query_heads * trace.tokens
    return LayerSkew(layer, top / total, flat / total, first / total)


def _probabilities(
    query: NDArray[np.float32], key: NDArray[np.float32], scale: float, causal: bool
) -> NDArray[np.float64]:
    """Attention probabilities of one head, [tokens, tokens]."""
    scores = query.astype(np.float64) @ key.astype(np.float64).T * scale
    if causal:
        scores[np.triu_indices(len(scores), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
