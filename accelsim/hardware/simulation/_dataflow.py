"""Blocks joined by bounded queues: the block diagram of a machine, and its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import simpy

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity, ModuleActivity, QueueActivity
from accelsim.hardware.counters import Counter
from accelsim.hardware.simulation._module import Module, Process, Stream
from accelsim.hardware.timeline import NO_ITEM, SCORES, Recorder, item_code
from accelsim.workloads import Workload

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """What queues carry: a part of the work of one row.

    Attributes:
        row: of the workload.
        last: whether it is the last item of its row.
    """

    row: int
    last: bool

    @property
    def code(self) -> int:
        """Name of the item in a timeline."""
        return item_code(self.row, SCORES)


@dataclass(frozen=True)
class Wire:
    """One arrow of a block diagram.

    Attributes:
        source, target: names of blocks, as in ``Activity.modules``; ``DRAM`` is the memory.
        name: what goes over it; the name in ``Activity.queues`` where it is a queue.
        depth: entries of the queue; ``None`` where there is none.
    """

    source: str
    target: str
    name: str
    depth: float | None = None


class Queue(Stream, Generic[T]):
    """A stream with a name that remembers the most items that it held.

    Args:
        env: clock.
        name: as in ``Activity.queues``.
        depth: items it holds.
        unit: of an item.

    Attributes:
        high_water: most items that were in it.
        closed: whether no further item will come.
        producer: name of the block that gives.
    """

    def __init__(
        self, env: simpy.Environment, name: str, depth: float = 1, unit: str = "items"
    ) -> None:
        super().__init__(env, depth)
        self.name, self.unit = name, unit
        self.high_water = 0
        self.closed = False
        self.producer = ""

    def put(self, item: T, seen: int = 0) -> None:
        """Append an item; the caller has seen that there is room."""
        super().put(item, seen)
        if len(self.items) > self.high_water:
            self.high_water = len(self.items)

    def close(self) -> None:
        """Say that no further item will come; wakes a consumer that waits."""
        self.closed = True
        if self._filled is not None:
            self._filled.happen_at(0)
            self._filled = None

    @property
    def activity(self) -> QueueActivity:
        """Its line in the result."""
        return QueueActivity(self.depth, self.high_water, self.unit)


class Block(Module):
    """A module of a :class:`Dataflow`; subclasses write ``run``.

    Args:
        flow: the machine that it belongs to.
        name: as in results.
        inputs: queues that it takes from.
        outputs: queues that it gives to; closed when ``run`` has ended.
        peak: most operations in a cycle; ``None`` if it counts none.

    Attributes:
        operations: done so far.
        outside: its connections with memory.
        counters: what a kind of block counts; machines that have one declare them with their own.
    """

    counters: ClassVar[tuple[Counter, ...]] = ()

    def __init__(
        self,
        flow: Dataflow,
        name: str,
        inputs: tuple[Queue[Any], ...] = (),
        outputs: tuple[Queue[Any], ...] = (),
        peak: float | None = None,
    ) -> None:
        super().__init__(flow.env, name, flow.recorder)
        self.inputs, self.outputs, self.peak = inputs, outputs, peak
        self.operations = 0
        self.outside: list[Wire] = []
        for queue in outputs:
            queue.producer = name
        flow.blocks[name] = self

    def run(self) -> Process:
        """Work until nothing is left."""
        raise NotImplementedError

    def next_of(self, queue: Queue[T], reason: str) -> Process:
        """Take the next item of a queue; the value is ``None`` once it is closed and empty."""
        self.item = NO_ITEM
        while not queue.items:
            if queue.closed:
                return None
            yield from self.wait(queue.filled(), reason)
        item = queue.pop()
        self.item = getattr(item, "code", NO_ITEM)
        return item

    def finish(self, total_cycles: int) -> ModuleActivity:
        """Close the books."""
        activity = super().finish(total_cycles)
        if self.peak is not None:
            activity.operations = int(self.operations)
            activity.peak_operations_per_cycle = float(self.peak)
        return activity

    def _run(self) -> Process:
        yield from self.run()
        for queue in self.outputs:
            queue.close()


class Dataflow:
    """A machine made of blocks and queues.

    Args:
        workload: what is run.
        frequency_hz: core clock.
        recorder: takes the timeline, if given.

    Attributes:
        env: clock.
        blocks, queues: by name, in the order in which they were made.
    """

    def __init__(
        self, workload: Workload, frequency_hz: float, recorder: Recorder | None = None
    ) -> None:
        self.workload, self.frequency_hz, self.recorder = workload, frequency_hz, recorder
        self.env = simpy.Environment()
        self.blocks: dict[str, Block] = {}
        self.queues: dict[str, Queue[Any]] = {}

    def queue(self, name: str, depth: float = 1, unit: str = "items") -> Queue[Any]:
        """Make a queue of this machine."""
        self.queues[name] = Queue(self.env, name, depth, unit)
        return self.queues[name]

    def run(self) -> Activity:
        """Run all blocks until they have nothing left to do.

        Returns:
            Cycles, modules and queues; counters are left to the machine.

        Raises:
            SimulationError: blocks that wait for one another; names them.
        """
        running = {name: self.env.process(block._run()) for name, block in self.blocks.items()}
        self.env.run()
        stuck = [name for name, process in running.items() if process.is_alive]
        if stuck:
            raise SimulationError(
                f"workload '{self.workload.name}': no progress after cycle {int(self.env.now)}; "
                f"waiting: {', '.join(stuck)}"
            )
        total = int(self.env.now)
        activity = Activity(total, self.frequency_hz)
        activity.modules = {name: block.finish(total) for name, block in self.blocks.items()}
        activity.queues = {name: queue.activity for name, queue in self.queues.items()}
        if self.recorder is not None:
            self.recorder.finish(self.workload, self.frequency_hz, total, 0)
        return activity

    def wiring(self) -> list[Wire]:
        """The arrows of the block diagram, from the blocks as they are connected."""
        found: list[Wire] = []
        for name, block in self.blocks.items():
            found += [wire for wire in block.outside if wire.target == name]
            found += [
                Wire(name, target.name, queue.name, queue.depth)
                for queue in block.outputs
                for target in self.blocks.values()
                if queue in target.inputs
            ]
            found += [wire for wire in block.outside if wire.source == name]
        return found
