"""DHSA: chunks by the similarity of their means."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK, quick_select
from accelsim.jit import kernel
from accelsim.policies._base import Count, Positive
from accelsim.policies._selection import Budgeted, Needs
from accelsim.policies.selections._blocks import BlockSelector, full_blocks, ranked, shared
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
        _keep_chunks(
            np.ascontiguousarray(similarity), block.positions, size, budgets, rule.sinks,
            rule.local, self.heads, self.seed, decision.kept, work,
        )  # fmt: skip
        decision.work = work_by_kv_head(work, shape)
        decision.metadata_vectors[:] = block.positions // size * ranked(work)
        decision.written_vectors[:] = (block.positions + 1) % size == 0
        self.attend(block, decision)
        return decision


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
    work: NDArray[Any],
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
                _, _, passes, elements, beats = quick_select(values, target, seed + seen * 31 + g)
                own = work[g, r]
                own.size, own.target = full, target
                own.passes, own.elements, own.beats = passes, elements, beats
            for h in range(first + 1, first + heads):
                kept[h, r, :seen] = mine[:seen]
