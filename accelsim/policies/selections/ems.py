"""EMS: evict, then merge."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.rows import shrink, softmax_kept
from accelsim.jit import kernel
from accelsim.policies._base import Fraction, Positive
from accelsim.policies._selection import IN_BOTH_DIRECTIONS, Needs, Recent
from accelsim.policies.selections._eviction import per_context
from accelsim.policies.selector import (
    Block,
    Decision,
    Floats,
    Selector,
    Shape,
    updates_by_kv_head,
)
from accelsim.traces import OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS


class EMS(Recent):
    """Evict-then-merge (arXiv 2412.08521, 2024).

    Score: probabilities received in all (global) and in the last ``history`` queries (local), each
    divided by its mean over the cache, added. Budget: the best keys and the newest. A key that
    leaves is merged into the kept key that is most similar (mean cosine of keys and values) if the
    similarity reaches ``similarity``; otherwise it is evicted. Merging averages the directions of
    keys and their norms separately, and the values, weighted by the attention received.

    Asks of the hardware: two accumulators per key, an arg-min a step, a cosine of the leaving key
    with every kept one, and a write of one key and one value per merge.

    Attributes:
        history: queries of the local score.
        similarity: least mean cosine for a merge, in [0, 1].
        share: merging changes stored keys, so the heads of a KV head decide together.
    """

    kind: Literal["ems"]
    history: Positive = 32
    similarity: Fraction = 0.6
    recent_fraction: Fraction = 0.25
    share: Literal["kv_head"] = "kv_head"
    needs: ClassVar[Needs] = Needs(
        selection="one_per_step", updates=True, write_backs=True, merges=True
    )
    # A merged key has the place of the key that it was merged into: it is seen where that one is,
    # and has its bias.
    follows: ClassVar[frozenset[str]] = IN_BOTH_DIRECTIONS | {
        "sliding windows", "chunks", "stored masks", "soft-capped scores", "ALiBi",
        "a relative bias", "a stored bias", "sinks", OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS,
    }  # fmt: skip

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return EMSSelector(self, shape, seed)


class _Cache:
    """Keys, values and scores of one layer as they stand in the cache."""

    def __init__(self, shape: Shape, history: int) -> None:
        size = (shape.num_kv_heads, shape.tokens)
        self.key = np.zeros((*size, shape.head_dim))
        self.value = np.zeros((*size, shape.head_dim))
        self.alive = np.zeros(size, dtype=np.bool_)
        self.received = np.zeros(size)
        self.local = np.zeros(size)
        self.ring = np.zeros((size[0], history, size[1]))


class EMSSelector(Selector):
    """Evict, then merge."""

    def __init__(self, rule: EMS, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.budgets = per_context(rule.budget, shape.tokens)
        self.recents = per_context(rule.recent, shape.tokens)
        self._caches: dict[int, _Cache] = {}

    def run(self, block: Block) -> Decision:
        """Admit, evict, merge and attend; row by row, on keys and values of its own."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        cache = self._caches.setdefault(block.layer, _Cache(self.shape, self.rule.history))
        output: Floats = np.zeros(block.query.shape)
        _merge_rows(
            block.query, block.key, block.value, block.scale, block.look.softcap, block.look.bias,
            block.look.added, block.sinks, block.positions, block.visible,
            self.shape.prompt_tokens, self.budgets, self.recents, self.rule.similarity, self.seed,
            cache.key, cache.value, cache.alive, cache.received, cache.local, cache.ring,
            block.scores, decision.kept, output, decision.work, decision.written_vectors,
        )  # fmt: skip
        decision.score_updates = 2 * updates_by_kv_head(decision.kept, self.shape)
        decision.output = output
        return decision


@kernel
def combined_score(
    received: NDArray[np.float64],
    local: NDArray[np.float64],
    alive: NDArray[np.bool_],
    visible: int,
) -> NDArray[np.float64]:
    """Global and local score, each over its mean among the living, added; [visible]."""
    total_received, total_local, count = 0.0, 0.0, 0
    for j in range(visible):
        if alive[j]:
            total_received += received[j]
            total_local += local[j]
            count += 1
    score = np.zeros(visible)
    for j in range(visible):
        if total_received > 0.0:
            score[j] += received[j] * count / total_received
        if total_local > 0.0:
            score[j] += local[j] * count / total_local
    return score


@kernel
def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    dot, aa, bb = 0.0, 0.0, 0.0
    for d in range(len(a)):
        dot += a[d] * b[d]
        aa += a[d] * a[d]
        bb += b[d] * b[d]
    return float(dot / np.sqrt(aa * bb)) if aa > 0.0 and bb > 0.0 else 0.0


