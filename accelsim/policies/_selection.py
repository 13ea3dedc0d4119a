"""What the token-selection policies of the family share: their budget and their declaration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from accelsim.configs import Config
from accelsim.policies._base import ROUNDING_GUARD, Fraction, MinKeys, PolicyPart, Positive, Ratio

if TYPE_CHECKING:
    from accelsim.policies.selector import Selector, Shape

Stage = Literal["prefill", "decode"]
"""``prefill``: all queries of a prompt, or of an encoder, at once; ``decode``: one query a step."""


Sharing = Literal["query_head", "kv_head", "layer"]
"""Who shares one decision: a query head decides alone (under grouped-query attention the KV head
then fetches the union over its group), the group of a KV head decides together on summed
probabilities, or all heads of a layer do."""


class Needs(PolicyPart):
    """What a rule asks of the hardware beyond reading vectors.

    Amounts per request are columns of the workload, and a run that asks for what is not declared
    here is refused; a machine says what it serves (:data:`accelsim.workloads.SERVICES`).

    Attributes:
        selection: how often the top-k engine (or an arg-min) runs.
        updates: whether accumulators, flags or votes of keys are read and written.
        metadata: whether DRAM is read beside keys and values: page bounds, chunk means.
        write_backs: whether DRAM is written: merged vectors, bounds and means.
        merges: whether keys and values that were stored change.
        permanent: whether a token that was removed is gone for good.
    """

    selection: Literal["none", "one_per_step", "batch", "once", "every_step", "every_layer"]
    updates: bool = False
    metadata: bool = False
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


class Budgeted(SelectionPart):
    """A selection with a budget of tokens.

    Attributes:
        budget_tokens: tokens kept, the query's own included.
        budget_fraction: the same as a fraction of the context; give one of the two.
        share: who decides together.
    """

    budget_tokens: Positive | None = None
    budget_fraction: Ratio | None = None
    share: Sharing = "query_head"

    @pydantic.model_validator(mode="after")
    def _check_budget(self) -> Budgeted:
        if (self.budget_tokens is None) == (self.budget_fraction is None):
            raise ValueError("give one of 'budget_tokens' and 'budget_fraction'")
        return self

    def budget(self, context_tokens: int) -> int:
        """Tokens kept of a context, at least one; all of them below ``min_keys``."""
        if context_tokens < self.min_keys:
            return context_tokens
        if self.budget_tokens is not None:
            return self.budget_tokens
        assert self.budget_fraction is not None
        return max(1, math.ceil(self.budget_fraction * context_tokens - ROUNDING_GUARD))


class Recent(Budgeted):
    """A budget of which a part goes to the newest tokens.

    Attributes:
        recent_fraction: part of the budget for the newest tokens, the query's own among them.
    """

    recent_fraction: Fraction = 0.5

    def recent(self, context_tokens: int) -> int:
        """Newest tokens kept in any case, at least the query's own."""
        return max(1, math.floor(self.recent_fraction * self.budget(context_tokens)))
