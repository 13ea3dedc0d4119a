"""TOVA: what the latest query attends to."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.rows import admit, softmax_kept
from accelsim.jit import kernel
from accelsim.policies._base import Count
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Budgeted,
    Needs,
    Sharing,
)
from accelsim.policies.selections._eviction import EvictingSelector
from accelsim.policies.selector import Block, Decision, Selector, Shape


class TOVA(Budgeted):
    """Token omission via attention (Oren et al., EMNLP 2024).

    Score: probability that the latest query gives to a key, averaged over the heads of the layer.
    Budget: a cache of fixed size; the key of lowest score leaves for good. No protection of recent
    tokens but the query's own, which has no score yet.

    Asks of the hardware: a mean over heads, one arg-min per layer and step, one list of indexes per
    layer.

    Attributes:
        recent_tokens: newest keys beside the query's own that never leave. The paper protects none;
            kvpress, which selects once, keeps the last token of the prompt (1).
    """

    kind: Literal["tova"]
    share: Sharing = "layer"
    recent_tokens: Count = 0
    needs: ClassVar[Needs] = Needs(selection="one_per_step", updates=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return TOVASelector(self, shape, seed)


class TOVASelector(EvictingSelector):
    """Probabilities of the latest query."""

    def __init__(self, rule: TOVA, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self.recent = 1 + rule.recent_tokens

    @property
    def prompt_rows(self) -> int:
        """The last one: it replaces the scores of those before."""
        return 1

    def run(self, block: Block) -> Decision:
        """Evict, attend, remember the row."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        _last_row(
            block.scores, block.both, block.threshold, block.sinks, block.positions,
            block.visible, self.shape.prompt_tokens,
            self.recent, self.budgets, self.heads, self.seed, alive, score,
            decision.kept, decision.refetched, work,
        )  # fmt: skip
        decision = self.finished(decision, work)
        # Of a prompt the last query ranks, and replaces what those before it would say.
        decision.score_updates[:, block.positions < self.shape.prompt_tokens - 1] = 0
        return decision


@kernel
def _last_row(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    sinks: NDArray[np.float64],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    recent: int,
    budgets: NDArray[np.int64],
    heads: int,
    seed: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    for g in range(len(alive)):
        for r in range(len(positions)):
            seen, end = positions[r] + 1, visible[r]
            admit(
                alive[g], score[g], seen, prompt, recent, budgets[seen], 1, seed + seen * 31 + g,
                work[g, r],
            )  # fmt: skip
            score[g, :end] = 0.0
            for h in range(g * heads, (g + 1) * heads):
                kept[h, r, :end] = alive[g, :end]
                row = scores[h, r]
                refetched[h, r] = softmax_kept(
                    row, both[h, r], threshold, sinks[h], kept[h, r], end
                )
                for j in range(end):
                    score[g, j] += row[j] / heads
