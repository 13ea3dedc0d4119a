"""Dot-product array: one query against the vectors of a key buffer, a beat of scores a cycle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from accelsim.errors import WorkloadError
from accelsim.hardware.blocks._crossbar import RING
from accelsim.hardware.blocks.matrix_fetcher import FILL
from accelsim.jit import Int, inlined

STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "free",  # first cycle in which a beat can be taken
            "busy",  # beats taken
            "no_keys",  # cycles without vectors or query
            "softmax_full",  # cycles in which scores had no room
            "scores",  # per beat
            "latency",  # cycles from a beat taken to its scores
        )
    ]
)
STALLS = ("no_keys", "softmax_full")


@dataclass(eq=False)
class DotProduct:
    """Broadcast, multiply, reconfigurable adder tree (SpAtten IV-E).

    Attributes:
        multipliers: of the array (SpAtten Table I: 512).
        head_dim: elements of a vector.
        scores_per_cycle: most scores that leave in a cycle (SpAtten IV-E: 8).
        padded: a line holds as many whole vectors as fit, and the rest of it is idle; else
            ``head_dim`` must divide ``multipliers``.
        state: what it is doing; one record of :data:`STATE`.
    """

    multipliers: int
    head_dim: int
    scores_per_cycle: int
    padded: bool = False
    state: Any = field(init=False, repr=False, default_factory=lambda: np.zeros(1, STATE))
    stalls: ClassVar[tuple[str, ...]] = STALLS

    def __post_init__(self) -> None:
        """Begin idle; refuse a head that does not fit the line.

        Raises:
            WorkloadError: ``head_dim`` does not divide ``multipliers``, or is larger.
        """
        if self.padded and self.head_dim > self.multipliers:
            raise WorkloadError(
                f"head_dim {self.head_dim} is wider than the line of {self.multipliers} "
                "multipliers; expected at most that"
            )
        if self.multipliers % self.head_dim and not self.padded:
            raise WorkloadError(
                f"head_dim {self.head_dim} does not divide the line of {self.multipliers} "
                "multipliers; expected a divisor"
            )
        self.state["scores"], self.state["latency"] = self.scores, self.latency

    @property
    def vectors_per_line(self) -> int:
        """Vectors in one line of a buffer as wide as the array."""
        return self.multipliers // self.head_dim

    @property
    def scores(self) -> int:
        """Vectors taken in a cycle."""
        return min(self.vectors_per_line, self.scores_per_cycle)

    @property
    def latency(self) -> int:
        """Cycles from a beat to its scores: broadcast 1, multiply 1, adder tree log2(head_dim)
        (release, section 2.9: 8 cycles at 64)."""
        return 2 + (self.head_dim - 1).bit_length()

    @property
    def peak_operations_per_cycle(self) -> int:
        """Multiply-accumulates a cycle."""
        return self.multipliers


@inlined
def stream_end(
    beats: Any,
    begin: Int,
    end: Int,
    before: Int,
    transactions: Int,
    vectors: Int,
    wanted: Int,
    per_beat: Int,
    start: Int,
) -> Int:
    """Last cycle in which a beat is taken of vectors that are still arriving.

    Args:
        beats: of the fetcher.
        begin, end: fetch beats of the matrix.
        before: transactions in front of its vectors.
        transactions: of the vectors.
        vectors: in the matrix.
        wanted: vectors read, from the first on.
        per_beat: vectors read in a cycle.
        start: cycle from which beats can be taken.
    """
    count = -(-wanted // per_beat)
    last = start + count - 1
    for beat in range(begin, end):
        # First vector that needs something of this fetch beat.
        first = max(beats[beat % RING].first - before, 0) * vectors // max(transactions, 1)
        if first >= wanted:
            break
        arrived = beats[beat % RING].joined + FILL
        last = max(last, arrived + count - 1 - first // per_beat)
    return int(last)
