"""A block of a block diagram, the bounded streams between blocks, and where their time goes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import simpy

from accelsim.hardware.activity import ModuleActivity
from accelsim.hardware.timeline import BUSY, NO_ITEM, Recorder

T = TypeVar("T")

Process = Generator[simpy.Event, Any, Any]
"""What a module's ``run`` is: a SimPy process. Times are integer cycles."""
Pause = Iterable[simpy.Event]
"""What a process does ``yield from`` to let time pass: none or one event, or part of a process."""


class Follower:
    """A process that waits to know and not for time to pass.

    It runs through whatever is known, and goes on within the call that makes the next thing known,
    which costs no event of the simulation. It keeps cycles of its own.

    Args:
        process: yields the milestone of which it needs the cycle, or the stream of which the next
            item.

    Attributes:
        name: of the process.
        is_alive: whether it has not ended.
    """

    def __init__(self, process: Following) -> None:
        self.name = getattr(process, "__name__", "")
        self.is_alive = True
        self._process = process
        self.go_on()

    def go_on(self) -> None:
        """Run until something is not known yet."""
        for awaited in self._process:
            if not awaited.known:
                awaited.follow(self)
                return
        self.is_alive = False

    def close(self) -> None:
        """End it, and let go of what it holds."""
        self._process.close()


class Stream:
    """A bounded FIFO between modules, of which one takes; a full one holds its producers back.

    An item that is there is taken without an event of the simulation, and so is room.

    Args:
        env: clock.
        depth: items it holds; without, as many as come.

    Attributes:
        items: oldest first.
    """

    def __init__(self, env: simpy.Environment, depth: float = math.inf) -> None:
        self.items: deque[Any] = deque()
        self.depth = depth
        self._env = env
        self._followers: list[Follower] = []
        self._filled: _Due | None = None
        self._drained: simpy.Event | None = None

    @property
    def known(self) -> bool:
        """Whether there is an item."""
        return bool(self.items)

    def put(self, item: Any, seen: int = 0) -> None:
        """Append an item; the caller has seen that there is room.

        Args:
            item: any.
            seen: cycle before which a waiting consumer need not look.
        """
        self.items.append(item)
        if self._filled is not None:
            self._filled.happen_at(seen)
            self._filled = None
        if self._followers:
            self._followers.pop(0).go_on()

    def follow(self, follower: Follower) -> None:
        """Let a follower go on with the next item."""
        self._followers.append(follower)

    def pop(self) -> Any:
        """Take the oldest item."""
        item = self.items.popleft()
        if self._drained is not None:
            self._drained.succeed()
            self._drained = None
        return item

    def filled(self) -> simpy.Event:
        """Event of the next item that comes."""
        if self._filled is None:
            self._filled = _Due(self._env)
        return self._filled

    def drained(self) -> simpy.Event:
        """Event of the next item that is taken."""
        if self._drained is None:
            self._drained = self._env.event()
        return self._drained


class Port(Stream, Generic[T]):
    """An arrow between blocks that run ahead of simulated time.

    What is ahead of time needs no queue in the hardware, so a port has no depth.

    Args:
        env: clock.
        bounded_by: what keeps it from growing: a buffer or a rule of the hardware.
    """

    def __init__(self, env: simpy.Environment, bounded_by: str) -> None:
        super().__init__(env)
        self.bounded_by = bounded_by
        # Nobody waits for room, so there is nothing else to do.
        self.pop = self.items.popleft  # type: ignore[method-assign]

    if TYPE_CHECKING:
        items: deque[T]

        def put(self, item: T, seen: int = 0) -> None:
            """Append an item."""

        def pop(self) -> T:
            """Take the oldest item."""


class Milestone:
    """A cycle that becomes known, often before it comes, and can be waited for.

    It costs no event until somebody waits.

    Attributes:
        cycle: as announced; ``None`` before.
        known: whether it was.
    """

    __slots__ = ("_announced", "_due", "_env", "_followers", "cycle", "known")

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self.cycle: int | None = None
        self.known = False
        self._followers: list[Follower] | None = None
        self._due: _Due | None = None
        self._announced: simpy.Event | None = None

    @property
    def reached(self) -> bool:
        """Whether its cycle is known and not in the future."""
        return self.cycle is not None and self.cycle <= self._env.now

    def announce(self, cycle: int) -> None:
        """Tell the cycle, once; one that has passed is reached now."""
        self.cycle, self.known = cycle, True
        if self._due is not None:
            self._due.happen_at(cycle)
        if self._announced is not None:
            self._announced.succeed(cycle)
        if self._followers is not None:
            waiting, self._followers = self._followers, None
            for follower in waiting:
                follower.go_on()

    def follow(self, follower: Follower) -> None:
        """Let a follower go on with the announcement."""
        if self._followers is None:
            self._followers = []
        self._followers.append(follower)

    def announced(self) -> simpy.Event:
        """The event of an announcement to come, with the cycle as its value; asked for once."""
        self._announced = self._env.event()
        return self._announced

    def awaited(self, later: int = 0) -> simpy.Event:
        """The event of its cycle, or of one ``later``, with its cycle as the value."""
        if self._due is None:
            self._due = _Due(self._env)
            self._due.later = later
            if self.cycle is not None:
                self._due.happen_at(self.cycle)
        return self._due


