"""What rules share that look at a prompt as a whole and then say which keys each query scores."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.rows import dense_mask
from accelsim.attention.topk import topk_engine
from accelsim.policies._selection import SelectionPart
from accelsim.policies.selections._prompt import Cost, add_search
from accelsim.policies.selector import Block, Decision, Floats, Prompt, Selector, Shape

Rule = TypeVar("Rule", bound=SelectionPart)
Pattern = TypeVar("Pattern")


class PatternSelector(Selector, Generic[Rule, Pattern]):
    """A pattern for each layer, found before its prompt is attended to; decode is dense."""

    def __init__(self, rule: Rule, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self._patterns: dict[int, Pattern] = {}
        self._costs: dict[int, Cost] = {}

    @abstractmethod
    def find(self, prompt: Prompt, seed: int) -> tuple[Pattern, Cost] | None:
        """Find the pattern of a prompt, or ``None`` where all is kept.

        Args:
            prompt: the whole one.
            seed: of the pivots of the top-k engine.
        """

    @abstractmethod
    def keep(self, pattern: Pattern, positions: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
        """Mark keys [query_heads, rows, keys]; those after a query may be marked, too."""

    def foresee(self, prompt: Prompt) -> None:
        """Find the pattern of a prompt."""
        rows, tokens = prompt.positions, self.shape.prompt_tokens
        if rows[0] != 0 or not self.rule.min_keys <= len(rows) == tokens:
            return
        found = self.find(prompt, self.seed + prompt.layer * 977)
        if found is not None:
            self._patterns[prompt.layer], self._costs[prompt.layer] = found

    def run(self, block: Block) -> Decision:
        """Attend to the pattern in the prompt, and densely after it."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        decision.kept = dense_mask(len(block.scores), block.visible, block.scores.shape[2])
        pattern = self._patterns.get(block.layer)
        if pattern is not None and self.stage(block) == "prefill":
            marked = np.zeros_like(decision.kept)
            self.keep(pattern, block.positions, marked)
            decision.kept &= marked
            cost = self._costs.pop(block.layer, None)
            if cost is not None:
                cost.charge(decision, self.shape)
        self.attend(block, decision)
        return decision


def largest(values: Floats, count: int, seed: int, work: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the ``count`` largest of each head's values [heads, values], the first among equals.

    Args:
        values: no NaN.
        count: may be 0.
        seed: of the pivots.
        work: [heads] of :data:`~accelsim.attention.kernels.WORK`, added to.
    """
    marked = np.zeros(values.shape, dtype=np.bool_)
    if count >= values.shape[1]:
        marked[:] = True
    elif count > 0:
        for head, row in enumerate(values):
            top = topk_engine(row, count, seed + head)
            marked[head, top.indices] = True
            add_search(work[head], len(row), count, top)
    return marked


def no_work(heads: int) -> NDArray[Any]:
    """Work [heads] to add to."""
    return np.zeros(heads, dtype=WORK)


def columns_and_distances(weights: Floats) -> tuple[Floats, Floats]:
    """Probabilities of the last queries by key, and by distance from the query.

    Args:
        weights: [heads, rows, tokens], causal, of the last ``rows`` of ``tokens`` queries.

    Returns:
        Two sums over the rows, [heads, tokens] each.
    """
    heads, rows, tokens = weights.shape
    distances = np.zeros((heads, tokens))
    for row in range(rows):
        seen = tokens - rows + row + 1
        distances[:, :seen] += weights[:, row, :seen][:, ::-1]
    return np.asarray(weights.sum(axis=1)), distances
