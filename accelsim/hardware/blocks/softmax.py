"""Softmax: scores wait in a FIFO until their sum is known, then leave as probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import Int, inlined

TO_FIFO = 28
"""Cycles from a score to its exponential in the FIFO: dequantize 7, exponential 21 (release,
section 2.10: the authors' behavioural model of BERT)."""
TO_SUM = 23
"""Cycles from the last exponential of a row to the sum: accumulate (release, section 2.10)."""
FROM_FIFO = 36
"""Cycles from the FIFO to a probability: divide 29, requantize 7 (release, section 2.10)."""

STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "parallelism",  # scores of a beat
            "depth",  # beats that the FIFO holds
            "entered",  # beats that ever entered
            "given",  # beats that the unit before ever gave
            "rows_in",  # rows of scores that ever entered
            "rows_out",  # rows whose reading time is known
            "oldest",  # first row that still matters to the FIFO
            "free",  # first cycle in which a beat can be read
            "busy",  # beats read
            "no_scores",  # cycles in which nothing could be read
            "blocked",  # cycles in which what follows did not take
            "high_water",  # most beats in the FIFO
        )
    ]
)
STALLS = ("no_scores", "blocked")
START, BEATS, FIRST, READ, GIVEN, GIVEN_FIRST, GIVEN_BEATS, ENTERED = range(8)
"""Columns of a row of scores: its first beat and its beats in the FIFO; the cycle of its first read
and that from which it is read a beat a cycle; that of its first probability; the first of its beats
and its beats in the unit before, and the cycle in which the last of them enters the FIFO."""


@dataclass(eq=False)
class Softmax:
    """Exponentials, accumulated, stored, divided (SpAtten IV-F, Table I).

    Attributes:
        parallelism: scores taken and probabilities given in a cycle.
        fifo: entries of ``parallelism`` exponentials.
        state: what it is doing; one record of :data:`STATE`.
        ring: the latest rows, int64 [rows, 8].
    """

    parallelism: int
    fifo: int
    state: Any = field(init=False, repr=False, default_factory=lambda: np.zeros(1, STATE))
    ring: NDArray[np.int64] = field(init=False, repr=False)
    stalls: ClassVar[tuple[str, ...]] = STALLS

    def __post_init__(self) -> None:
        """Begin idle."""
        self.state["parallelism"], self.state["depth"] = self.parallelism, self.fifo
        self.ring = np.zeros((2 * self.fifo + 256, 8), np.int64)

    @property
    def peak_operations_per_cycle(self) -> int:
        """Exponentials a cycle."""
        return self.parallelism


@inlined
def room(s: Any, ring: Any, size: Int) -> bool:
    """Whether it is known when ``size`` further beats find room."""
    unread = s[0].entered
    if s[0].rows_out < s[0].rows_in:
        unread = ring[s[0].rows_out % len(ring), START]
    return bool(s[0].entered + size - s[0].depth <= unread)


@inlined
def _read_at(ring: Any, row: Int, beat: Int) -> Int:
    """Cycle in which a beat of a row is read: the divider behind holds ``FROM_FIFO`` beats."""
    return int(max(ring[row, READ], ring[row, GIVEN] - FROM_FIFO) + beat)