Following = Generator[Milestone | Stream, None, None]
"""What a :class:`Follower` runs; it yields what it needs to know."""


class _Due(simpy.Event):
    """An event that happens in a given cycle, as a timeout does, but is told so later."""

    later = 0

    def happen_at(self, cycle: int) -> None:
        self._ok, self._value = True, cycle
        self.env.schedule(self, delay=max(int(cycle + self.later - self.env.now), 0))


class FirstOf(simpy.Event):
    """The first of two events that have not happened, for a process that looks again either way.

    Unlike SimPy's condition it is no event of the simulation: the process goes on with the event
    that happens. Most looks of a busy block are of this kind.
    """

    def __init__(self, one: simpy.Event, other: simpy.Event) -> None:
        self.env, self._one, self._other = one.env, one, other
        self._resume: Callable[[simpy.Event], None]
        # A process adds itself to the callbacks of what it waits for.
        self.callbacks: Any = self

    def append(self, resume: Callable[[simpy.Event], None]) -> None:
        """Let a process wait for both."""
        self._resume = resume
        happened = self._happened
        self._one.callbacks.append(happened)  # type: ignore[union-attr]
        self._other.callbacks.append(happened)  # type: ignore[union-attr]

    def _happened(self, event: simpy.Event) -> None:
        rest = self._other if event is self._one else self._one
        if rest.callbacks is not None:
            rest.callbacks.remove(self._happened)
        self.callbacks = None
        self._resume(event)


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

    def wait(self, event: simpy.Event, reason: str, since: int = 0) -> Process:
        """Wait for an event and charge the time, from cycle ``since`` on, to a stall reason."""
        start = max(int(self.env.now), since)
        value = yield event
        self.stalled(start, int(self.env.now) - start, reason)
        return value

    def wait_for(self, milestone: Milestone, reason: str) -> Pause:
        """Wait for a milestone and charge the time to a stall reason; nothing if it has passed."""
        return () if milestone.reached else self.wait(milestone.awaited(), reason)

    def sleep_until(self, cycle: int) -> Pause:
        """Let time pass that is charged otherwise."""
        now = self.env.now
        return (self.env.timeout(int(cycle - now)),) if cycle > now else ()

    def worked_on_arrivals(self, start: int, end: int, cycles: int, reason: str) -> None:
        """Charge work on what trickled in between two cycles.

        ``cycles`` of that time were work, told as the last of it; the rest was a stall.
        """
        stalled = max(end - start - cycles, 0)
        if stalled:
            self.stalled(start, stalled, reason)
        self.worked(start + stalled, end - start - stalled)

    def turn_to(self, code: int, free: int, start: int, reason: str) -> None:
        """Begin with an item in cycle ``start``; since ``free`` the module had none."""
        self.item = NO_ITEM
        self.stalled(free, start - free, reason)
        self.item = code

    def take(self, stream: Stream, reason: str) -> Process:
        """Take the next item of a stream."""
        self.item = NO_ITEM
        if not stream.items:
            yield from self.wait(stream.filled(), reason)
        item = stream.pop()
        self.item = getattr(item, "code", NO_ITEM)
        return item

    def give(self, stream: Stream, item: Any, reason: str) -> Pause:
        """Hand an item on; waits while the stream is full."""
        if len(stream.items) >= stream.depth:
            return self._give_later(stream, item, reason)
        stream.put(item)
        return ()

    def _give_later(self, stream: Stream, item: Any, reason: str) -> Process:
        while len(stream.items) >= stream.depth:
            yield from self.wait(stream.drained(), reason)
        stream.put(item)

    def busy(self, cycles: int) -> Pause:
        """Work for a number of cycles."""
        if cycles <= 0:
            return ()
        self.worked(int(self.env.now), cycles)
        return (self.env.timeout(cycles),)

    def busy_until(self, cycle: int) -> Pause:
        """Work until a cycle; nothing if it has passed."""
        return self.busy(int(cycle - self.env.now))

    def worked(self, start: int, cycles: int) -> None:
        """Charge busy cycles without waiting for them."""
        self.activity.busy_cycles += cycles
        if self._recorder is not None:
            self._recorder.add(self._track, start, start + cycles, self.item, BUSY)

    def stalled(self, start: int, cycles: int, reason: str) -> None:
        """Charge stalled cycles without waiting for them."""
        if cycles > 0:
            stalls = self.activity.stall_cycles
            stalls[reason] = stalls.get(reason, 0) + cycles
            if self._recorder is not None:
                self._recorder.add(self._track, start, start + cycles, self.item, reason)

    def finish(self, total_cycles: int) -> ModuleActivity:
        """Close the books: what is neither busy nor stalled was idle."""
        spent = self.activity.busy_cycles + sum(self.activity.stall_cycles.values())
        if total_cycles > spent:
            stalls = self.activity.stall_cycles
            stalls["idle"] = stalls.get("idle", 0) + total_cycles - spent
        return self.activity
