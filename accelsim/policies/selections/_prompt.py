"""What rules share that look at a prompt before its queries are asked: a cost, and a softmax."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.policies.selector import Decision, Floats, Shape, work_by_kv_head


class Cost(NamedTuple):
    """What a look at the prompt of one layer takes.

    Attributes:
        work: [query_heads], or [1] of the layer, of :data:`~accelsim.attention.kernels.WORK`.
        reads: keys of a KV head that are read for it.
        updates: accumulators of a query head that are read and written.
    """

    work: NDArray[Any]
    reads: int
    updates: int

    def charge(self, decision: Decision, shape: Shape) -> None:
        """Put it on the first row of a decision."""
        decision.work[:, 0] = work_by_kv_head(self.work[:, None], shape)[:, 0]
        decision.metadata_vectors[:, 0] = self.reads
        decision.score_updates[:, 0] = self.updates * shape.group


def probabilities(
    query: Floats, key: Floats, rows: NDArray[np.int64], alive: NDArray[np.int64], scale: float
) -> Floats:
    """Causal probabilities [query_heads, rows, alive] of some queries over the tokens left.

    Args:
        query: [query_heads, prompt, head_dim].
        key: [kv_heads, prompt, head_dim].
        rows: positions of the queries.
        alive: positions of the keys.
        scale: of the scores.
    """
    keys = np.repeat(key[:, alive], len(query) // len(key), axis=0)
    scores = query[:, rows] @ keys.transpose(0, 2, 1) * scale
    scores[:, alive[None, :] > rows[:, None]] = -np.inf
    scores -= scores.max(axis=2, keepdims=True)
    weights = np.exp(scores)
    weights /= weights.sum(axis=2, keepdims=True)
    return np.asarray(weights)
