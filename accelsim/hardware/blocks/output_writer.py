"""Output writer: when outputs are there, and how many bytes they take to DRAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelsim.hardware.activity import Activity
from accelsim.hardware.simulation import Item, Wire

OUTPUT_BITS = 12
"""Of an element of an attention output (SpAtten, HPCA 2021, Table I: 12 bit on chip)."""


class OutputWriter:
    """Counts output vectors on their way to DRAM; their transfer is hidden behind the work, so they
    take no time and no turn on the channels.

    Args:
        rows: of the workload.
        head_dim: elements of a vector.
        burst_bytes: of a DRAM burst; the outputs of a run are packed.
        vectors: output vectors that leave with an item.
        to_dram: off: outputs stay on chip and only their time is noted.
        bits: of an element.

    Attributes:
        completions: cycle of the last output of each row.
        written: vectors so far.
    """

    def __init__(
        self,
        rows: int,
        head_dim: int,
        burst_bytes: int,
        vectors: Callable[[Any], int],
        to_dram: bool = True,
        bits: int = OUTPUT_BITS,
    ) -> None:
        self.completions = [0] * rows
        self.written = 0
        self._vectors, self._to_dram = vectors, to_dram
        self._vector_bits, self._burst = head_dim * bits, burst_bytes

    def write(self, item: Item, cycle: int) -> None:
        """Take the outputs of an item that is done in a cycle."""
        self.completions[item.row] = cycle
        self.written += self._vectors(item)

    def count(self, activity: Activity) -> None:
        """Add bytes, bursts and completion cycles to an activity."""
        activity.completion_cycles = self.completions
        if self._to_dram:
            bursts = -(-(self.written * self._vector_bits // 8) // self._burst)
            activity.dram_write_bytes += bursts * self._burst
            activity.count("dram_writes", bursts)

    def wires(self, block: str) -> list[Wire]:
        """What the diagram shows of it behind a block."""
        return [Wire(block, "DRAM", "outputs")] if self._to_dram else []
