"""How a mean keep ratio is spread over the layers."""

from __future__ import annotations

import math
from typing import Literal

import pydantic

from accelsim.policies._base import ROUNDING_GUARD, Fraction, PolicyPart, Ratio, of_layer

Accumulate = Literal["steps", "layers"]
"""What tokens and heads have received when a layer ranks them; SpAtten's Algorithm 2 can be read as
both. ``steps``: as a decoder runs, all layers of all earlier steps and the layers before in this
step; a prompt is one step, ranked as a whole. ``layers``: every query on its own, the layers before
this one from queries up to its own, so that a model can run many tokens at once."""


class LayerSchedule(PolicyPart):
    """Keep ratios by layer: nothing pruned in front, then linear (SpAtten, section V-A).

    Layer ``l`` of ``L`` keeps everything for ``l < ceil(front * L)``. Over the remaining layers the
    ratio goes linearly from ``r_start`` to ``r_end`` with ``r_start + r_end = 2 * mean_keep``.
    ``r_start`` is ``start_keep``, or ``mean_keep + slope / 2``; with neither it lies half-way
    between the mean and 1, but not so high that ``r_end`` falls below half the mean (our choice:
    the paper prints the rule and not the end points).

    Attributes:
        mean_keep: mean keep ratio over the pruned layers.
        start_keep: keep ratio of the first pruned layer.
        slope: ``r_start - r_end``; instead of ``start_keep``.
        front: fraction of the layers that stay unpruned.
        keep_by_layer: the keep ratio of every layer, instead of all of the above.
    """

    mean_keep: Ratio | None = None
    start_keep: Ratio | None = None
    slope: Fraction | None = None
    front: Fraction = 0.0
    keep_by_layer: tuple[Ratio, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _check_ends(self) -> LayerSchedule:
        if (self.mean_keep is None) == (self.keep_by_layer is None):
            raise ValueError("give one of 'mean_keep' and 'keep_by_layer'")
        if self.keep_by_layer is not None:
            if self.start_keep is not None or self.slope is not None:
                raise ValueError("'start_keep' and 'slope' go with 'mean_keep'")
            return self
        if self.start_keep is not None and self.slope is not None:
            raise ValueError("give 'start_keep' or 'slope', not both")
        start, end = self.ends()
        # Without the guard, 2 * 0.6 - 1.0 against 0.2 would depend on binary rounding.
        if start > 1 + ROUNDING_GUARD or end > 1 + ROUNDING_GUARD or end <= 0:
            raise ValueError(
                f"mean_keep {self.mean_keep:g} gives keep ratios from {start:g} to {end:g}; "
                "expected both in (0, 1]"
            )
        return self

    def ends(self) -> tuple[float, float]:
        """Return ``(r_start, r_end)`` of a schedule with a mean."""
        mean = self.mean_keep
        assert mean is not None
        if self.start_keep is not None:
            start = self.start_keep
        elif self.slope is not None:
            start = mean + self.slope / 2
        else:
            start = mean + min((1 - mean) / 2, mean / 2)
        return start, 2 * mean - start

    def keep_ratio(self, layer: int, num_layers: int) -> float:
        """Keep ratio of ``layer`` of ``num_layers``; a single pruned layer gets the mean.

        Raises:
            ConfigError: ``keep_by_layer`` is for another number of layers.
        """
        if self.keep_by_layer is not None:
            return of_layer("keep_by_layer", self.keep_by_layer, layer, num_layers)
        front = math.ceil(self.front * num_layers - ROUNDING_GUARD)
        if layer < front:
            return 1.0
        pruned = num_layers - front
        start, end = self.ends()
        if pruned == 1:
            return (start + end) / 2
        return start + (end - start) * (layer - front) / (pruned - 1)
