"""The quick-select top-k engine, as a function of its input."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention import kernels
from accelsim.errors import SimulationError

PARALLELISM = kernels.COMPARATORS
"""Scores that the engine compares in a cycle."""


class TopK(NamedTuple):
    """Result of the engine.

    Attributes:
        kth_value: the k-th largest value.
        equal_kept: how many values equal to it belong to the top k.
        passes: quick-select passes; the final filter pass is not counted.
        elements: values read in those passes.
        beats: cycles in which :data:`PARALLELISM` comparators read them, each pass rounded up.
        indices: ascending indexes of the top k; among equals the lower index wins.
    """

    kth_value: float
    equal_kept: int
    passes: int
    elements: int
    beats: int
    indices: NDArray[np.int64]


def topk_engine(values: NDArray[Any], k: int, seed: int = 0) -> TopK:
    """Select the ``k`` largest values as SpAtten's engine does (section IV-B, Algorithm 3).

    Each pass compares what remains with a random pivot, 16 values at a time, and
    compacts the smaller and the greater ones into two FIFOs with a zero eliminator each; the
    side that holds the k-th largest goes on. A filter pass then keeps what lies above it, in input
    order. The pivots follow from ``seed``; the selected set does not depend on them.

    Raises:
        SimulationError: ``k`` outside 1 to the number of values, or a NaN.
    """
    wide = np.ascontiguousarray(values, dtype=np.float64)
    if wide.ndim != 1 or not 1 <= k <= wide.size:
        raise SimulationError(f"top-k of {wide.shape} values: k = {k}; expected 1 to their number")
    if seed < 0 or bool(np.isnan(wide).any()):
        raise SimulationError("top-k: expected seed >= 0 and no NaN")
    kth, equal, passes, elements, beats = kernels.quick_select(wide, k, seed)
    kept = np.empty(wide.size, dtype=np.bool_)
    kernels.filter_top(wide, kth, equal, kept)
    counts = int(equal), int(passes), int(elements), int(beats)
    return TopK(float(kth), *counts, np.flatnonzero(kept))