@inlined
def enter(s: Any, ring: Any, size: Int, beats: Int, last: Int, latency: Int) -> Int:
    """Let a row of scores in.

    The pipeline between the unit before and the FIFO is elastic: it holds ``latency`` beats more,
    which wait there while the FIFO is full.

    Args:
        s, ring: of the softmax.
        size: beats of the row in the FIFO.
        beats: beats in which the unit before gives them, one a cycle.
        last: cycle in which it could give the last one.
        latency: from the unit before to the FIFO.

    Returns:
        Cycle in which it gives the last one. The cycle in which that enters the FIFO is the
        ``ENTERED`` of the row.
    """
    index = s[0].entered
    while s[0].oldest < s[0].rows_out:
        row = s[0].oldest % len(ring)
        far = ring[row, START] + ring[row, BEATS] <= index - s[0].depth
        if not far or ring[row, GIVEN_FIRST] + ring[row, GIVEN_BEATS] > s[0].given - latency:
            break
        s[0].oldest += 1
    entered = last + latency
    if s[0].rows_in > 0:
        entered = max(entered, ring[(s[0].rows_in - 1) % len(ring), ENTERED] + beats)
    given = np.int64(last)
    for number in range(s[0].oldest, s[0].rows_in):
        row = number % len(ring)
        begin, count = ring[row, START], ring[row, BEATS]
        if number < s[0].rows_out and begin < index + size - s[0].depth:
            # First and last beat of ours that need the place of one of this row's.
            ours = max(begin + s[0].depth - index, 0)
            final = min(begin + count - 1 + s[0].depth - index, size - 1)
            for mine in (ours, final):
                theirs = index + mine - s[0].depth - begin
                if 0 <= theirs < count:
                    # Beats of the unit before behind the one that completes it.
                    rest = beats - ((mine + 1) * beats + size - 1) // size
                    entered = max(entered, _read_at(ring, row, theirs) + 1 + rest)
        # The unit before may be ``latency`` beats ahead of the FIFO.
        ours = ring[row, GIVEN_FIRST] + ring[row, GIVEN_BEATS] - 1 + latency - s[0].given
        if ours < beats:
            given = max(given, ring[row, ENTERED] + beats - 1 - max(ours, 0))
    if beats > latency:
        given = max(given, entered - latency)
    place = s[0].rows_in % len(ring)
    ring[place, START], ring[place, BEATS], ring[place, ENTERED] = index, size, entered
    ring[place, GIVEN_FIRST], ring[place, GIVEN_BEATS] = s[0].given, beats
    s[0].entered += size
    s[0].given += beats
    s[0].rows_in += 1
    return int(given)


@inlined
def mark(s: Any, ring: Any) -> None:
    """Note how full the FIFO is when the last beat that came enters it."""
    now = ring[(s[0].rows_in - 1) % len(ring), ENTERED]
    gone = np.int64(0)
    for number in range(s[0].oldest, s[0].rows_in):
        row = number % len(ring)
        gone = ring[row, START]
        if number >= s[0].rows_out or ring[row, READ] > now:
            break
        gone += min(ring[row, BEATS], max(now + 1 - _read_at(ring, row, 0), 1))
    s[0].high_water = max(s[0].high_water, s[0].entered - gone)


@inlined
def read(s: Any, ring: Any, accepted: Int) -> Int:
    """Read the next row out, as soon as its sum is known.

    The divider is an elastic pipeline of ``FROM_FIFO`` beats, which wait there while what follows
    does not accept the row.

    Args:
        s, ring: of the softmax.
        accepted: cycle from which what follows accepts its first probability.

    Returns:
        Cycle of its first probability; one beat a cycle follows.
    """
    row = s[0].rows_out % len(ring)
    index, size = ring[row, START], ring[row, BEATS]
    known = max(s[0].free, ring[row, ENTERED] + TO_SUM)
    start, first, begin = known, accepted, known
    for back in range(1, FROM_FIFO + 1):
        if back > s[0].rows_out:
            break
        before = (s[0].rows_out - back) % len(ring)
        theirs = index - FROM_FIFO - ring[before, START]
        if back == 1:
            first = max(first, ring[before, GIVEN] + ring[before, BEATS])
        if theirs >= ring[before, BEATS]:
            break
        if theirs > -size:
            start = max(start, ring[before, GIVEN] + theirs)
            # Places that are free in the divider take the first beats before.
            if theirs >= 0:
                begin = max(begin, ring[before, GIVEN] + theirs)
    first = max(first, start + FROM_FIFO)
    ring[row, FIRST], ring[row, READ], ring[row, GIVEN] = begin, start, first
    end = max(start, first - FROM_FIFO if size > FROM_FIFO else start) + size
    s[0].no_scores += known - s[0].free
    s[0].blocked += end - size - known
    s[0].busy += size
    s[0].free = end
    s[0].rows_out += 1
    return int(first)
