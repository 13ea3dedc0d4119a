"""What is on its way through the event engine, and the cycles of its life."""

from __future__ import annotations

from dataclasses import dataclass

import simpy

from accelsim.hardware.machines.spatten_rtl.requests import Request
from accelsim.hardware.simulation import Milestone
from accelsim.hardware.simulation._module import Process
from accelsim.hardware.timeline import KEYS_LSB, KEYS_MSB, item_code


class Item:
    """A pass over the keys of a request, and the cycles of its life.

    Args:
        env: clock.
        request: whose it is.
        first: pass over the MSBs of which this is the one over the LSBs.

    Attributes:
        issued: when the key fork handed it on.
        matrix: its keys; none if it shares the fetch of another.
        score_beats: lines of scores that it gives.
        in_order: when it and all requests before it are decided.
        ordered_at: when its first line leaves the merge.
        at_value_fork: when its probabilities reach the value fork.
        released: when its lines of the key buffer are free.
        decided: the dot product has taken its last line.
        passed: it has left the merge.
        forked: its values are asked for.
        drained: its last score has found room before the multipliers.
        dropped: the top-k stand-in has let go of all its scores.
        code: its name in a timeline.
    """

    __slots__ = (
        "at_value_fork",
        "code",
        "decided",
        "drained",
        "dropped",
        "forked",
        "in_order",
        "issued",
        "lsb_pass",
        "matrix",
        "ordered_at",
        "passed",
        "released",
        "request",
        "score_beats",
    )

    def __init__(
        self,
        env: simpy.Environment,
        request: Request,
        first: Item | None = None,
    ) -> None:
        self.request = request
        self.lsb_pass = first is not None
        self.released: Milestone = Milestone(env) if first is None else first.released
        self.matrix: Matrix | None = None
        self.decided = Milestone(env)
        self.passed = Milestone(env)
        self.forked = Milestone(env)
        self.drained = Milestone(env)
        self.dropped = Milestone(env)
        self.score_beats = request.score_lines if first is None else request.rescore_lines
        self.issued = 0
        self.in_order = 0
        self.ordered_at = 0
        self.at_value_fork = 0
        self.code = item_code(request.row, KEYS_MSB if first is None else KEYS_LSB)


class Matrix(Milestone):
    """A matrix to fetch, and the milestone of its last line: the cycle in which it is taken.

    Args:
        env: clock.
        item: what it is part of.
        kind: KEY or VALUE.
        code: its name in a timeline.
        lines: buffer lines that it fills.
        given: cycle in which it is asked for.

    Attributes:
        begin, end: its first fetch beat, and that after its last.
        returned_at: when the last beat came.
    """

    __slots__ = ("begin", "code", "end", "given", "item", "kind", "lines", "returned_at")

    def __init__(
        self, env: simpy.Environment, item: Item, kind: int, code: int, lines: int, given: int
    ) -> None:
        super().__init__(env)
        self.item = item
        self.kind = kind
        self.code = code
        self.lines = lines
        self.given = given
        self.begin = self.end = self.returned_at = 0


@dataclass(slots=True)
class Row:
    """A row of probabilities before its weighted sum: when its values were asked for, and how."""

    item: Item
    forked: int
    issued: int = 0
    matrix: Matrix | None = None

    def known(self) -> Process:
        """Wait until it is known when its values are there, which is before they are."""
        if self.matrix is not None and not self.matrix.known:
            yield self.matrix.announced()