@kernel
def merge_into_nearest(
    leaver: int,
    key: NDArray[np.float64],
    value: NDArray[np.float64],
    alive: NDArray[np.bool_],
    weight: NDArray[np.float64],
    visible: int,
    similarity: float,
) -> bool:
    """Merge a token into the living one most like it, or let it go; returns whether it merged.

    Args:
        leaver: token that left; ``alive`` is false there already.
        key, value: [tokens, head_dim], updated.
        alive: [tokens].
        weight: attention received, [tokens].
        visible: tokens so far.
        similarity: least mean cosine of key and value.
    """
    best, nearest = similarity, -1
    for j in range(visible):
        if alive[j]:
            alike = (_cosine(key[leaver], key[j]) + _cosine(value[leaver], value[j])) / 2
            if alike > best or (alike == best and nearest < 0):
                best, nearest = alike, j
    if nearest < 0:
        return False
    total = weight[leaver] + weight[nearest]
    share = weight[leaver] / total if total > 0.0 else 0.5
    old = np.sqrt((key[leaver] ** 2).sum())
    new = np.sqrt((key[nearest] ** 2).sum())
    if old > 0.0 and new > 0.0:
        direction = share * key[leaver] / old + (1 - share) * key[nearest] / new
        length = np.sqrt((direction**2).sum())
        if length > 0.0:
            key[nearest] = direction / length * (share * old + (1 - share) * new)
    value[nearest] = share * value[leaver] + (1 - share) * value[nearest]
    return True


@kernel
def _merge_rows(
    query: NDArray[np.float64],
    new_key: NDArray[np.float64],
    new_value: NDArray[np.float64],
    scale: float,
    softcap: float,
    bias: NDArray[np.float64],
    added: NDArray[np.float32],
    sinks: NDArray[np.float64],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    recents: NDArray[np.int64],
    similarity: float,
    seed: int,
    key: NDArray[np.float64],
    value: NDArray[np.float64],
    alive: NDArray[np.bool_],
    received: NDArray[np.float64],
    local: NDArray[np.float64],
    ring: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    kept: NDArray[np.bool_],
    output: NDArray[np.float64],
    work: NDArray[Any],
    written: NDArray[np.int64],
) -> None:
    kv_heads, history, dim = len(key), ring.shape[1], query.shape[2]
    group = len(query) // kv_heads
    for g in range(kv_heads):
        for r in range(len(positions)):
            position, end = positions[r], visible[r]
            seen = position + 1
            # Of a prompt that is read in both directions a query sees later keys, too.
            for j in range(position, end):
                if not alive[g, j]:
                    key[g, j], value[g, j] = new_key[g, j], new_value[g, j]
                    alive[g, j] = True
            if seen > prompt:
                before = alive[g, :seen].copy()
                score = combined_score(received[g], local[g], alive[g], seen)
                shrink(
                    alive[g], score, seen, recents[seen], budgets[seen], 1, seed + seen * 31 + g,
                    work[g, r],
                )  # fmt: skip
                for j in range(seen):
                    if (
                        before[j]
                        and not alive[g, j]
                        and merge_into_nearest(
                            j, key[g], value[g], alive[g], received[g], seen, similarity
                        )
                    ):
                        written[g, r] += 2
            oldest = ring[g, position % history]
            for j in range(end):
                local[g, j] -= oldest[j]
                oldest[j] = 0.0
            for h in range(g * group, (g + 1) * group):
                row = probabilities[h, r]
                for j in range(end):
                    # A key that the query does not see has -inf.
                    if alive[g, j] and row[j] > -np.inf:
                        dot = 0.0
                        for d in range(dim):
                            dot += query[h, r, d] * key[g, j, d]
                        row[j] = dot * scale
                        # As Look.apply, of a key that is no longer the one it was given.
                        if softcap > 0.0:
                            row[j] = softcap * np.tanh(row[j] / softcap)
                        if len(bias):
                            row[j] += bias[h, j - position + bias.shape[1] // 2]
                        if len(added):
                            row[j] += added[h, r, j]
                kept[h, r, :end] = alive[g, :end]
                softmax_kept(row, row, 0.0, sinks[h], kept[h, r], end)
                for j in range(end):
                    if alive[g, j]:
                        received[g, j] += row[j]
                        oldest[j] += row[j]
                        for d in range(dim):
                            output[h, r, d] += row[j] * value[g, j, d]
            for j in range(end):
                local[g, j] += oldest[j]
