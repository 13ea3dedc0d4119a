"""SimPy's environment, for machines that look at the time more often than it changes."""

from __future__ import annotations

from heapq import heappop

import simpy
from simpy.core import EmptySchedule


class Clock(simpy.Environment):
    """An environment whose time is an attribute.

    Attributes:
        now: present cycle.
    """

    now: int = 0

    def step(self) -> None:
        """Process the next event.

        Raises:
            EmptySchedule: there is none.
        """
        if not self._queue:
            raise EmptySchedule
        now, _, _, event = heappop(self._queue)
        self._now = self.now = int(now)
        callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
        for callback in callbacks:
            callback(event)
        if not event._ok and not hasattr(event, "_defused"):
            raise event._value
