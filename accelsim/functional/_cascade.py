"""The state of cascade pruning: importance, and who is alive at which layer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from accelsim.functional.kernels import top_k_mask
from accelsim.policies import CascadeHeads, CascadeTokens


class TokenCascade:
    """Which tokens survive each layer, over the steps of one run.

    Removal is permanent: a token that went at a layer stays out of that layer in all later steps,
    and out of all later layers in the same step.
    """

    def __init__(self, rule: CascadeTokens | None, num_layers: int, tokens: int) -> None:
        self._rule = rule
        self._ratios = rule.schedule.ratios(num_layers, rule.front) if rule else [1.0] * num_layers
        self._alive = np.ones((num_layers, tokens), dtype=bool)
        self.importance: NDArray[np.float64] = np.zeros(tokens)

    def select(
        self, layer: int, survivors: NDArray[np.bool_], context: int, own: int | None
    ) -> tuple[NDArray[np.bool_], tuple[int, int, int, int]]:
        """Choose the tokens of a layer.

        Args:
            layer: layer index.
            survivors: tokens that survived the layer before, in this step [tokens] bool.
            context: tokens in the context.
            own: the query's own token, which always survives; ``None`` in an encoder.

        Returns:
            (kept [tokens] bool, (candidates, target, passes, elements) of the top-k engine).
        """
        candidates = survivors & self._alive[layer]
        candidates[context:] = False
        ratio = self._ratios[layer]
        budget = math.ceil(round(ratio * context, 9))
        indices = np.flatnonzero(candidates)
        if self._rule is None or len(indices) <= budget:
            return candidates, (0, 0, 0, 0)
        forced = np.zeros(len(candidates), dtype=bool)
        forced[: self._rule.protect.first] = True
        forced[max(context - self._rule.protect.recent, 0) : context] = (
            self._rule.protect.recent > 0
        )
        if own is not None:
            forced[own] = True
        forced &= candidates
        kept = forced.copy()
        free = indices[~forced[indices]]
        room = max(budget - int(forced.sum()), 0)
        mask, passes, elements = top_k_mask(self.importance[free], room, layer * 8191 + context)
        kept[free[mask]] = True
        self._alive[layer] &= kept | (np.arange(len(kept)) >= context)
        return kept, (len(free), room, passes, elements)


class HeadCascade:
    """Which query heads survive each layer."""

    def __init__(self, rule: CascadeHeads | None, num_layers: int, heads: int) -> None:
        self._ratios = rule.schedule.ratios(num_layers, rule.front) if rule else [1.0] * num_layers
        self._alive = np.ones((num_layers, heads), dtype=bool)
        self.importance: NDArray[np.float64] = np.zeros(heads)

    def select(self, layer: int, survivors: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Choose the heads of a layer among the survivors of the one before [heads] bool."""
        candidates = survivors & self._alive[layer]
        budget = max(round(self._ratios[layer] * len(candidates)), 1)
        indices = np.flatnonzero(candidates)
        if len(indices) > budget:
            mask, _, _ = top_k_mask(self.importance[indices], budget, layer)
            candidates = np.zeros_like(candidates)
            candidates[indices[mask]] = True
        self._alive[layer] = candidates
        return candidates
