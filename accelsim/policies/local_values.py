"""Local value pruning (SpAtten, HPCA 2021, §III-C).

Per query and head, only the values of the ``ceil(keep * survivors)`` largest probabilities are
fetched. The others contribute nothing, and the probabilities are not normalised again.

What it asks of the hardware: one top-k over the row per query and head, before the values are
fetched.
"""

from __future__ import annotations

from accelsim.configs import Config
from accelsim.policies._base import Ratio


class LocalValues(Config):
    """Which values are fetched."""

    keep: Ratio
    """Share of the surviving keys' values that is fetched."""
