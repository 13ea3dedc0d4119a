"""The state that cascade pruning carries through layers and steps (design: importance, masks)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelsim.functional.topk import PARALLELISM, topk_engine
from accelsim.policies import CascadeHeads, Policy, Stage


@dataclass(frozen=True)
class Selection:
    """Work of one selection; zero where nothing had to be selected."""

    size: int = 0
    target: int = 0
    passes: int = 0
    elements: int = 0
    beats: int = 0


class Cascade:
    """Importance scores and survivors.

    Attributes:
        token_importance: [tokens] probabilities received so far.
        head_importance: [query_heads] absolute output so far.
    """

    def __init__(self, layers: int, tokens: int, heads: int, policy: Policy, seed: int) -> None:
        """Start with everything alive and every score zero."""
        self.token_importance: NDArray[np.float64] = np.zeros(tokens)
        self.head_importance: NDArray[np.float64] = np.zeros(heads)
        self._layers, self._seed = layers, seed
        self._stages = policy.by_stage()
        self._tokens_alive = np.ones((layers, tokens), dtype=np.bool_)
        self._heads_alive = np.ones((layers, heads), dtype=np.bool_)
        self._heads_selected: set[tuple[int, CascadeHeads]] = set()

    def select_tokens(
        self, stage: Stage, layer: int, survivors: NDArray[np.bool_], context: int, own: int | None
    ) -> tuple[NDArray[np.bool_], Selection]:
        """Prune the tokens of a layer.

        Args:
            stage: whose rule holds.
            layer: where.
            survivors: [tokens], those of the previous layer in this step.
            context: tokens so far.
            own: token of the query, which always survives; ``None`` in an encoder.

        Returns:
            The new survivors [tokens], and the top-k work.
        """
        candidates: NDArray[np.bool_] = survivors & self._tokens_alive[layer]
        rule = self._stages[stage].tokens
        if rule is None:
            return candidates, Selection()
        first, recent = rule.protected_ranges()
        forced = np.zeros_like(candidates)
        forced[:first] = True
        forced[max(0, context - recent) : context] = True
        if own is not None:
            forced[own] = True
        forced &= candidates
        budget = rule.budget(layer, self._layers, context)
        target = max(budget - int(forced.sum()), 0)
        free = np.flatnonzero(candidates & ~forced)
        if len(free) <= target:
            return candidates, Selection()
        kept = forced
        work = Selection()
        if target:
            seed = self._seed + 1 + layer * 104729 + context * 31
            importance = self.token_importance[free]
            if rule.per_query:
                importance = importance / (context - free if own is not None else context)
            top = topk_engine(importance, target, PARALLELISM, seed)
            kept[free[top.indices]] = True
            work = Selection(len(free), target, top.passes, top.elements, top.beats)
        if rule.permanent:
            self._tokens_alive[layer, candidates & ~kept] = False
        return kept, work

    def select_heads(
        self, stage: Stage, layer: int, survivors: NDArray[np.bool_], context: int
    ) -> NDArray[np.bool_]:
        """Prune the query heads of a layer, the first time a rule acts; later steps repeat it.

        Args:
            stage: whose rule holds.
            layer: where.
            survivors: [query_heads], those of the previous layer in this step.
            context: tokens so far.
        """
        candidates: NDArray[np.bool_] = survivors & self._heads_alive[layer]
        rule = self._stages[stage].heads
        if rule is None or context < rule.min_keys or (layer, rule) in self._heads_selected:
            return candidates
        self._heads_selected.add((layer, rule))
        alive = np.flatnonzero(candidates)
        budget = rule.budget(layer, self._layers, len(candidates))
        if len(alive) > budget:
            order = np.argsort(-self.head_importance[alive], kind="stable")
            candidates[alive[order[budget:]]] = False
        self._heads_alive[layer] = candidates
        return candidates
