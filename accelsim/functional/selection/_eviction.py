"""Selectors that evict for good by a score per key: H2O, Scissorhands, TOVA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.functional.selection._base import (
    Block,
    Decision,
    Selector,
    Shape,
    heads_per_decision,
    updates_by_kv_head,
    work_by_kv_head,
)
from accelsim.functional.selection._kernels import WORK, shrink, softmax_kept
from accelsim.jit import kernel
from accelsim.policies import H2O, Budgeted, Scissorhands


class _Evicting(Selector):
    """State per layer and deciding group: which keys are alive, and their scores."""

    def __init__(self, rule: Budgeted, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.heads = heads_per_decision(shape, rule.share)
        groups = shape.num_query_heads // self.heads
        # Made when a layer is first seen: a closed loop visits one layer at a time.
        self._state: dict[int, tuple[NDArray[np.bool_], NDArray[np.float64]]] = {}
        self._size = (groups, shape.tokens)
        counts = range(shape.tokens + 1)
        self.budgets = np.array([rule.budget(n) for n in counts], dtype=np.int64)

    def state(self, layer: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return (alive, score), each [groups, tokens]."""
        if layer not in self._state:
            self._state[layer] = (np.zeros(self._size, dtype=np.bool_), np.zeros(self._size))
        return self._state[layer]

    def prepared(self, block: Block) -> tuple[Decision, NDArray[np.int64]]:
        """Return an empty decision and the work [groups, rows, 5] to fill."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        return decision, np.zeros((self._size[0], len(block.positions), len(WORK)), dtype=np.int64)

    def finished(self, decision: Decision, work: NDArray[np.int64]) -> Decision:
        """Return the decision with its work and score updates."""
        decision.work = work_by_kv_head(work, self.shape)
        decision.score_updates = updates_by_kv_head(decision.kept, self.shape)
        return decision


class H2OSelector(_Evicting):
    """Accumulated probabilities; see :class:`accelsim.policies.H2O`."""

    def __init__(self, rule: H2O, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        counts = range(shape.tokens + 1)
        self.recents = np.array([rule.recent(n) for n in counts], dtype=np.int64)

    def run(self, block: Block) -> Decision:
        """Evict, attend, accumulate; row by row."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        _accumulate(
            block.scores, block.both, block.threshold, block.positions, self.shape.prompt_tokens,
            self.budgets, self.recents, self.heads, self.seed, alive, score,
            decision.kept, decision.refetched, work,
        )  # fmt: skip
        return self.finished(decision, work)


class TOVASelector(_Evicting):
    """Probabilities of the latest query; see :class:`accelsim.policies.TOVA`."""

    def run(self, block: Block) -> Decision:
        """Evict, attend, remember the row."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        _last_row(
            block.scores, block.both, block.threshold, block.positions, self.shape.prompt_tokens,
            self.budgets, self.heads, self.seed, alive, score,
            decision.kept, decision.refetched, work,
        )  # fmt: skip
        return self.finished(decision, work)


class ScissorhandsSelector(_Evicting):
    """How often a probability was low; see :class:`accelsim.policies.Scissorhands`."""

    def __init__(self, rule: Scissorhands, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self.rule = rule
        counts = range(shape.tokens + 1)
        self.recents = np.array([rule.recent(n) for n in counts], dtype=np.int64)
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
            block.scores, block.both, block.threshold, block.positions, self.shape.prompt_tokens,
            self.budgets, self.recents, self.rule.drop, self.heads, self.seed, alive, score,
            self._history[block.layer], decision.kept, decision.refetched, work,
        )  # fmt: skip
        return self.finished(decision, work)


@kernel
def _accumulate(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    positions: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    recents: NDArray[np.int64],
    heads: int,
    seed: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
    work: NDArray[np.int64],
) -> None:
    for g in range(len(alive)):
        for r in range(len(positions)):
            seen = positions[r] + 1
            alive[g, seen - 1] = True
            if seen > prompt:
                shrink(
                    alive[g], score[g], seen, recents[seen], budgets[seen], 1, seed + seen * 31 + g,
                    work[g, r],
                )  # fmt: skip
            for h in range(g * heads, (g + 1) * heads):
                kept[h, r, :seen] = alive[g, :seen]
                row = scores[h, r]
                refetched[h, r] = softmax_kept(row, both[h, r], threshold, kept[h, r], seen)
                for j in range(seen):
                    score[g, j] += row[j]


@kernel
def _last_row(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    positions: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    heads: int,
    seed: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
    work: NDArray[np.int64],
) -> None:
    for g in range(len(alive)):
        for r in range(len(positions)):
            seen = positions[r] + 1
            alive[g, seen - 1] = True
            if seen > prompt:
                shrink(
                    alive[g], score[g], seen, 1, budgets[seen], 1, seed + seen * 31 + g, work[g, r]
                )
            score[g, :seen] = 0.0
            for h in range(g * heads, (g + 1) * heads):
                kept[h, r, :seen] = alive[g, :seen]
                row = scores[h, r]
                refetched[h, r] = softmax_kept(row, both[h, r], threshold, kept[h, r], seen)
                for j in range(seen):
                    score[g, j] += row[j] / heads


@kernel
def _flag_low(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    positions: NDArray[np.int64],
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
    work: NDArray[np.int64],
) -> None:
    steps = history.shape[1]
    for g in range(len(alive)):
        for r in range(len(positions)):
            seen = positions[r] + 1
            alive[g, seen - 1] = True
            if seen > prompt:
                shrink(
                    alive[g], score[g], seen, recents[seen], budgets[seen], drop,
                    seed + seen * 31 + g, work[g, r],
                )  # fmt: skip
            flags = history[g, positions[r] % steps]
            mean = np.zeros(seen)
            for h in range(g * heads, (g + 1) * heads):
                kept[h, r, :seen] = alive[g, :seen]
                row = scores[h, r]
                refetched[h, r] = softmax_kept(row, both[h, r], threshold, kept[h, r], seen)
                for j in range(seen):
                    mean[j] += row[j] / heads
            # The score is minus the number of flags in the window: the flag that falls out of it
            # comes back, the new one goes off.
            for j in range(seen):
                low = alive[g, j] and mean[j] < 1.0 / seen
                score[g, j] += (1.0 if flags[j] else 0.0) - (1.0 if low else 0.0)
                flags[j] = low
