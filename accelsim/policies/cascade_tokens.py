"""Cascade token pruning (SpAtten, HPCA 2021, §III-A, Algorithm 2).

A token's importance is the sum of the attention probabilities it has received, over heads, queries
and layers, and over the steps of a generation. At each layer the most important survivors stay; a
token that goes is gone for all later layers and heads, and for that layer in all later steps.

What it asks of the hardware: one accumulation per probability, and one top-k over the survivors'
importance per layer and step.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config
from accelsim.policies._base import Fraction, Schedule

Count = Annotated[int, Field(ge=0)]


class Protect(Config):
    """Tokens that stay whatever their importance; they count in the number to keep."""

    first: Count = 0
    """First tokens of the context (attention sinks)."""
    recent: Count = 0
    """Last tokens of the context, which few queries have seen yet."""


class CascadeTokens(Config):
    """Which tokens survive each layer."""

    schedule: Schedule
    front: Fraction = 0.15
    """Share of layers at the front that are not pruned (SpAtten §V-A)."""
    importance: Literal["paper", "protected"] = "paper"
    """``paper``: accumulated probability alone, as printed. ``protected``: first and recent tokens
    stay; accumulated importance punishes young tokens, which wrecks an untuned causal model."""
    protect: Protect = Protect()

    @model_validator(mode="after")
    def _protect_only_where_it_is_named(self) -> CascadeTokens:
        protects = self.protect.first + self.protect.recent > 0
        if protects != (self.importance == "protected"):
            raise ValueError(
                "tokens.protect goes with importance: protected, and needs first or recent above 0"
            )
        return self
