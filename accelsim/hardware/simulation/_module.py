"""A block of a block diagram, the bounded streams between blocks, and where their time goes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

from accelsim.hardware.activity import ModuleActivity
from accelsim.hardware.timeline import BUSY, NO_ITEM, Recorder

Process = Generator[simpy.Event, Any, Any]
"""What a module's ``run`` is: a SimPy process. Times are integer cycles."""


class Stream:
    """A bounded FIFO between two modules; a full one holds its producer back."""

    def __init__(self, env: simpy.Environment, depth: int) -> None:
        self.store = simpy.Store(env, capacity=depth)


class Module:
    """One block: takes items, works, gives items, and accounts for every cycle.

    Busy cycles, stalls by reason and ``idle`` (nothing left to do) add up to the whole run.

    Args:
        env: clock.
        name: as in results.
        recorder: takes every span of busy or stalled cycles, if given.
    """

    def __init__(self, env: simpy.Environment, name: str, recorder: Recorder | None = None) -> None:
        self.env = env
        self.name = name
        self.activity = ModuleActivity()
        self.item = NO_ITEM
        """Code of the item at hand, for the timeline."""
        self._recorder = recorder
        self._track = -1 if recorder is None else recorder.module(name)

    def wait(self, event: simpy.Event, reason: str) -> Process:
        """Wait for an event and charge the time to a stall reason."""
        start = int(self.env.now)
        value = yield event
        self._stalled(start, int(self.env.now) - start, reason)
        return value

    def wait_until(self, cycle: int, reason: str) -> Process:
        """Wait until a cycle and charge the time to a stall reason; nothing if it has passed."""
        if cycle > self.env.now:
            yield from self.wait(self.env.timeout(int(cycle - self.env.now)), reason)

    def work_on_arrivals(self, start: int, end: int, cycles: int, reason: str) -> Process:
        """Work on what trickles in from ``start`` (not in the future) until ``end``.

        ``cycles`` of that time were work, told as the last of it; the rest was a stall.
        """
        if end > self.env.now:
            yield self.env.timeout(int(end - self.env.now))
        spent = int(self.env.now) - start
        worked = min(cycles, spent)
        self._stalled(start, spent - worked, reason)
        self.worked(start + spent - worked, worked)

    def take(self, stream: Stream, reason: str) -> Process:
        """Take the next item of a stream."""
        self.item = NO_ITEM
        item = yield from self.wait(stream.store.get(), reason)
        self.item = getattr(item, "code", NO_ITEM)
        return item

    def give(self, stream: Stream, item: Any, reason: str) -> Process:
        """Hand an item on; waits while the stream is full."""
        yield from self.wait(stream.store.put(item), reason)

    def busy(self, cycles: int) -> Process:
        """Work for a number of cycles."""
        if cycles > 0:
            self.worked(int(self.env.now), cycles)
            yield self.env.timeout(cycles)

    def busy_until(self, cycle: int) -> Process:
        """Work until a cycle; nothing if it has passed."""
        yield from self.busy(int(cycle - self.env.now))

    def worked(self, start: int, cycles: int) -> None:
        """Charge busy cycles without waiting for them."""
        self.activity.busy_cycles += cycles
        self._record(start, cycles, BUSY)

    def _stalled(self, start: int, cycles: int, reason: str) -> None:
        if cycles:
            stalls = self.activity.stall_cycles
            stalls[reason] = stalls.get(reason, 0) + cycles
            self._record(start, cycles, reason)

    def _record(self, start: int, cycles: int, state: str) -> None:
        if self._recorder is not None:
            self._recorder.add(self._track, start, start + cycles, self.item, state)

    def finish(self, total_cycles: int) -> ModuleActivity:
        """Close the books: what is neither busy nor stalled was idle."""
        spent = self.activity.busy_cycles + sum(self.activity.stall_cycles.values())
        if total_cycles > spent:
            stalls = self.activity.stall_cycles
            stalls["idle"] = stalls.get("idle", 0) + total_cycles - spent
        return self.activity
