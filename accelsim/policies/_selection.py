"""What the token-selection policies of the family share: their budget and their declaration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import pydantic

from accelsim.configs import Config
from accelsim.policies._base import (
    ROUNDING_GUARD,
    Count,
    Fraction,
    MinKeys,
    PolicyPart,
    Positive,
    Ratio,
    of_layer,
)
from accelsim.traces import OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelsim.policies.selector import Selector, Shape
    from accelsim.traces import AttentionTrace

Stage = Literal["prefill", "decode"]
"""``prefill``: all queries of a prompt, or of an encoder, at once; ``decode``: one query a step."""


Sharing = Literal["query_head", "kv_head", "layer"]
"""Who shares one decision: a query head decides alone (under grouped-query attention the KV head
then fetches the union over its group), the group of a KV head decides together on summed
probabilities, or all heads of a layer do."""


FROM_PROBABILITIES = frozenset(
    (
        "sliding windows", "chunks", "stored masks", "soft-capped scores", "ALiBi",
        "a relative bias", "a stored bias", "sinks", OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS,
    )
)  # fmt: skip
"""How layers may attend (:meth:`accelsim.traces.AttentionTrace.beyond`) under a rule that decides
from probabilities, positions or keys alone: a token that a query does not see has probability 0."""

IN_BOTH_DIRECTIONS = frozenset(("a prefix", "causal and full layers side by side"))
"""The same of a decoder whose prompt, or its beginning, is read in both directions: for rules that
leave such a prompt dense, or look only at what its queries see."""


class Needs(PolicyPart):
    """What a rule asks of the hardware beyond reading vectors.

    Amounts per request are columns of the workload, and a run that asks for what is not declared
    here is refused; a machine says what it serves (:data:`accelsim.workloads.SERVICES`).

    Attributes:
        selection: how often the top-k engine (or an arg-min) runs.
        updates: whether accumulators, flags or votes of keys are read and written.
        metadata: whether DRAM is read beside keys and values: page bounds, chunk means, index keys.
        products: whether an indexer multiplies beside the attention.
        write_backs: whether DRAM is written: merged vectors, bounds and means.
        merges: whether keys and values that were stored change.
        permanent: whether a token that was removed is gone for good.
    """

    selection: Literal["none", "one_per_step", "batch", "once", "every_step", "every_layer"]
    updates: bool = False
    metadata: bool = False
    products: bool = False
    write_backs: bool = False
    merges: bool = False
    permanent: bool = True


class SelectionPart(PolicyPart):
    """Base of the policies that select tokens by their own rule.

    A new one is one file in ``accelsim/policies/selections/``, or in a package of its own, and one
    YAML: CONTRIBUTING.md has the recipe.

    Attributes:
        min_keys: queries with fewer keys are not selected for. Keys are all tokens that the query
            may see at its position, its own included, removed ones too; of the whole prompt where
            a rule selects once after it; the living tokens of the layer in an encoder.
    """

    min_keys: MinKeys = 0
    needs: ClassVar[Needs]
    encoder: ClassVar[bool] = False
    """Whether it prunes an encoder (no decode steps) instead of the cache of a causal model."""
    in_prompt: ClassVar[bool] = False
    """Whether it selects for the queries of a causal prompt too; else they attend densely."""
    foresees: ClassVar[bool] = False
    """Whether it decides for the queries of a prompt from later ones of it: a prediction inside the
    prompt has then seen what it predicts."""
    drops_queries: ClassVar[bool] = False
    """Whether a token that left a causal prompt has no query any more."""
    follows: ClassVar[frozenset[str]] = frozenset()
    """What :meth:`accelsim.traces.AttentionTrace.beyond` may name for it:
    :data:`FROM_PROBABILITIES` or a part, with :data:`IN_BOTH_DIRECTIONS` or without; a trace with
    anything else is refused."""
    kind: str
    """Name of the rule, a ``Literal`` of one value in every subclass."""

    @classmethod
    def every_kind(cls) -> list[type[Config]]:
        """Settings of all selections there are; importing them loads their kernels."""
        from accelsim.policies._registry import every_selection

        return [cls] if cls is not SelectionPart else [*every_selection()]

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence.

        Args:
            shape: of the model and the run.
            seed: of the pivots of the top-k engine; changes pass counts, never decisions.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected a method selector()")

    def why_not(self, trace: AttentionTrace) -> str:
        """Say why the rule is not for a trace, or return an empty string."""
        return ""

    def why_not_text(self, token_ids: Sequence[int], prompt_tokens: int) -> str:
        """Say why the rule is not for a text inside a model, or return an empty string.

        Args:
            token_ids: the text.
            prompt_tokens: first tokens that are read as a prompt.
        """
        return ""


class Budgeted(SelectionPart):
    """A selection with a budget of tokens.

    Attributes:
        budget_tokens: tokens kept, the query's own included.
        budget_fraction: the same as a fraction of the context.
        budget_tokens_by_layer: tokens kept in every layer.
        budget_fraction_by_layer: the same as fractions; give one of the four.
        taper: the first layer gets ``1 + taper`` times the budget, the last ``1 - taper`` times,
            linear between them (the pyramid of PyramidKV, Cai et al. 2024, with our parameter).
        floor_tokens: tokens kept at least, whatever the budget is; a context has no more than it
            has.
        share: who decides together.
    """

    budget_tokens: Positive | None = None
    budget_fraction: Ratio | None = None
    budget_tokens_by_layer: tuple[Positive, ...] | None = None
    budget_fraction_by_layer: tuple[Ratio, ...] | None = None
    taper: Annotated[float, pydantic.Field(ge=-1.0, le=1.0)] = 0.0
    floor_tokens: Count = 0
    share: Sharing = "query_head"

    @pydantic.model_validator(mode="after")
    def _check_budget(self) -> Budgeted:
        named = [n for n in type(self).model_fields if n.startswith("budget_")]
        given = [name for name in named if getattr(self, name) is not None]
        if len(given) != 1:
            told = f"given: {', '.join(given)}; null takes one away" if given else "given: none"
            raise ValueError(
                f"give one of 'budget_tokens' and 'budget_fraction', or one ..._by_layer ({told})"
            )
        if self.taper and given[0].endswith("_by_layer"):
            raise ValueError("'taper' goes with 'budget_tokens' or 'budget_fraction'")
        return self

    @property
    def by_layer(self) -> bool:
        """Whether layers have budgets of their own; :meth:`at_layer` then says which."""
        return self.taper != 0.0 or any(
            budget is not None
            for budget in (self.budget_tokens_by_layer, self.budget_fraction_by_layer)
        )

    def at_layer(self, layer: int, num_layers: int) -> Self:
        """Return the rule of one layer, with one plain budget.

        Raises:
            ConfigError: a list ``..._by_layer`` for another number of layers.
        """
        changes: dict[str, object] = {"taper": 0.0}
        factor = 1.0
        if self.taper and num_layers > 1:
            factor += self.taper * (1 - 2 * layer / (num_layers - 1))
        for name in ("budget_tokens", "budget_fraction"):
            value, listed = getattr(self, name), getattr(self, f"{name}_by_layer")
            if listed is not None:
                value = of_layer(f"{name}_by_layer", listed, layer, num_layers)
                changes[f"{name}_by_layer"] = None
            if value is not None:
                tapered = value * factor
                tokens = name == "budget_tokens"
                changes[name] = max(1, round(tapered)) if tokens else min(1.0, tapered)
        return self.model_copy(update=changes)

    def budget(self, context_tokens: int) -> int:
        """Tokens that a layer keeps of a context, at least one; all of them below ``min_keys``."""
        if context_tokens < self.min_keys:
            return context_tokens
        if self.budget_tokens is not None:
            return max(self.budget_tokens, self.floor_tokens)
        assert self.budget_fraction is not None
        share = math.ceil(self.budget_fraction * context_tokens - ROUNDING_GUARD)
        return max(1, share, self.floor_tokens)


class ByHead(Budgeted):
    """A budget that the heads of a layer may share.

    Attributes:
        head_floor: lets the heads of a layer share their budgets, as AdaKV does (Feng et al. 2024):
            of all of them the best keys stay, whose head it be, but each head keeps at least this
            part of its own budget (0.2 in its code). Each has its own if not given.
    """

    head_floor: Fraction | None = None

    def floor(self, context_tokens: int) -> int:
        """Keys that each head keeps at least where heads share; -1 where they do not."""
        if self.head_floor is None:
            return -1
        return int(self.budget(context_tokens) * self.head_floor)


class Recent(Budgeted):
    """A budget of which a part goes to the newest tokens.

    Attributes:
        recent_fraction: part of the budget for the newest tokens, the query's own among them.
    """

    recent_fraction: Fraction = 0.5

    def recent(self, context_tokens: int) -> int:
        """Newest tokens kept in any case, at least the query's own."""
        return max(1, math.floor(self.recent_fraction * self.budget(context_tokens)))
