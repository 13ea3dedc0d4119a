"""Softmax: scores wait in a FIFO until their sum is known, then leave as probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import Int, in_place, inlined

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
            "read",  # beats whose reading time is known
            "gone",  # beats of those that were read when the FIFO was last looked at
            "free",  # first cycle in which a beat can be read
            "busy",  # beats read
            "no_scores",  # cycles in which nothing could be read
            "blocked",  # cycles in which what follows did not take
            "high_water",  # most beats in the FIFO
        )
    ]
)
STALLS = ("no_scores", "blocked")
START, BEATS, FIRST, ENTERED, GIVEN, READ, LEFT = range(7)
"""Columns of the ring. Of a row of scores: its first beat and its beats in the FIFO, and the cycles
of its first read and in which its last beat enters. Of a beat of the unit before: the cycle in
which it enters the FIFO. Of a beat in the FIFO: the cycles in which it is read and leaves the
divider."""


@dataclass(eq=False)
class Softmax:
    """Exponentials, accumulated, stored, divided (SpAtten IV-F, Table I).

    Attributes:
        parallelism: scores taken and probabilities given in a cycle.
        fifo: entries of ``parallelism`` exponentials.
        state: what it is doing; one record of :data:`STATE`.
        ring: the latest rows, and beats of either kind, int64 [entries, 7].
    """

    parallelism: int
    fifo: int
    state: Any = field(init=False, repr=False, default_factory=lambda: np.zeros(1, STATE))
    ring: NDArray[np.int64] = field(init=False, repr=False)
    stalls: ClassVar[tuple[str, ...]] = STALLS

    def __post_init__(self) -> None:
        """Begin idle."""
        self.state["parallelism"], self.state["depth"] = self.parallelism, self.fifo
        self.ring = np.zeros((2 * self.fifo + 256, 7), np.int64)

    @property
    def peak_operations_per_cycle(self) -> int:
        """Exponentials a cycle."""
        return self.parallelism


@inlined
def room(s: Any, size: Int) -> bool:
    """Whether it is known when ``size`` further beats find room."""
    return bool(s[0].entered + size - s[0].depth <= s[0].read)


@inlined
def enter(s: Any, ring: Any, scores: Int, per_beat: Int, last: Int, latency: Int) -> Int:
    """Let a row of scores in.

    The pipeline between the unit before and the FIFO is elastic: it holds ``latency`` beats, of
    which one enters when the one so many before it leaves; they wait there while the FIFO is full.

    Args:
        s, ring: of the softmax.
        scores: of the row.
        per_beat: scores that the unit before gives in a cycle.
        last: cycle in which it could give the last of them.
        latency: from the unit before to the FIFO.

    Returns:
        Cycle in which it gives the last of them. The cycle in which that enters the FIFO is the
        ``ENTERED`` of the row.
    """
    size = -(-scores // s[0].parallelism)
    beats = -(-scores // per_beat)
    place = s[0].rows_in % len(ring)
    ring[place, START], ring[place, BEATS] = s[0].entered, size
    given = np.int64(last - beats)
    entered = ring[(s[0].given - 1) % len(ring), GIVEN]
    full = s[0].entered
    complete = min(s[0].parallelism, scores)
    come = np.int64(0)
    for beat in range(s[0].given, s[0].given + beats):
        given = max(given + 1, ring[(beat - latency) % len(ring), GIVEN])
        entered = max(entered + 1, given + latency)
        come = min(come + per_beat, scores)
        # A beat that completes none in the FIFO needs no room.
        while come >= complete and full < s[0].entered + size:
            if full >= s[0].depth:
                entered = max(entered, ring[(full - s[0].depth) % len(ring), READ] + 1)
            full += 1
            complete = min(complete + s[0].parallelism, scores)
        ring[beat % len(ring), GIVEN] = entered
    ring[place, ENTERED] = entered
    s[0].entered = full
    s[0].given += beats
    s[0].rows_in += 1
    return int(given)


@in_place
def known_reads(s: Any, ring: Any, ahead: Any, ring_ahead: Any, never: int) -> bool:
    """Take over when beats are read of which more is known than of the rows that they belong to.

    Args:
        s, ring: of the softmax.
        ahead, ring_ahead: copies that went on as if what is not known never came.
        never: cycle from which on a time is not known.

    Returns:
        Whether there were any.
    """
    before = s[0].read
    while s[0].read < ahead[0].read:
        at = ring_ahead[s[0].read % len(ring), READ]
        if at >= never:
            break
        ring[s[0].read % len(ring), READ] = at
        s[0].read += 1
    return bool(s[0].read > before)


@inlined
def mark(s: Any, ring: Any) -> None:
    """Note how full the FIFO is when the last beat that came enters it."""
    now = ring[(s[0].rows_in - 1) % len(ring), ENTERED]
    while s[0].gone < s[0].read and ring[s[0].gone % len(ring), READ] <= now:
        s[0].gone += 1
    s[0].high_water = max(s[0].high_water, s[0].entered - s[0].gone)


@inlined
def read(s: Any, ring: Any, accepted: Int) -> Int:
    """Read the next row out, as soon as its sum is known.

    The divider is an elastic pipeline of ``FROM_FIFO`` beats, which wait there while what follows
    does not accept the row.

    Args:
        s, ring: of the softmax.
        accepted: cycle from which what follows accepts its first probability.

    Returns:
        Cycle of its first probability, so that one a cycle follows: if it must be held back for
        that, too.
    """
    row = s[0].rows_out % len(ring)
    first, size = ring[row, START], ring[row, BEATS]
    known = max(s[0].free, ring[row, ENTERED] + TO_SUM)
    at = np.int64(known - 1)
    left = ring[(first - 1) % len(ring), LEFT]
    for beat in range(first, first + size):
        at = max(at + 1, ring[(beat - FROM_FIFO) % len(ring), LEFT])
        left = max(left + 1, at + FROM_FIFO)
        if beat == first:
            left = max(left, np.int64(accepted))
            ring[row, FIRST] = at
        ring[beat % len(ring), READ], ring[beat % len(ring), LEFT] = at, left
    s[0].no_scores += known - s[0].free
    s[0].blocked += at + 1 - size - known
    s[0].busy += size
    s[0].free = at + 1
    # Some may have been known before (`known_reads`).
    s[0].read = max(s[0].read, first + size)
    s[0].rows_out += 1
    return int(left + 1 - size)
