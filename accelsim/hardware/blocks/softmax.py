"""Softmax: scores wait in a FIFO until their sum is known, then leave as probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelsim.jit import inlined

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
START, BEATS, READ = range(3)
"""Columns of a row of scores in the FIFO: its first beat, its beats, the cycle of its first read."""


@dataclass(frozen=True)
class Softmax:
    """Exponentials, accumulated, stored, divided (SpAtten IV-F, Table I).

    Attributes:
        parallelism: scores taken and probabilities given in a cycle.
        fifo: entries of ``parallelism`` exponentials.
    """

    parallelism: int
    fifo: int

    @property
    def peak_operations_per_cycle(self) -> int:
        """Exponentials a cycle."""
        return self.parallelism

    def new_state(self) -> tuple[Any, Any]:
        """State of an idle unit, and its ring of rows, int64 [rows, 3]."""
        state = np.zeros(1, STATE)
        state["parallelism"], state["depth"] = self.parallelism, self.fifo
        return state, np.zeros((2 * self.fifo + 64, 3), np.int64)


@inlined
def room(s: Any, ring: Any, size: int) -> bool:
    """Whether it is known when ``size`` further beats find room."""
    unread = s[0].entered
    if s[0].rows_out < s[0].rows_in:
        unread = ring[s[0].rows_out % len(ring), START]
    return bool(s[0].entered + size - s[0].depth <= unread)


@inlined
def enter(s: Any, ring: Any, size: int, beats: int, start: int, latency: int) -> int:
    """Let a row of scores in, and return the cycle in which its first score may be taken before
    the unit, given that one beat of scores follows the other.

    Args:
        s, ring: of the softmax.
        size: beats of the row.
        beats: cycles in which the unit before gives them.
        start: cycle in which its first beat could be taken there.
        latency: from there to the softmax.
    """
    first = start
    index = s[0].entered
    while s[0].oldest < s[0].rows_out:
        row = s[0].oldest % len(ring)
        if ring[row, START] + ring[row, BEATS] > index - s[0].depth:
            break
        s[0].oldest += 1
    for number in range(s[0].oldest, s[0].rows_out):
        row = number % len(ring)
        begin, count = ring[row, START], ring[row, BEATS]
        if begin >= index + size - s[0].depth:
            break
        # First beat of ours that needs the place of one of this row's.
        ours = max(begin + s[0].depth - index, 0)
        theirs = index + ours - s[0].depth - begin
        if theirs < count:
            read = ring[row, READ] + theirs + 1
            # Cycles from the first beat of the unit before to that which completes it.
            given = ((ours + 1) * beats + size - 1) // size - 1
            first = max(first, read - TO_FIFO - latency - given)
    place = s[0].rows_in % len(ring)
    ring[place, START], ring[place, BEATS] = index, size
    s[0].entered += size
    s[0].rows_in += 1
    return int(first)


@inlined
def mark(s: Any, ring: Any, last: int) -> None:
    """Note how full the FIFO is when the last beat that came enters it."""
    now = last + TO_FIFO
    gone = np.int64(0)
    for number in range(s[0].oldest, s[0].rows_in):
        row = number % len(ring)
        gone = ring[row, START]
        if number >= s[0].rows_out or ring[row, READ] > now:
            break
        gone += min(ring[row, BEATS], now + 1 - ring[row, READ])
    s[0].high_water = max(s[0].high_water, s[0].entered - gone)


@inlined
def read(s: Any, ring: Any, ready: int, taken: int) -> int:
    """Read the next row out.

    Args:
        s, ring: of the softmax.
        ready: cycle in which its sum is known.
        taken: cycle from which what follows takes it.

    Returns:
        Cycle of the first read; the first probability comes ``FROM_FIFO`` later.
    """
    row = s[0].rows_out % len(ring)
    size = ring[row, BEATS]
    known = max(s[0].free, ready)
    start = max(known, taken)
    s[0].no_scores += known - s[0].free
    s[0].blocked += start - known
    s[0].busy += size
    s[0].free = start + size
    ring[row, READ] = start
    s[0].rows_out += 1
    return int(start)
