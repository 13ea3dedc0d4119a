"""MNNFast (Jang et al., ISCA 2019) as an attention machine: column-wise streaming, zero-skipping.

Blocks: loader (chunks of K and V from DRAM, ahead of the array), compute (one array of multipliers:
inner products, exponentials, weighted sum of the values that are not skipped), divider (one
division per output element, once per query). See docs/accelerators/mnnfast.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from accelsim.configs import Unit
from accelsim.hardware._registry import Accelerator
from accelsim.hardware.blocks.loader import Load, Loader, Read
from accelsim.hardware.blocks.output_writer import OutputWriter
from accelsim.hardware.blocks.stage import Stage
from accelsim.hardware.config import (
    AcceleratorConfig,
    Channels,
    Cycles,
    MemoryConfig,
    Multipliers,
    PerCycle,
    Rows,
)
from accelsim.hardware.counters import ATTENTION, BUFFERS, QUERY_REGISTERS, SCORE_COMPARISONS
from accelsim.hardware.machines._without_tensors import assumed_chunks, one_key
from accelsim.hardware.simulation import Dataflow, Item

if TYPE_CHECKING:
    from accelsim.functional import PolicyRun
    from accelsim.hardware.activity import Activity
    from accelsim.hardware.simulation import Wire
    from accelsim.hardware.timeline import Recorder
    from accelsim.traces import AttentionTrace
    from accelsim.workloads import RivalWorkload, Workload

Fraction = Annotated[float, Field(ge=0, le=1)]


class MnnFastConfig(AcceleratorConfig):
    """One MNNFast."""

    kind: Literal["mnnfast"]
    channels: Channels = 2
    """DRAM channels."""
    memory: str = "hbm2-nominal"
    energy: str = "mnnfast-40nm"
    multipliers: Multipliers = 128
    """Multipliers of the whole machine (SpAtten §V-B)."""
    sharing: Literal["shared", "split"] = "shared"
    """``shared``: all multipliers do inner products, then weighted sums, so that a skipped value
    saves time; ``split``: half of them do each, at the same time."""
    threshold: Fraction = 0.1
    """Values whose weight is below it are skipped (not verified: the paper could not be read)."""
    chunk_rows: Rows = 64
    """Keys, and values, of a chunk (assumption)."""
    element_bits: Annotated[int, Field(ge=2, le=32), Unit("bits")] = 12
    """Bits of an element in DRAM and on chip (assumption: as SpAtten's)."""
    fetch_skipped: bool = True
    """Skipped values are fetched all the same (SpAtten §V-B: everything is fetched)."""
    divisions_per_cycle: PerCycle = 8
    """Of the divider (assumption: as SpAtten's softmax, Table I)."""
    pipeline_latency: Cycles = 9
    """Cycles from a chunk's last element to its last product (assumption: as an A3 module)."""
    kept_fraction: Fraction | None = None
    """Values not skipped, for workloads without tensors; for traces it is measured."""

    @property
    def multiplier_count(self) -> int:
        """Multipliers of the machine."""
        return self.multipliers

    @property
    def buffer_bytes(self) -> float:
        """Chunks of keys and of values, 64 elements wide: at work, waiting, arriving."""
        return 6 * self.chunk_rows * 64 * self.element_bits / 8


@dataclass(frozen=True, slots=True)
class _Chunk(Item):
    """A chunk of keys and values, for all queries of a row; or, behind the array, their sums.

    Attributes:
        scored: inner products, over the queries.
        kept: values that are not skipped, likewise.
        queries: of the row.
    """

    scored: int
    kept: int
    queries: int


class _MnnFast:
    """The block diagram, and its counts."""

    def __init__(
        self,
        workload: RivalWorkload,
        config: MnnFastConfig,
        memory: MemoryConfig,
        recorder: Recorder | None,
    ) -> None:
        from accelsim.hardware.blocks.bulk_reads import matrix_slots

        self.workload, self.config = workload, config
        self.row_bytes = -(-workload.head_dim * config.element_bits // 8)
        self.slots = matrix_slots(workload, 2 * self.row_bytes)
        self.wire(memory, recorder)

    def wire(self, memory: MemoryConfig, recorder: Recorder | None) -> None:
        """Connect the blocks."""
        from accelsim.hardware.blocks.bulk_reads import BulkReads

        config, dim = self.config, self.workload.head_dim
        self.flow = flow = Dataflow(self.workload, config.frequency_hz, recorder)
        chunks, sums = flow.queue("chunks"), flow.queue("sums", 1, "rows")
        dram = BulkReads(config.channels, memory, config.frequency_hz, recorder)
        self.loader = Loader(
            flow, "loader", self.orders(), dram, chunks, blocked="chunk_buffers_full"
        )
        self.writer = OutputWriter(self.workload.rows, dim, dram.atom, lambda c: c.queries)
        Stage[_Chunk](
            flow,
            "compute",
            chunks,
            sums,
            cycles=self.compute_cycles,
            operations=lambda c: (c.scored + c.kept) * dim,
            peak=config.multipliers,
            forward=lambda c: c if c.last else None,
            starved="awaiting_chunk",
            blocked="divider_busy",
        )
        Stage[_Chunk](
            flow,
            "divider",
            sums,
            cycles=lambda c: -(-c.queries * dim // config.divisions_per_cycle),
            operations=lambda c: c.queries * dim,
            peak=config.divisions_per_cycle,
            writer=self.writer,
            starved="no_sums",
        )

    def compute_cycles(self, chunk: _Chunk) -> int:
        """All queries of a row against one chunk."""
        # A vector narrower than 64 takes 64 multipliers all the same, as in A3 and SpAtten.
        lanes = self.config.multipliers / max(self.workload.head_dim, 64)
        shared = self.config.sharing == "shared"
        vectors = chunk.scored + chunk.kept if shared else 2 * chunk.scored
        return int(np.ceil(vectors / lanes)) + self.config.pipeline_latency

    def orders(self) -> Iterator[Load]:
        """The queries of a row, then its chunks; the next is read while this one is computed."""
        work, size = self.workload, self.row_bytes
        counts = zip(work.counts["scored"].tolist(), work.counts["kept"].tolist(), strict=True)
        for row in range(work.rows):
            queries, keys, values = (int(work[n][row]) for n in ("queries", "keys", "values"))
            base = int(self.slots[row])
            yield Load(row, (Read("query", 0, queries * size),))
            for start in range(0, keys, self.config.chunk_rows):
                key_bytes = min(self.config.chunk_rows, keys - start) * size
                # Where skipped values stay in DRAM, the used ones are spread over the chunks.
                spread = -(-key_bytes * values // keys)
                value_bytes = key_bytes if self.config.fetch_skipped else spread
                reads = (
                    Read("key_msb", base + start * size, key_bytes),
                    Read("value", base + (keys + start) * size, value_bytes),
                )
                last = start + self.config.chunk_rows >= keys
                yield Load(row, reads, _Chunk(row, last, *next(counts), queries))

    def run(self) -> Activity:
        """Simulate to the last division, and count."""
        activity = self.flow.run()
        work, dim = self.workload, self.workload.head_dim
        scored, kept = int(work.counts["scored"].sum()), int(work.counts["kept"].sum())
        chunks = -(-work["keys"].astype(np.int64) // self.config.chunk_rows)
        for name, amount in {
            "qk_macs": scored * dim,
            "pv_macs": kept * dim,
            "exponentials": scored,
            "score_comparisons": scored,
            "divisions": int(work["queries"].sum()) * dim,
            "key_sram_write_bytes": self.loader.bytes["key_msb"],
            "value_sram_write_bytes": self.loader.bytes["value"],
            "key_sram_read_bytes": scored * self.row_bytes,
            "value_sram_read_bytes": kept * self.row_bytes,
            "query_register_bytes": int((work["queries"] * chunks).sum()) * self.row_bytes,
        }.items():
            activity.count(name, amount)
        self.loader.count(activity)
        self.writer.count(activity)
        return activity


def _simulate(
    workload: Workload,
    config: MnnFastConfig,
    memory: MemoryConfig,
    engine: str,
    recorder: Recorder | None = None,
) -> Activity:
    decided = assumed_chunks(workload, config.kept_fraction, config.chunk_rows)
    return _MnnFast(decided, config, memory, recorder).run()


def _wiring(config: MnnFastConfig, memory: MemoryConfig) -> list[Wire]:
    return _MnnFast(one_key(64, scored=1, kept=1), config, memory, None).flow.wiring()


def _decide(trace: AttentionTrace, config: MnnFastConfig) -> PolicyRun:
    from accelsim.functional import run_machine
    from accelsim.policies.mnnfast import MnnFastRule

    rule = MnnFastRule(
        config.threshold, config.chunk_rows, config.element_bits, config.fetch_skipped
    )
    return run_machine(trace, rule)


ACCELERATOR = Accelerator(
    MnnFastConfig,
    _simulate,
    _decide,
    record=_simulate,
    wiring=_wiring,
    # Its own rule decides, in elements of its own width.
    serves=frozenset({"bits"}),
    counters=(*ATTENTION, *BUFFERS, QUERY_REGISTERS, SCORE_COMPARISONS),
)
"""See :class:`accelsim.hardware.Accelerator`."""
