"""The stand-in for top-k: a FIFO that waits as long as a search would take (section 3)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.simulation import Clock, Module
from accelsim.hardware.timeline import SCORES, Recorder, item_code

_MERGE_TO_VALUES = 7
"""From the merge to the value fork: ordering, rebatch, index reload and trim (2.12)."""
_INPUT_FIFO = 2


class TopKStandIn(Module):
    """Searches a row, then lets one beat a cycle go; rows that keep everything pass by (3.1).

    Args:
        env: clock.
        recorder: takes the timeline, if given.
    """

    def __init__(self, env: Clock, recorder: Recorder | None = None) -> None:
        super().__init__(env, "topk", recorder)
        # Cycle in which the last row has left it, and in which the last dropped score has.
        self._free = self._dropped = 0

    def search(self, item: KeyPass, room: int) -> tuple[int, int]:
        """Search a row.

        The search starts when the scores that were not kept of the row before are dropped too; a
        row that keeps everything passes as soon as the last kept score has (3.1).

        Args:
            item: whose scores come.
            room: cycle in which there is room for it before the value fork.

        Returns:
            Cycle in which it leaves, and in which its first line can be at the value fork.
        """
        request = item.request
        now = max(self._free, item.merged)
        self.turn_to(item_code(request.row, SCORES), self._free, now, "no_scores")
        if request.select_cycles:
            self.worked(now, request.select_cycles)
            now += request.select_cycles
        arrives = item.merged + _MERGE_TO_VALUES
        if request.prunes:
            starts = max(now, arrives + _INPUT_FIFO)
            self.stalled(now, starts - now, "no_scores")
            now = max(starts, self._dropped) + request.topk_cycles
            self.worked(starts, now - starts)
        self._free = max(now, room)
        self.stalled(now, self._free - now, "value_side_busy")
        return self._free, max(arrives, now)

    def drain(self, item: KeyPass, asked: int) -> None:
        """Drain the scores of a row that was searched last, those that are kept first.

        Args:
            item: whose scores they are; it is known when the last one finds room behind.
            asked: cycle in which its values are asked for.
        """
        request = item.request
        if request.prunes:
            now = max(self._free, asked)
            self.stalled(self._free, now - self._free, "value_side_busy")
            self.worked(now, request.value_lines)
            now += request.value_lines
            self._free = max(now, item.queued.cycle or 0)
            self.stalled(now, self._free - now, "value_side_busy")
            self._dropped = self._free + max(request.score_lines - request.value_lines, 0)
        item.dropped.announce(self._dropped)
