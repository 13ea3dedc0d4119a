"""What rules share that look at a prompt before its queries are asked: a cost, and a softmax."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.topk import TopK
from accelsim.policies.selector import Decision, Floats, Prompt, Shape, work_by_kv_head


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


def add_search(work: Any, size: int, target: int, top: TopK) -> None:
    """Add a search to a record of work; its size is that of the largest.

    Args:
        work: of :data:`~accelsim.attention.kernels.WORK`, written.
        size, target: values, and how many of them are looked for.
        top: what the search took.
    """
    for name in ("passes", "elements", "beats"):
        work[name] += getattr(top, name)
    if size > work["size"]:
        work["size"], work["target"] = size, target


def probabilities(
    prompt: Prompt, rows: NDArray[np.int64], alive: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.bool_]]:
    """What some queries give to the tokens that are left, as the layer attends.

    Args:
        prompt: of the layer.
        rows: positions of the queries.
        alive: positions of the keys, ascending.

    Returns:
        Probabilities [query_heads, rows, alive], and which keys each query sees [rows, alive]. A
        query that sees none of them gives nothing.
    """
    look = prompt.look(rows)
    ends = rows + 1 if look.ends is None else look.ends
    # How rows look may be told up to the last key that one of them sees, and no further.
    behind = int((alive >= ends.max()).sum())
    alive = alive[: len(alive) - behind]
    query, key = prompt.query[:, rows].astype(np.float64), prompt.key[:, alive].astype(np.float64)
    keys = np.repeat(key, len(query) // len(key), axis=0)
    scores = query @ keys.transpose(0, 2, 1) * prompt.scale
    look.apply(scores, rows, alive)
    seen = alive[None, :] < ends[:, None]
    if look.hidden is not None:
        seen &= ~look.hidden[:, alive]
    scores[:, ~seen] = -np.inf
    sinks = look.sinks_of(len(scores))[:, None, None]
    top = np.maximum(scores.max(axis=2, keepdims=True, initial=-np.inf), sinks)
    top = np.where(top > -np.inf, top, 0.0)
    weights = np.exp(scores - top)
    total = weights.sum(axis=2, keepdims=True) + np.exp(sinks - top)
    given = weights / np.where(total > 0, total, 1.0)
    return np.pad(given, ((0, 0), (0, 0), (0, behind))), np.pad(seen, ((0, 0), (0, behind)))
