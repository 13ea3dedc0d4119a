"""Weighted sum: probabilities times the vectors of a value buffer, a beat a cycle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from accelsim.jit import Int, inlined

STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "free",  # first cycle in which a beat can be taken
            "busy",  # beats taken
            "no_probabilities",  # cycles without a row of probabilities
            "no_values",  # cycles in which its values were not there
            "spill",  # cycles in which a partial result went out and came back
            "scores",  # vectors of a beat
            "latency",  # cycles from the last beat to the output
        )
    ]
)
STALLS = ("no_probabilities", "no_values", "spill")


@dataclass(eq=False)
class WeightedSum:
    """Broadcast, multiply, accumulate (SpAtten IV-G).

    Attributes:
        multipliers: of the array (SpAtten Table I: 512).
        scores: vectors taken in a cycle.
        state: what it is doing; one record of :data:`STATE`.
    """

    multipliers: int
    scores: int
    state: Any = field(init=False, repr=False, default_factory=lambda: np.zeros(1, STATE))
    stalls: ClassVar[tuple[str, ...]] = STALLS

    def __post_init__(self) -> None:
        """Begin idle."""
        self.state["scores"], self.state["latency"] = self.scores, self.latency

    @property
    def latency(self) -> int:
        """Cycles from the last beat to the output: broadcast, multiply and accumulate 1 each, the
        tree log2(scores) (release, section 2.15)."""
        return 3 + (self.scores - 1).bit_length()

    @property
    def peak_operations_per_cycle(self) -> int:
        """Multiply-accumulates a cycle."""
        return self.multipliers


@inlined
def weigh(s: Any, came: Int, ready: Int, last: Int, beats: Int, extra: Int, spill: Int) -> Int:
    """Multiply one row of probabilities.

    Args:
        s: of the unit.
        came: cycle in which its first probability is there.
        ready: cycle in which its values are there to begin with.
        last: cycle before which its last beat cannot be taken.
        beats: of values.
        extra: cycles of rescaling behind them.
        spill: cycles in which its partial result goes out and comes back.

    Returns:
        Cycle of the last beat.
    """
    begin = max(s[0].free, came)
    end = max(max(begin, ready) + beats - 1, last)
    s[0].no_probabilities += begin - s[0].free
    s[0].no_values += end + 1 - begin - beats
    s[0].busy += beats + extra
    s[0].spill += spill
    s[0].free = end + 1 + extra + spill
    return int(end + extra + spill)
