"""Ring allocator of a key or value buffer: matrices come in and leave in the same order."""

from __future__ import annotations

from collections import deque

from accelsim.hardware.simulation import Milestone


class RingBuffer:
    """Lines of a buffer, handed out and taken back first come first served (release, section 2.3).

    Args:
        lines: of the buffer.
        matrices: most that are in it at a time.

    Attributes:
        high_water: most lines that were in use.
        most_matrices: most matrices that were in it.
    """

    def __init__(self, lines: int, matrices: int) -> None:
        self.lines, self.matrices = lines, matrices
        self.high_water = self.most_matrices = 0
        self._used = 0
        self._live: deque[tuple[int, Milestone]] = deque()

    def in_the_way(self, lines: int) -> Milestone | None:
        """The release that a matrix of so many lines must wait for; ``None`` if there is room."""
        while self._live and self._live[0][1].reached:
            self._used -= self._live.popleft()[0]
        if self._fits(lines):
            return None
        return self._live[0][1]

    def allocate(self, lines: int, released: Milestone) -> None:
        """Take lines until ``released``; the caller has seen that there is room."""
        self._used += lines
        self._live.append((lines, released))
        self.high_water = max(self.high_water, self._used)
        self.most_matrices = max(self.most_matrices, len(self._live))

    def _fits(self, lines: int) -> bool:
        return len(self._live) < self.matrices and self._used + lines <= self.lines
