"""Local value pruning."""

from __future__ import annotations

import math

from accelsim.policies._base import ROUNDING_GUARD, PolicyPart, Ratio


class LocalValues(PolicyPart):
    """Local value pruning (SpAtten, HPCA 2021, section III-C).

    Scores: the probabilities of the current query and head. Budget: ``ceil(keep * survivors)``; the
    other values are not fetched and contribute nothing, and the kept probabilities are not
    renormalized. Nothing cascades.

    Asks of the hardware: one top-k over the probabilities of each query and head.

    Attributes:
        keep: fraction of the surviving keys whose values are fetched.
    """

    keep: Ratio

    def budget(self, survivors: int) -> int:
        """Values fetched for a query that sees ``survivors`` keys."""
        return max(1, math.ceil(self.keep * survivors - ROUNDING_GUARD))
