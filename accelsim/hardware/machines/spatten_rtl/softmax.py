"""Softmax: a wire (section 2.10)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.simulation import Clock, Module
from accelsim.hardware.timeline import Recorder


class Softmax(Module):
    """Passes scores on in their cycle, a line a cycle.

    Args:
        env: clock.
        recorder: takes the timeline, if given.
    """

    def __init__(self, env: Clock, recorder: Recorder | None = None) -> None:
        super().__init__(env, "softmax", recorder)
        self._free = 0

    def pass_on(self, item: KeyPass, last: int) -> int:
        """Pass the scores of a pass on; the cycle after the last line.

        Args:
            item: whose scores come.
            last: cycle in which the last line comes; the others have come by then, and what is
                left is the rate at which passes can follow one another.
        """
        self.item = item.code
        start = max(self._free, last - (item.score_lines - 1))
        self._free = start + item.score_lines
        self.worked(start, item.score_lines)
        return self._free
