"""DHSA: chunks by the similarity of their means."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK, quick_select
from accelsim.jit import kernel
from accelsim.policies._base import Count, Positive
from accelsim.policies._selection import FROM_PROBABILITIES, Budgeted, Needs
from accelsim.policies.selections._blocks import (
    BlockSelector,
    full_blocks,
    open_blocks,
    ranked,
    shared,
    shown,
)
from accelsim.policies.selector import (
    Block,
    Decision,
    Selector,
    Shape,
    work_by_kv_head,
)


class DHSA(Budgeted):
    """Dynamic hierarchical sparse attention (Xiong et al., arXiv 2510.24606, 2025).

    Score: product of the query with a chunk vector, ``sqrt(|C|)`` times the mean of the keys of the
    chunk; every token of a chunk has the score of its chunk. Budget: the best tokens of each query
    up to the budget, in prompt and decode; the first and the newest tokens stay and are counted.
    Under a mask, of the tokens that a query sees; a bias is in no score of a chunk (ours).
    Nothing is evicted. The paper finds chunk boundaries with a small trained predictor; this uses
    chunks of equal length.

    Asks of the hardware: a vector read per full chunk and written when it fills, a small dense
    product, a top-k over chunks each query and head, a gather of runs.

    Attributes:
        chunk_tokens: keys of a chunk.
        sinks: first tokens that always stay.
        local: newest tokens that always stay, the query's own among them.
    """

    kind: Literal["dhsa"]
    chunk_tokens: Positive = 8
    sinks: Count = 4
    local: Positive = 8
    in_prompt: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(
        selection="every_step", metadata=True, write_backs=True, permanent=False
    )
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return DHSASelector(self, shape, seed)


class DHSASelector(BlockSelector[DHSA]):
    """Chunks by similarity with their means."""

    def run(self, block: Block) -> Decision:
        """Rank the tokens of full chunks by the score of their chunk, in every row."""
        shape, rule = self.shape, self.rule
        decision = Decision.empty(block, shape.num_kv_heads)
        size = rule.chunk_tokens
        full = block.key.shape[1] // size
        chunks = full_blocks(block.key, full, size)
        vectors = np.repeat(chunks.mean(axis=2) * np.sqrt(size), shape.group, axis=0)
        similarity = shared(block.query @ vectors.transpose(0, 2, 1), self.heads)
        budgets = np.array([rule.budget(int(c)) for c in block.visible], dtype=np.int64)
        work = np.zeros((len(similarity), len(block.positions)), dtype=WORK)
        chunks_open = open_blocks(block, full, size)
        _keep_chunks(
            np.ascontiguousarray(similarity), shown(block), chunks_open, block.positions, size,
            budgets, rule.sinks, rule.local, self.heads, self.seed, decision.kept, work,
        )  # fmt: skip
        decision.work = work_by_kv_head(work, shape)
        before = np.arange(full)[None, :] < (block.positions // size)[:, None]
        decision.metadata_vectors[:] = (chunks_open & before).sum(axis=1) * ranked(work)
        decision.written_vectors[:] = (block.positions + 1) % size == 0
        self.attend(block, decision)
        return decision


@kernel
def _keep_chunks(
    similarity: NDArray[np.float64],
    seen: NDArray[np.bool_],
    chunks_open: NDArray[np.bool_],
    positions: NDArray[np.int64],
    size: int,
    budgets: NDArray[np.int64],
    sinks: int,
    local: int,
    heads: int,
    seed: int,
    kept: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    for g in range(similarity.shape[0]):
        for r in range(len(positions)):
            end = positions[r] + 1
            first = g * heads
            # The chunk that holds the query's own token has no vector yet: it is local.
            full = positions[r] // size
            mine = kept[first, r]
            count, visible = 0, 0
            for j in range(end):
                mine[j] = seen[r, j] and (j < sinks or j >= end - local or j >= full * size)
                count += mine[j]
                visible += seen[r, j]
            left = budgets[r] - count
            if left >= visible - count:
                mine[:end] = seen[r, :end]
            elif left > 0:
                chunks = np.flatnonzero(chunks_open[r, :full])
                values = similarity[g, r][chunks]
                for c in np.argsort(-values, kind="mergesort"):
                    for j in range(chunks[c] * size, (chunks[c] + 1) * size):
                        if left > 0 and seen[r, j] and not mine[j]:
                            mine[j] = True
                            left -= 1
                target = min(-(-budgets[r] // size), len(chunks))
                _, _, passes, elements, beats = quick_select(values, target, seed + end * 31 + g)
                own = work[g, r]
                own.size, own.target = len(chunks), target
                own.passes, own.elements, own.beats = passes, elements, beats
            for h in range(first + 1, first + heads):
                kept[h, r, :end] = mine[:end]
