"""Loader: copies operands from DRAM on chip, one transfer after the other, and feeds a queue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelsim.hardware.activity import Activity
from accelsim.hardware.simulation import Block, Dataflow, Item, Queue, Wire
from accelsim.hardware.timeline import KEYS_LSB, KEYS_MSB, SCORES, VALUES, item_code

if TYPE_CHECKING:
    from accelsim.hardware.blocks.bulk_reads import BulkReads
    from accelsim.hardware.simulation import Process

_PARTS = {"query": SCORES, "key_msb": KEYS_MSB, "key_lsb": KEYS_LSB, "value": VALUES}


@dataclass(frozen=True, slots=True)
class Read:
    """Consecutive bytes.

    Attributes:
        tensor: as in ``Activity.dram_read_bytes``.
        address: of the first byte.
        size: bytes.
    """

    tensor: str
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Load:
    """One order to the loader.

    Attributes:
        row: of the workload, for the timeline.
        reads: in this order, one after the other.
        item: handed on when all is there; ``None`` if further orders belong to it.
        claims: takes one of the buffers first, and waits until one is free.
        cycles: of work on what was read (A3 sorts its keys).
    """

    row: int
    reads: tuple[Read, ...]
    item: Item | None = None
    claims: bool = False
    cycles: int = 0


class Loader(Block):
    """Executes orders; the next transfer begins when the one before has ended.

    Without ``buffers`` the queue behind it is the buffer: of depth 1 it holds one item that waits,
    while the next is read (double buffering). With ``buffers``, a queue of the buffers in use, an
    order that claims one waits until a later block has released it: of depth 1 nothing is read
    ahead, as in A3 (Ham et al., HPCA 2020, §III-C: matrices are copied before their queries).

    Args:
        flow: the machine.
        name: as in results.
        orders: in order; asked for one at a time.
        dram: memory.
        sink: queue of the items.
        buffers: queue of buffers in use.
        blocked: stall reason while the sink is full.

    Attributes:
        bytes: moved so far, in whole bursts, by tensor.
    """

    def __init__(
        self,
        flow: Dataflow,
        name: str,
        orders: Iterable[Load],
        dram: BulkReads,
        sink: Queue[Any],
        buffers: Queue[Any] | None = None,
        blocked: str = "pipeline_full",
    ) -> None:
        outputs = (sink,) if buffers is None else (sink, buffers)
        super().__init__(flow, name, (), outputs, dram.peak_bytes_per_cycle)
        self.orders, self.dram, self.sink, self.buffers = orders, dram, sink, buffers
        self.blocked = blocked
        self.bytes = dict.fromkeys(_PARTS, 0)
        self.outside.append(Wire("DRAM", name, "queries, keys, values"))

    def run(self) -> Process:
        """Execute all orders."""
        for order in self.orders:
            if order.claims and self.buffers is not None:
                yield from self.give(self.buffers, order.row, "sram_in_use")
            for read in order.reads:
                self.item = item_code(order.row, _PARTS[read.tensor])
                now = int(self.env.now)
                end, moved = self.dram.read(read.address, read.size, now, self.item)
                self.bytes[read.tensor] += moved
                self.operations += moved
                yield from self.busy_until(end)
            yield from self.busy(order.cycles)
            if order.item is not None:
                self.item = order.item.code
                yield from self.give(self.sink, order.item, self.blocked)

    def count(self, activity: Activity) -> None:
        """Add bytes and DRAM commands to an activity."""
        activity.dram_read_bytes = dict(self.bytes)
        self.dram.count(activity)
