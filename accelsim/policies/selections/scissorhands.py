"""Scissorhands: persistence of importance."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.rows import admit, softmax_kept
from accelsim.jit import kernel
from accelsim.policies._base import Positive
from accelsim.policies._selection import FROM_PROBABILITIES, IN_BOTH_DIRECTIONS, Needs, Recent
from accelsim.policies.selections._eviction import WindowedSelector
from accelsim.policies.selector import Block, Decision, Selector, Shape


class Scissorhands(Recent):
    """Scissorhands (Liu et al., NeurIPS 2023).

    Score: in how many of the last ``history`` steps the key's probability was low. Budget: fixed;
    when it is full the ``drop`` keys that were low most often leave for good; the newest stay.

    Asks of the hardware: a comparison per key and step, a counter over a window of flags, a top-k
    every ``drop`` steps, a gather of single tokens.

    Attributes:
        history: steps that are looked back on.
        drop: keys that leave together.
    """

    kind: Literal["scissorhands"]
    history: Positive = 32
    drop: Positive = 8
    needs: ClassVar[Needs] = Needs(selection="batch", updates=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return ScissorhandsSelector(self, shape, seed)


class ScissorhandsSelector(WindowedSelector):
    """How often a probability was low."""

    def __init__(self, rule: Scissorhands, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self.rule = rule
        self._history: dict[int, NDArray[np.bool_]] = {}

    def run(self, block: Block) -> Decision:
        """Evict a batch, attend, flag what was low."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        if block.layer not in self._history:
            groups, tokens = self._size
            history = np.zeros((groups, self.rule.history, tokens), dtype=np.bool_)
            self._history[block.layer] = history
        _flag_low(
            block.scores, block.both, block.threshold, block.sinks, block.positions,
            block.visible, self.shape.prompt_tokens,
            self.budgets, self.recents, self.rule.drop, self.heads, self.seed, alive, score,
            self._history[block.layer], decision.kept, decision.refetched, work,
        )  # fmt: skip
        return self.finished(decision, work)


@kernel
def _flag_low(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    sinks: NDArray[np.float64],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    recents: NDArray[np.int64],
    drop: int,
    heads: int,
    seed: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    history: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    steps = history.shape[1]
    for g in range(len(alive)):
        for r in range(len(positions)):
            seen, end = positions[r] + 1, visible[r]
            admit(
                alive[g], score[g], seen, prompt, recents[seen], budgets[seen], drop,
                seed + seen * 31 + g, work[g, r],
            )  # fmt: skip
            flags = history[g, positions[r] % steps]
            mean = np.zeros(end)
            for h in range(g * heads, (g + 1) * heads):
                kept[h, r, :end] = alive[g, :end]
                row = scores[h, r]
                refetched[h, r] = softmax_kept(
                    row, both[h, r], threshold, sinks[h], kept[h, r], end
                )
                for j in range(end):
                    mean[j] += row[j] / heads
            # The score is minus the number of flags in the window: the flag that falls out of it
            # comes back, the new one goes off.
            for j in range(end):
                low = alive[g, j] and mean[j] < 1.0 / end
                score[g, j] += (1.0 if flags[j] else 0.0) - (1.0 if low else 0.0)
                flags[j] = low
