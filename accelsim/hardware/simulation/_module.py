"""A block of a block diagram, the bounded streams between blocks, and where their time goes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

from accelsim.hardware.activity import ModuleActivity

Process = Generator[simpy.Event, Any, Any]
"""What a module's ``run`` is: a SimPy process. Times are integer cycles."""


class Stream:
    """A bounded FIFO between two modules; a full one holds its producer back."""

    def __init__(self, env: simpy.Environment, depth: int) -> None:
        self.store = simpy.Store(env, capacity=depth)


class Module:
    """One block: takes items, works, gives items, and accounts for every cycle.

    Busy cycles, stalls by reason and ``idle`` (nothing left to do) add up to the whole run.
    """

    def __init__(self, env: simpy.Environment, name: str) -> None:
        self.env = env
        self.name = name
        self.activity = ModuleActivity()

    def wait(self, event: simpy.Event, reason: str) -> Process:
        """Wait for an event and charge the time to a stall reason."""
        start = self.env.now
        value = yield event
        waited = int(self.env.now - start)
        if waited:
            stalls = self.activity.stall_cycles
            stalls[reason] = stalls.get(reason, 0) + waited
        return value

    def take(self, stream: Stream, reason: str) -> Process:
        """Take the next item of a stream."""
        item = yield from self.wait(stream.store.get(), reason)
        return item

    def give(self, stream: Stream, item: Any, reason: str) -> Process:
        """Hand an item on; waits while the stream is full."""
        yield from self.wait(stream.store.put(item), reason)

    def busy(self, cycles: int) -> Process:
        """Work for a number of cycles."""
        if cycles > 0:
            self.activity.busy_cycles += cycles
            yield self.env.timeout(cycles)

    def busy_until(self, cycle: int) -> Process:
        """Work until a cycle; nothing if it has passed."""
        yield from self.busy(int(cycle - self.env.now))

    def finish(self, total_cycles: int) -> ModuleActivity:
        """Close the books: what is neither busy nor stalled was idle."""
        spent = self.activity.busy_cycles + sum(self.activity.stall_cycles.values())
        if total_cycles > spent:
            stalls = self.activity.stall_cycles
            stalls["idle"] = stalls.get("idle", 0) + total_cycles - spent
        return self.activity
