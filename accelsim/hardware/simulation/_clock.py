"""SimPy's environment, for machines that look at the time more often than it changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL, EventPriority


class _Call:
    """What the clock and a process see of an event that is in the calendar already."""

    __slots__ = ("callbacks",)
    _ok, _value = True, None

    def __init__(self, *actions: Callable[[Any], object]) -> None:
        self.callbacks: Any = [*actions]


class Clock(simpy.Environment):
    """An environment whose time is an attribute, and which passes without an event where it can.

    Attributes:
        now: present cycle.
    """

    now: int = 0

    def run(self, until: Any = None) -> Any:
        """Process events until one has happened, as SimPy does for an event.

        Args:
            until: an event.

        Raises:
            RuntimeError: none is left and it has not happened.
        """
        queue = self._queue
        while until.callbacks is not None:
            if not queue:
                raise RuntimeError(f"no event is left, and {until} has not happened")
            now, _, _, event = heappop(queue)
            self._now = self.now = int(now)
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
        return until.value

    def until(self, cycle: int) -> Any:
        """What a process yields to sleep until a cycle; as a timeout, at less cost."""
        event: Any = _Call()
        heappush(self._queue, (cycle, NORMAL, next(self._eid), event))
        return event

    def peek(self) -> float:
        """Cycle of the next event; infinity without one."""
        return self._queue[0][0] if self._queue else math.inf

    def call(
        self, cycle: int, action: Callable[[Any], object], priority: EventPriority = NORMAL
    ) -> None:
        """Do something in a cycle; at once in its turn if that has passed.

        Args:
            cycle: when.
            action: gets an argument that means nothing.
            priority: within the cycle, as of an event.
        """
        item: Any = _Call(action)
        heappush(self._queue, (max(cycle, self.now), priority, next(self._eid), item))

    def passes(self, cycle: int) -> bool:
        """Let time pass up to a cycle if nothing happens before or in it; whether it did.

        A process that would sleep until then would be the next to go on: it does without the
        event. For a process that was woken by an event of its own: nobody else may be left to go
        on in the present cycle.
        """
        queue = self._queue
        if queue and queue[0][0] <= cycle:
            return False
        self._now = self.now = cycle
        return True

    def clear(self) -> None:
        """Let go of all events that have not happened."""
        self._queue.clear()
