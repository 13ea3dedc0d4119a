"""What the blocks of the released SpAtten hand to one another, and the cycles of its life.

Sections are those of docs/accelerators/spatten.md.
"""

from __future__ import annotations

import simpy

from accelsim.hardware.machines.spatten_rtl.requests import Request
from accelsim.hardware.simulation import Milestone
from accelsim.hardware.timeline import KEYS_LSB, KEYS_MSB, item_code


class KeyPass:
    """A pass over the keys of a request; the last one goes on to the values.

    Args:
        env: clock.
        request: whose it is.
        first: pass over the MSBs of which this is the one over the LSBs.

    Attributes:
        request: whose it is.
        lsb_pass: whether it is the second one.
        score_lines: lines of scores that it gives.
        code: its name in a timeline.
        matrix: its keys; none if it shares the fetch of another.
        issued: cycle in which the key fork handed it on.
        decided: cycle in which its first line leaves the decision.
        merged: cycle in which its first line leaves the merge.
        scored: the dot product has taken its last line.
        released: its lines of the key buffer are free.
        left_merge: the merge has let its last line go.
        queued: its last score is in the score queue in front of the multipliers.
        dropped: the top-k stand-in holds none of its scores any more.
    """

    __slots__ = (
        "code",
        "decided",
        "dropped",
        "issued",
        "left_merge",
        "lsb_pass",
        "matrix",
        "merged",
        "queued",
        "released",
        "request",
        "score_lines",
        "scored",
    )

    def __init__(
        self, env: simpy.Environment, request: Request, first: KeyPass | None = None
    ) -> None:
        self.request = request
        self.lsb_pass = first is not None
        self.score_lines = request.score_lines if first is None else request.rescore_lines
        self.code = item_code(request.row, KEYS_MSB if first is None else KEYS_LSB)
        self.matrix: Matrix | None = None
        self.issued = self.decided = self.merged = 0
        self.scored = Milestone(env)
        self.released: Milestone = Milestone(env) if first is None else first.released
        self.left_merge = Milestone(env)
        self.queued = Milestone(env)
        self.dropped = Milestone(env)


class Matrix(Milestone):
    """A matrix to fetch, and the milestone of its last line: the cycle in which it is taken.

    Args:
        env: clock.
        row: of the request.
        kind: KEY or VALUE.
        code: its name in a timeline.
        lines: buffer lines that it fills.
        asked: cycle in which it is asked for.

    Attributes:
        begin, end: its first fetch beat, and that after its last.
        returned: cycle in which the last beat came.
    """

    __slots__ = ("asked", "begin", "code", "end", "kind", "lines", "returned", "row")

    def __init__(
        self, env: simpy.Environment, row: int, kind: int, code: int, lines: int, asked: int
    ) -> None:
        super().__init__(env)
        self.row, self.kind, self.code, self.lines, self.asked = row, kind, code, lines, asked
        self.begin = self.end = self.returned = 0
