"""Local value pruning."""

from __future__ import annotations

import math

import pydantic

from accelsim.policies._base import ROUNDING_GUARD, MinKeys, PolicyPart, Ratio, of_layer


class LocalValues(PolicyPart):
    """Local value pruning (SpAtten, HPCA 2021, section III-C).

    Scores: the probabilities of the current query and head. Budget: ``ceil(keep * survivors)``; the
    other values are not fetched and contribute nothing, and the kept probabilities are not
    renormalized. Nothing cascades.

    Asks of the hardware: one top-k over the probabilities of each query and head.

    Attributes:
        keep: fraction of the surviving keys whose values are fetched.
        keep_by_layer: the same for every layer; give one of the two.
        min_keys: a query that scores fewer keys, counted after token pruning, uses all their values
            and starts no top-k.
    """

    keep: Ratio | None = None
    keep_by_layer: tuple[Ratio, ...] | None = None
    min_keys: MinKeys = 0

    @pydantic.model_validator(mode="after")
    def _check_keep(self) -> LocalValues:
        if (self.keep is None) == (self.keep_by_layer is None):
            raise ValueError("give one of 'keep' and 'keep_by_layer'")
        return self

    def at_layer(self, layer: int, num_layers: int) -> LocalValues:
        """Return the rule of one layer, with one ``keep``."""
        if self.keep_by_layer is None:
            return self
        keep = of_layer("keep_by_layer", self.keep_by_layer, layer, num_layers)
        return self.model_copy(update={"keep": keep, "keep_by_layer": None})

    def budget(self, survivors: int) -> int:
        """Values fetched for a query that sees ``survivors`` keys, by the rule of a layer."""
        if survivors < self.min_keys:
            return survivors
        assert self.keep is not None
        return max(1, math.ceil(self.keep * survivors - ROUNDING_GUARD))
