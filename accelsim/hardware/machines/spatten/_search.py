"""What a quick-select costs on an engine; shared by both engines, as a workload's numbers are."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from accelsim.workloads.benchmarks import quick_select_work
from accelsim.workloads.queries import BEAT

Ints = NDArray[np.int64]


def search_cycles(
    passes: Ints, beats: Ints, elements: Ints, parallelism: int, overhead: int
) -> Ints:
    """Cycles of quick-selects, each pass rounded up to whole cycles.

    A workload holds passes, elements read and the rounded cycles at 16 comparators, not the size of
    each pass. At 16 comparators the result is exact, at 1 too; at others the rounding of a pass is
    taken as its mean, (P - 1) / 2P cycles.

    Args:
        passes: of each search.
        beats: cycles of 16 comparators, each pass rounded up.
        elements: scores read in all passes.
        parallelism: P, scores examined in a cycle.
        overhead: cycles that a pass costs beyond its scores.
    """
    if parallelism == BEAT:
        cycles = beats
    else:
        rounding = passes * (parallelism - 1) // (2 * parallelism)
        cycles = -(-elements // parallelism) + rounding
    return np.asarray(cycles + passes * overhead, np.int64)


@functools.lru_cache(1 << 12)
def head_selection(size: int, target: int, step: int, layer: int) -> tuple[int, int, int]:
    """Passes, cycles of 16 comparators and elements of the search for the heads of a layer.

    Drawn on ranks, the same each time; a workload does not record it.
    """
    rng = np.random.default_rng((step, layer))
    passes, elements, beats = quick_select_work(size, target, 1, rng)
    return int(passes[0]), int(beats[0]), int(elements[0])
