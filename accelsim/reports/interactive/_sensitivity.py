"""What each axis of a sweep is worth: how much of a metric's variation it explains alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

_BINS = 5
"""A numeric axis with more than twice as many levels is read in this many equal-count groups."""


def explained(levels: Sequence[Any], values: Sequence[float]) -> tuple[float, float]:
    """Return the share of variance that an axis explains, and worst mean over best mean.

    The share is the correlation ratio (eta squared): variance of the level means, weighted by their
    points, over the variance of all points. On a full grid the shares of the axes and of their
    interactions add up to 1; on a search, whose points are not balanced, axes may share credit.

    Args:
        levels: value of the axis at each point.
        values: the metric at each point.
    """
    groups: dict[Any, list[float]] = defaultdict(list)
    for level, value in zip(_grouped(levels), values, strict=True):
        groups[level].append(value)
    overall = sum(values) / len(values)
    total = sum((value - overall) ** 2 for value in values)
    means = {level: sum(group) / len(group) for level, group in groups.items()}
    between = sum(len(groups[level]) * (mean - overall) ** 2 for level, mean in means.items())
    low, high = min(means.values()), max(means.values())
    return (between / total if total > 0 else 0.0), (high / low if low > 0 else float("nan"))


def _grouped(levels: Sequence[Any]) -> list[Any]:
    keys = [json.dumps(level, sort_keys=True) for level in levels]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in levels)
    if not numeric or len(set(keys)) <= 2 * _BINS:
        return keys
    ordered = sorted(levels)
    edges = [ordered[len(ordered) * step // _BINS] for step in range(1, _BINS)]
    return [sum(level >= edge for edge in edges) for level in levels]
