"""Ordering and merge: decided passes in the order of the requests (section 2.12)."""

from __future__ import annotations

from collections import deque

from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.simulation import Milestone, Port
from accelsim.hardware.simulation._module import Following


class Merge:
    """Lets decided passes go in the order of the requests, a beat a cycle.

    A row that keeps everything stands in its registers until its last score is in the score queue,
    and one that does not as long as the FIFO of the stand-in is full.

    Args:
        rows: requests in all.
        top_k_lines: lines of scores that the FIFO of the stand-in holds.
        decided: in: passes, from the decision.
        merged: out: passes, to top-k and value fork.
    """

    def __init__(
        self, rows: int, top_k_lines: int, decided: Port[KeyPass], merged: Port[KeyPass]
    ) -> None:
        self._rows, self._top_k_room = rows, top_k_lines
        self._decided, self._merged = decided, merged
        # Passes in the FIFO of the stand-in.
        self._in_top_k: deque[KeyPass] = deque()

    def run(self) -> Following:
        """Let pass after pass go."""
        # Those that came before their turn: passes before them are fetched again.
        early: dict[int, KeyPass] = {}
        free = 0
        for row in range(self._rows):
            while row not in early:
                if not self._decided.items:
                    yield self._decided
                decided = self._decided.pop()
                early[decided.request.row] = decided
            item = early.pop(row)
            item.merged = now = max(free, item.decided)
            self._merged.put(item)
            for milestone in self._in_the_way(item):
                if not milestone.known:
                    yield milestone
                now = max(now, milestone.cycle or 0)
            free = max(item.merged + item.score_lines, now)
            item.left_merge.announce(free)

    def _in_the_way(self, item: KeyPass) -> list[Milestone]:
        """What must come before the last line of a pass can go."""
        if not item.request.prunes:
            return [item.queued]
        self._in_top_k.append(item)
        self._top_k_room -= item.score_lines
        awaited = []
        while self._top_k_room < 0 and len(self._in_top_k) > 1:
            oldest = self._in_top_k.popleft()
            self._top_k_room += oldest.score_lines
            awaited.append(oldest.dropped)
        return awaited
