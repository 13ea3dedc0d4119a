"""Activity: what a simulated machine did, counted. Energy is Activity times a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass
class ModuleActivity:
    """Time of one module.

    Attributes:
        busy_cycles: cycles in which it worked on an item.
        stall_cycles: cycles in which it waited, by reason. Busy, stalled and ``idle`` (a reason)
            cycles add up to the total.
        operations: that it did, in the unit of its peak; ``None`` where it counts none.
        peak_operations_per_cycle: most that it can do in a cycle.
    """

    busy_cycles: int = 0
    stall_cycles: dict[str, int] = field(default_factory=dict)
    operations: int | None = None
    peak_operations_per_cycle: float | None = None


@dataclass(frozen=True)
class QueueActivity:
    """One bounded queue or buffer.

    Attributes:
        depth: entries that it holds.
        high_water: most entries that were in it.
        unit: of an entry.
    """

    depth: float
    high_water: float
    unit: str


@dataclass
class Activity:
    """Counted work of one run.

    Attributes:
        cycles: core cycles from reset to the last response.
        frequency_hz: core clock.
        dram_read_bytes: bytes moved by read bursts, by tensor: query, key_msb, key_lsb, value.
        dram_write_bytes: bytes moved by write bursts.
        counters: one number for each counter of the machine by name (absent means zero); see
            :attr:`accelsim.hardware.Accelerator.counters`.
        modules: per block of the block diagram.
        completion_cycles: cycle in which each request's response came out, in row order.
        queues: bounded queues and buffers, by name.
        prefill_cycles: of ``cycles``, until the last output of a prompt or encoder pass.
        decode_steps: steps that decode.
        dependencies: ``causal`` or ``streamed``.
        not_served: what the workload asked for and the machine takes no time for: name of
            :data:`accelsim.workloads.SERVICES` to amount.
    """

    cycles: int
    frequency_hz: float
    dram_read_bytes: dict[str, int] = field(default_factory=dict)
    dram_write_bytes: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    modules: dict[str, ModuleActivity] = field(default_factory=dict)
    completion_cycles: list[int] = field(default_factory=list)
    queues: dict[str, QueueActivity] = field(default_factory=dict)
    prefill_cycles: int = 0
    decode_steps: int = 0
    dependencies: str = "streamed"
    not_served: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Latency in seconds."""
        return self.cycles / self.frequency_hz

    def after(self, first: Activity) -> Activity:
        """Cycles and counted work of what follows on a run that is the first part of this one.

        Counters, bytes and cycles are differences. Modules, queues and completions are left out.

        Args:
            first: the part that ran alone; nothing of this run may have begun before its end.
        """
        counters, read = (
            {name: amount - before.get(name, 0) for name, amount in whole.items()}
            for whole, before in (
                (self.counters, first.counters),
                (self.dram_read_bytes, first.dram_read_bytes),
            )
        )
        return Activity(
            self.cycles - first.cycles,
            self.frequency_hz,
            read,
            self.dram_write_bytes - first.dram_write_bytes,
            counters,
            decode_steps=self.decode_steps - first.decode_steps,
            dependencies=self.dependencies,
        )

    def in_series(self, other: Activity) -> Activity:
        """This and what the same machine does between the layers, on the same memory.

        Cycles and counts add up. A row is done when the work of ``other`` that goes with its layer
        is, and a module idles while the other part runs.

        Args:
            other: work of the same rows, with the cycle in which that of each row would end by
                itself.
        """
        joined = replace(
            self,
            cycles=self.cycles + other.cycles,
            dram_read_bytes=_added(self.dram_read_bytes, other.dram_read_bytes),
            dram_write_bytes=self.dram_write_bytes + other.dram_write_bytes,
            counters=_added(self.counters, other.counters),
            modules={},
            completion_cycles=[
                mine + its
                for mine, its in zip(self.completion_cycles, other.completion_cycles, strict=True)
            ],
            queues=self.queues | other.queues,
            prefill_cycles=self.prefill_cycles + other.prefill_cycles,
        )
        for part, more in ((self, other.cycles), (other, self.cycles)):
            for name, module in part.modules.items():
                stalls = module.stall_cycles | {"idle": module.stall_cycles.get("idle", 0) + more}
                joined.modules[name] = replace(module, stall_cycles=stalls)
        return joined

    def count(self, name: str, amount: int) -> None:
        """Add ``amount`` to the counter ``name``, one that the machine declares."""
        self.counters[name] = self.counters.get(name, 0) + int(amount)


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    names = dict.fromkeys([*first, *second])
    return {name: first.get(name, 0) + second.get(name, 0) for name in names}
