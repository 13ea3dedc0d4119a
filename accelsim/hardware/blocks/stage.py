"""Pipeline stage: takes an item, works on it for its service time, hands it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from accelsim.hardware.simulation import Block, Dataflow, Item, Queue

if TYPE_CHECKING:
    from accelsim.hardware.blocks.output_writer import OutputWriter
    from accelsim.hardware.simulation import Process

In = TypeVar("In", bound=Item)


class Stage(Block, Generic[In]):
    """A server with one item at a time between two bounded queues, as the modules of A3 are
    (Ham et al., HPCA 2020, §III-A: one query in each module).

    An item that is done waits in the stage until the next queue has room, and holds it up.

    Args:
        flow: the machine.
        name: as in results.
        source: where items come from.
        sink: where they go; ``None`` for the last stage.
        cycles: service time of an item.
        operations: that an item takes, in the unit of ``peak``.
        peak: most operations in a cycle.
        forward: what is handed on for an item, or ``None`` for nothing; the item itself if not
            given.
        writer: takes the outputs of the items that are done.
        releases: queue of buffers in use; the oldest is free when the last item of a row is done.
        starved: stall reason without an item; ``no_`` and the block before if not given.
        blocked: stall reason while the sink is full.
    """

    def __init__(
        self,
        flow: Dataflow,
        name: str,
        source: Queue[In],
        sink: Queue[Any] | None = None,
        *,
        cycles: Callable[[In], int],
        operations: Callable[[In], int],
        peak: float,
        forward: Callable[[In], Item | None] = lambda item: item,
        writer: OutputWriter | None = None,
        releases: Queue[Any] | None = None,
        starved: str | None = None,
        blocked: str = "next_module_busy",
    ) -> None:
        inputs = (source,) if releases is None else (source, releases)
        super().__init__(flow, name, inputs, () if sink is None else (sink,), peak)
        self.source, self.sink, self.writer, self.releases = source, sink, writer, releases
        self.cycles, self.operations_of, self.forward = cycles, operations, forward
        self.starved = starved or f"no_{source.producer}"
        self.blocked = blocked
        if writer is not None:
            self.outside += writer.wires(name)

    def run(self) -> Process:
        """Serve items in order until the source is closed and empty."""
        while True:
            item: In | None = yield from self.next_of(self.source, self.starved)
            if item is None:
                return
            yield from self.busy(self.cycles(item))
            self.operations += self.operations_of(item)
            if self.writer is not None:
                self.writer.write(item, int(self.env.now))
            if self.releases is not None and item.last:
                self.releases.pop()
            following = self.forward(item)
            if self.sink is not None and following is not None:
                yield from self.give(self.sink, following, self.blocked)
