"""What rules that evict by a score per key share: living keys, their scores, the budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.policies._selection import Budgeted, ByHead, Recent
from accelsim.policies.selector import (
    Block,
    Decision,
    Selector,
    Shape,
    heads_per_decision,
    updates_by_kv_head,
    work_by_kv_head,
)


def per_context(count: Callable[[int], int], tokens: int) -> NDArray[np.int64]:
    """Return a count of a rule for every context, [tokens + 1]."""
    return np.array([count(context) for context in range(tokens + 1)], dtype=np.int64)


class EvictingSelector(Selector):
    """State per layer and deciding group: which keys are alive, and their scores."""

    def __init__(self, rule: Budgeted, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.heads = heads_per_decision(shape, rule.share)
        groups = shape.num_query_heads // self.heads
        # Made when a layer is first seen: a closed loop visits one layer at a time.
        self._state: dict[int, tuple[NDArray[np.bool_], NDArray[np.float64]]] = {}
        self._size = (groups, shape.tokens)
        self.budgets = per_context(rule.budget, shape.tokens)
        self.floors = np.full(shape.tokens + 1, -1)
        if isinstance(rule, ByHead):
            self.floors = per_context(rule.floor, shape.tokens)

    def state(self, layer: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return (alive, score), each [groups, tokens]."""
        if layer not in self._state:
            alive = np.zeros(self._size, dtype=np.bool_)
            # Nothing leaves before the prompt is over, whether its rows are shown or not.
            alive[:, : self.shape.prompt_tokens] = True
            self._state[layer] = (alive, np.zeros(self._size))
        return self._state[layer]

    def prepared(self, block: Block) -> tuple[Decision, NDArray[Any]]:
        """Return an empty decision and the work [groups, rows] to fill."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        return decision, np.zeros((self._size[0], len(block.positions)), dtype=WORK)

    def finished(self, decision: Decision, work: NDArray[Any]) -> Decision:
        """Return the decision with its work and score updates."""
        decision.work = work_by_kv_head(work, self.shape)
        decision.score_updates = updates_by_kv_head(decision.kept, self.shape)
        return decision


class WindowedSelector(EvictingSelector):
    """One whose newest keys never leave."""

    def __init__(self, rule: Recent, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self.recents = per_context(rule.recent, shape.tokens)
