"""Cascade token pruning."""

from __future__ import annotations

import math
from typing import Literal

from accelsim.policies._base import ROUNDING_GUARD, Count, Fraction, MinKeys, PolicyPart
from accelsim.policies._schedule import Accumulate, LayerSchedule


class Protect(PolicyPart):
    """Tokens that are kept in any case and counted in the budget.

    Attributes:
        first: the first tokens of the context (attention sinks; [CLS] of an encoder).
        recent: the last tokens of the context.
    """

    first: Count = 4
    recent: Count = 32


class CascadeTokens(LayerSchedule):
    """Cascade token pruning (SpAtten, HPCA 2021, Algorithm 2, sections III-A and V-A).

    Scores: attention probabilities a token received, summed over heads, queries, layers and steps
    (``accumulate``). The rule at work is :mod:`accelsim.policies.cascade`.
    Budget: ``ceil(r_l * context)`` tokens at layer ``l``, shared by all heads of the layer.
    Cascade: a pruned token stays pruned in later layers, and at this layer in all later steps.

    Asks of the hardware: an accumulator per token, one top-k over the survivors a layer and step,
    a list of surviving indexes for the fetcher.

    Attributes:
        importance: ``paper`` selects by the score alone, as printed (only the query's own token is
            exempt); ``protected`` also keeps the tokens of ``protect``. Accumulated scores punish
            young tokens, so ``paper`` removes the newest context first and harms a causal model
            that was not fine-tuned for it.
        protect: used by ``protected`` only.
        per_query: rank by the mean over the queries that saw the token instead of the sum, so that
            young tokens are not at a disadvantage (ours).
        permanent: a pruned token stays out of this layer in all later steps. ``false`` lets every
            query select anew among the survivors of the layer above it, as if the text were a
            prompt processed in parallel; nothing is freed then, only not fetched.
        accumulate: what a token has received when it is ranked: ``steps``, in all layers of all
            earlier steps and the layers before in this one, or ``layers``, in the layers before
            from the queries up to this one. One for tokens and heads.
        floor_tokens: tokens that a layer keeps at least, of a context that has them, whatever its
            ratio says.
        min_keys: no token is pruned while the context, counted without any pruning, has fewer
            tokens: those of the whole prompt in a prefill, those up to the query in decode.
    """

    front: Fraction = 0.15
    importance: Literal["paper", "protected"] = "protected"
    protect: Protect = Protect()
    per_query: bool = False
    permanent: bool = True
    accumulate: Accumulate = "steps"
    floor_tokens: Count = 0
    min_keys: MinKeys = 0

    def protected_ranges(self) -> tuple[int, int]:
        """Return ``(first, recent)``: how many tokens are exempt at either end of the context."""
        if self.importance == "paper":
            return 0, 0
        return self.protect.first, self.protect.recent

    def budget(self, layer: int, num_layers: int, context_tokens: int) -> int:
        """Tokens that ``layer`` keeps of a context, before protection raises it."""
        if context_tokens < self.min_keys:
            return context_tokens
        ratio = self.keep_ratio(layer, num_layers)
        share = math.ceil(ratio * context_tokens - ROUNDING_GUARD)
        return max(1, share, min(self.floor_tokens, context_tokens))
