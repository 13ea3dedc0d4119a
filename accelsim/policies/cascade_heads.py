"""Cascade head pruning (SpAtten, HPCA 2021, §III-B, Algorithm 2).

A head's importance is the sum of the magnitudes of its attention output over features, queries and
the layers so far. ``round(ratio * heads)`` heads stay; a head that goes is gone for later layers.

What it asks of the hardware: one accumulation per output element, one top-k over the heads a layer.
"""

from __future__ import annotations

from accelsim.configs import Config
from accelsim.policies._base import Fraction, Schedule


class CascadeHeads(Config):
    """Which query heads survive each layer."""

    schedule: Schedule
    front: Fraction = 0.30
    """Share of layers at the front that are not pruned (SpAtten §V-A)."""
