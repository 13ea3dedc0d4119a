"""H2O: heavy hitters and recent tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.rows import admit_heads, softmax_kept
from accelsim.jit import kernel
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    ByHead,
    Needs,
    Recent,
)
from accelsim.policies.selections._eviction import WindowedSelector
from accelsim.policies.selector import Block, Decision, Selector, Shape


class H2O(Recent, ByHead):
    """Heavy-Hitter Oracle (Zhang et al., NeurIPS 2023).

    Score: the sum of all attention probabilities a key has received, in prompt and decode, in its
    layer. Budget: heavy hitters and a window of the newest tokens, half each in the paper. When the
    budget is full, the key of lowest score outside the window leaves for good.

    Asks of the hardware: one accumulator per key and deciding head, updated by every query; an
    arg-min a step; a top-k after the prompt; a gather of single tokens.
    """

    kind: Literal["h2o"]
    needs: ClassVar[Needs] = Needs(selection="one_per_step", updates=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return H2OSelector(self, shape, seed)


class H2OSelector(WindowedSelector):
    """Accumulated probabilities."""

    def run(self, block: Block) -> Decision:
        """Evict, attend, accumulate; row by row."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        _accumulate(
            block.scores, block.both, block.threshold, block.sinks, block.positions,
            block.visible, self.shape.prompt_tokens,
            self.budgets, self.floors, self.recents, self.heads, self.seed, alive, score,
            decision.kept, decision.refetched, work,
        )  # fmt: skip
        return self.finished(decision, work)


@kernel
def _accumulate(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    sinks: NDArray[np.float64],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    floors: NDArray[np.int64],
    recents: NDArray[np.int64],
    heads: int,
    seed: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    for r in range(len(positions)):
        seen, end = positions[r] + 1, visible[r]
        admit_heads(
            alive, score, seen, prompt, recents[seen], budgets[seen], floors[seen],
            seed + seen * 31, work[:, r],
        )  # fmt: skip
        for g in range(len(alive)):
            for h in range(g * heads, (g + 1) * heads):
                kept[h, r, :end] = alive[g, :end]
                row = scores[h, r]
                refetched[h, r] = softmax_kept(
                    row, both[h, r], threshold, sinks[h], kept[h, r], end
                )
                for j in range(end):
                    score[g, j] += row[j]
