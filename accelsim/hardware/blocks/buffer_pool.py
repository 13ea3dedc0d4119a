"""Allocator of a buffer whose matrices leave in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelsim.hardware.simulation import Stream

if TYPE_CHECKING:
    import simpy


class BufferPool:
    """Lines and matrices of a buffer, taken back as they come.

    Args:
        env: clock.
        lines: of the buffer.
        matrices: most that are in it at a time.

    Attributes:
        high_water: most lines that were in use.
        most_matrices: most matrices that were in it.
    """

    def __init__(self, env: simpy.Environment, lines: int, matrices: int) -> None:
        self.lines, self.matrices = lines, matrices
        self.high_water = self.most_matrices = 0
        self.since = 0
        """Cycle of the last release that was taken back, maybe ahead of time: what is free is free
        from then on."""
        self.returned = Stream(env)
        """Lines that come back, and when: known ahead, in the order of time."""
        self._used = self._live = 0

    def reserve(self, lines: int) -> int | None:
        """Take lines ahead of time, if enough releases are known.

        Returns:
            Cycle from which the lines are free: not before that of the reservation before, of
            whose release they may be what was left. ``None`` until more of ``returned`` is known.
        """
        while not self.fits(lines):
            if not self.returned.items:
                return None
            self.take_back()
        self.allocate(lines)
        return self.since

    def take_back(self) -> None:
        """Count the oldest release that is known."""
        lines, cycle = self.returned.pop()
        self._used -= lines
        self._live -= 1
        self.since = max(self.since, int(cycle))

    def fits(self, lines: int) -> bool:
        """Whether there is room for one more matrix."""
        return self._live < self.matrices and self._used + lines <= self.lines

    def allocate(self, lines: int) -> None:
        """Take lines; the caller has seen that there is room."""
        self._used += lines
        self._live += 1
        self.high_water = max(self.high_water, self._used)
        self.most_matrices = max(self.most_matrices, self._live)

    def release(self, lines: int, cycle: int) -> None:
        """Give lines back from a cycle on."""
        self.returned.put((lines, cycle))
