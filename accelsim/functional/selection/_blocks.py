"""Selectors that rank pages or chunks of keys anew for each query: Quest and DHSA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.functional.kernels import filter_top, quick_select
from accelsim.functional.selection._base import (
    Block,
    Decision,
    Floats,
    Selector,
    Shape,
    heads_per_decision,
    work_by_kv_head,
)
from accelsim.functional.selection._kernels import WORK, dense_mask
from accelsim.jit import kernel
from accelsim.policies import DHSA, Quest


class QuestSelector(Selector):
    """Pages by an upper bound of their scores; see :class:`accelsim.policies.Quest`."""

    def __init__(self, rule: Quest, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.heads = heads_per_decision(shape, rule.share)

    def run(self, block: Block) -> Decision:
        """Rank full pages by their bounds; the page being filled is always read."""
        shape, rule = self.shape, self.rule
        decision = Decision.empty(block, shape.num_kv_heads)
        if block.layer < rule.dense_layers:
            decision.kept = dense_mask(len(block.scores), block.visible, block.scores.shape[2])
            self.attend(block, decision)
            return decision
        size = rule.page_tokens
        full = block.key.shape[1] // size
        pages = _blocks(block.key, full, size)
        bounds = np.zeros((len(block.scores), len(block.positions), full))
        if full:
            low = np.repeat(pages.min(axis=2), shape.group, axis=0)
            high = np.repeat(pages.max(axis=2), shape.group, axis=0)
            _page_bounds(block.query, low, high, bounds)
        budgets = np.array([rule.budget(int(c)) for c in block.visible])
        allowed = np.maximum(1, budgets // size)
        shared = _shared(bounds, self.heads)
        work = np.zeros((len(shared), len(block.positions), len(WORK)), dtype=np.int64)
        _keep_pages(
            shared, block.positions, shape.prompt_tokens, size, budgets, allowed - 1, self.heads,
            self.seed, decision.kept, work,
        )  # fmt: skip
        decision.work = work_by_kv_head(work, shape)
        decision.metadata_vectors[:] = 2 * (block.positions // size) * _ranked(work)
        decision.written_vectors[:] = 2 * ((block.positions + 1) % size == 0)
        self.attend(block, decision)
        return decision


class DHSASelector(Selector):
    """Chunks by similarity with their means; see :class:`accelsim.policies.DHSA`."""

    def __init__(self, rule: DHSA, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.heads = heads_per_decision(shape, rule.share)

    def run(self, block: Block) -> Decision:
        """Rank the tokens of full chunks by the score of their chunk, in every row."""
        shape, rule = self.shape, self.rule
        decision = Decision.empty(block, shape.num_kv_heads)
        size = rule.chunk_tokens
        full = block.key.shape[1] // size
        chunks = _blocks(block.key, full, size)
        vectors = np.repeat(chunks.mean(axis=2) * np.sqrt(size), shape.group, axis=0)
        similarity = _shared(block.query @ vectors.transpose(0, 2, 1), self.heads)
        budgets = np.array([rule.budget(int(c)) for c in block.visible], dtype=np.int64)
        work = np.zeros((len(similarity), len(block.positions), len(WORK)), dtype=np.int64)
        _keep_chunks(
            np.ascontiguousarray(similarity), block.positions, size, budgets, rule.sinks,
            rule.local, self.heads, self.seed, decision.kept, work,
        )  # fmt: skip
        decision.work = work_by_kv_head(work, shape)
        decision.metadata_vectors[:] = block.positions // size * _ranked(work)
        decision.written_vectors[:] = (block.positions + 1) % size == 0
        self.attend(block, decision)
        return decision


def _blocks(keys: Floats, full: int, size: int) -> Floats:
    """Full blocks of keys, [kv_heads, full, size, head_dim]; there may be none."""
    heads, _, dim = keys.shape
    return keys[:, : full * size].reshape(heads, full, size, dim)


def _ranked(work: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows [rows] that rank pages or chunks, and so read what ranks them."""
    return np.asarray(work[:, :, 0].any(axis=0))


def _shared(scores: Floats, heads: int) -> Floats:
    """Sum the scores of the query heads that decide together."""
    groups = len(scores) // heads
    return np.asarray(scores.reshape(groups, heads, *scores.shape[1:]).sum(axis=1))


@kernel
def _page_bounds(
    query: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    bounds: NDArray[np.float64],
) -> None:
    """Write the largest score that a key within each page's bounds could have."""
    heads, rows, dim = query.shape
    for h in range(heads):
        for r in range(rows):
            for p in range(low.shape[1]):
                total = 0.0
                for d in range(dim):
                    q = query[h, r, d]
                    total += max(q * low[h, p, d], q * high[h, p, d])
                bounds[h, r, p] = total


@kernel
def _keep_pages(
    bounds: NDArray[np.float64],
    positions: NDArray[np.int64],
    prompt: int,
    size: int,
    budgets: NDArray[np.int64],
    allowed: NDArray[np.int64],
    heads: int,
    seed: int,
    kept: NDArray[np.bool_],
    work: NDArray[np.int64],
) -> None:
    for g in range(bounds.shape[0]):
        for r in range(len(positions)):
            seen = positions[r] + 1
            first, last = g * heads, (g + 1) * heads
            # The page that holds the query's own token, and with it everything in a short context.
            full = positions[r] // size
            if seen <= prompt or full <= allowed[r] or seen <= budgets[r]:
                kept[first:last, r, :seen] = True
                continue
            kept[first:last, r, full * size : seen] = True
            if allowed[r] < 1:
                continue
            values = bounds[g, r, :full].copy()
            kth, equal, passes, elements, beats = quick_select(
                values, allowed[r], 16, seed + seen * 31 + g
            )
            chosen = np.empty(full, dtype=np.bool_)
            filter_top(values, kth, equal, chosen)
            for p in range(full):
                if chosen[p]:
                    kept[first:last, r, p * size : (p + 1) * size] = True
            work[g, r, 0], work[g, r, 1] = full, allowed[r]
            work[g, r, 2], work[g, r, 3], work[g, r, 4] = passes, elements, beats


@kernel
def _keep_chunks(
    similarity: NDArray[np.float64],
    positions: NDArray[np.int64],
    size: int,
    budgets: NDArray[np.int64],
    sinks: int,
    local: int,
    heads: int,
    seed: int,
    kept: NDArray[np.bool_],
    work: NDArray[np.int64],
) -> None:
    for g in range(similarity.shape[0]):
        for r in range(len(positions)):
            seen = positions[r] + 1
            first = g * heads
            # The chunk that holds the query's own token has no vector yet: it is local.
            full = positions[r] // size
            mine = kept[first, r]
            count = 0
            for j in range(seen):
                mine[j] = j < sinks or j >= seen - local or j >= full * size
                count += mine[j]
            left = budgets[r] - count
            if left >= seen - count:
                mine[:seen] = True
            elif left > 0:
                order = np.argsort(-similarity[g, r, :full], kind="mergesort")
                for c in order:
                    for j in range(c * size, (c + 1) * size):
                        if left > 0 and not mine[j]:
                            mine[j] = True
                            left -= 1
                values = similarity[g, r, :full].copy()
                target = min(-(-budgets[r] // size), full)
                _, _, passes, elements, beats = quick_select(
                    values, target, 16, seed + seen * 31 + g
                )
                work[g, r, 0], work[g, r, 1] = full, target
                work[g, r, 2], work[g, r, 3], work[g, r, 4] = passes, elements, beats
            for h in range(first + 1, first + heads):
                kept[h, r, :seen] = mine[:seen]
