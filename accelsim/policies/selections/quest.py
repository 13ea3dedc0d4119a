"""Quest: pages by an upper bound of their scores."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.rows import dense_mask
from accelsim.jit import kernel
from accelsim.policies._base import Layers, Positive
from accelsim.policies._selection import FROM_PROBABILITIES, IN_BOTH_DIRECTIONS, Budgeted, Needs
from accelsim.policies.selections._blocks import (
    BlockSelector,
    full_blocks,
    keep_blocks,
    open_blocks,
    ranked,
    shared,
)
from accelsim.policies.selector import (
    Block,
    Decision,
    Selector,
    Shape,
    work_by_kv_head,
)


class Quest(Budgeted):
    """Quest (Tang et al., ICML 2024): query-aware selection of pages, nothing evicted.

    Score of a page of ``page_tokens`` keys for a query q: ``sum_i max(q_i m_i, q_i M_i)`` with m
    and M the channel-wise minimum and maximum of its keys, an upper bound of every score in it.
    Budget: ``max(1, floor(budget / page_tokens))`` pages each decode step; the page being filled is
    always one of them. The first ``dense_layers`` layers read everything, and so does the prompt.
    Under a mask only pages of which a query sees a key are ranked; a bias is in no bound (ours).

    Asks of the hardware: two rows of metadata read per full page and written when it fills, a
    top-k over pages each step and head, whole pages in one run.

    Attributes:
        page_tokens: keys of a page.
        dense_layers: first layers without selection.
    """

    kind: Literal["quest"]
    page_tokens: Positive = 16
    dense_layers: Layers = 2
    needs: ClassVar[Needs] = Needs(
        selection="every_step", metadata=True, write_backs=True, permanent=False
    )
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return QuestSelector(self, shape, seed)


class QuestSelector(BlockSelector[Quest]):
    """Pages by an upper bound of their scores."""

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
        pages = full_blocks(block.key, full, size)
        bounds = np.zeros((len(block.scores), len(block.positions), full))
        if full and block.positions[-1] >= shape.prompt_tokens:  # a prompt is dense
            low = np.repeat(pages.min(axis=2), shape.group, axis=0)
            high = np.repeat(pages.max(axis=2), shape.group, axis=0)
            _page_bounds(block.query, low, high, bounds)
        budgets = np.array([rule.budget(int(c)) for c in block.visible])
        allowed = np.maximum(1, budgets // size)
        total = shared(bounds, self.heads)
        work = np.zeros((len(total), len(block.positions)), dtype=WORK)
        pages_open = open_blocks(block, full, size)
        keep_blocks(
            total, pages_open, block.positions, block.visible, shape.prompt_tokens, size, budgets,
            allowed - 1, self.heads, self.seed, decision.kept, work,
        )  # fmt: skip
        decision.work = work_by_kv_head(work, shape)
        before = np.arange(full)[None, :] < (block.positions // size)[:, None]
        decision.metadata_vectors[:] = 2 * (pages_open & before).sum(axis=1) * ranked(work)
        decision.written_vectors[:] = 2 * ((block.positions + 1) % size == 0)
        self.attend(block, decision)
        return decision


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
