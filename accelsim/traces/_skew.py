"""How uneven the attention of a trace is: what pruning and progressive quantization live on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelsim.traces._dense import dense_rows
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
        top_mass: probability mass on the ceil(10 %) most probable of the keys that a query sees.
        flat_fraction: fraction of queries whose largest probability is below 0.1.
        first_token_mass: probability mass on the first token.
    """

    layer: int
    top_mass: float
    flat_fraction: float
    first_token_mass: float


def layer_skew(trace: AttentionTrace, layer: int) -> LayerSkew:
    """Return the skew of one layer, over all sequences of a batch.

    Raises:
        TraceError: a layer that the trace does not hold.
    """
    top = flat = first = 0.0
    total = 0
    for sequence in trace.sequences:
        for rows in dense_rows(sequence, layer):
            counts = np.ceil(TOP_SHARE * rows.seen.sum(axis=1)).astype(np.int64)
            ordered = -np.sort(-rows.probabilities, axis=2)
            masses = np.cumsum(ordered, axis=2)
            top += float(masses[:, np.arange(len(counts)), counts - 1].sum())
            flat += float((ordered[..., 0] < FLAT_BELOW).sum())
            if rows.first == 0:
                first += float(rows.probabilities[..., 0].sum())
        own = sequence.layer(layer)
        total += own.query_heads * own.tokens
    return LayerSkew(layer, top / total, flat / total, first / total)
