"""Top-k engine: quick-select over a row, then a filter pass that keeps the order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import Int, inlined

STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "free",  # first cycle in which a search can begin
            "busy",  # cycles of searching
            "no_scores",  # cycles without a row to search
            "filter_free",  # first cycle in which the filter can begin
            "rows",  # rows that ever came in
            "high_water",  # most rows inside
            "asked",  # cycle in which a further search was asked for
            "waiting",  # cycles of that; 0: there is none
        )
    ]
)
STALLS = ("no_scores",)


@dataclass(eq=False)
class TopK:
    """Quick-select with two arrays of comparators (SpAtten IV-B, Table I).

    Attributes:
        parallelism: scores examined in a cycle.
        rows: row buffers.
        state: what it is doing; one record of :data:`STATE`.
        buffers: cycles in which its row buffers are free, int64 [rows].
    """

    parallelism: int
    rows: int
    state: Any = field(init=False, repr=False, default_factory=lambda: np.zeros(1, STATE))
    buffers: NDArray[np.int64] = field(init=False, repr=False)
    stalls: ClassVar[tuple[str, ...]] = STALLS

    def __post_init__(self) -> None:
        """Begin idle."""
        self.buffers = np.zeros(self.rows, np.int64)

    @property
    def peak_operations_per_cycle(self) -> int:
        """Comparisons a cycle: every score against the pivot in both arrays."""
        return 2 * self.parallelism


@inlined
def row_free(s: Any, rows: Any) -> Int:
    """Cycle in which a buffer for the next row is free."""
    return int(rows[s[0].rows % len(rows)])


@inlined
def search_waiting(s: Any) -> None:
    """Do a search that was asked for, and that nobody waits for."""
    start = max(s[0].free, s[0].asked)
    s[0].no_scores += start - s[0].free
    s[0].busy += s[0].waiting
    s[0].free = start + s[0].waiting
    s[0].waiting = 0


@inlined
def search(s: Any, ready: Int, cycles: Int) -> Int:
    """Search the next row.

    Args:
        s: of the engine.
        ready: cycle in which its last score is there.
        cycles: of the passes.

    Returns:
        Cycle after the search.
    """
    if s[0].waiting and s[0].asked < ready:
        search_waiting(s)
    start = max(s[0].free, ready)
    s[0].no_scores += start - s[0].free
    s[0].busy += cycles
    s[0].free = start + cycles
    return int(s[0].free)


@inlined
def filtered(s: Any, rows: Any, came: Int, start: Int, beats: Int) -> None:
    """Filter the row that was searched, and free its buffer.

    Args:
        s, rows: of the engine.
        came: cycle of its first score.
        start: of the filter pass.
        beats: of it.
    """
    inside = 1
    for row in range(len(rows)):
        inside += rows[row] > came
    s[0].high_water = max(s[0].high_water, min(inside, len(rows)))
    rows[s[0].rows % len(rows)] = s[0].filter_free = start + beats
    s[0].rows += 1
