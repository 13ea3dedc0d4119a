"""A3 (Ham et al., HPCA 2020): candidate selection, then a pipeline of one query a module.

Blocks: loader (K, V and sorted K from DRAM), candidate selection, dot product with post-scoring
selection, exponent, output. Section numbers are the paper's. See docs/accelerators/a3.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from accelsim.configs import Unit
from accelsim.errors import WorkloadError
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
from accelsim.hardware.counters import (
    ATTENTION,
    BUFFERS,
    QUERY_REGISTERS,
    SCORE_COMPARISONS,
    Counter,
)
from accelsim.hardware.machines._without_tensors import assumed_queries, one_key
from accelsim.hardware.simulation import Dataflow, Item

if TYPE_CHECKING:
    from accelsim.functional import PolicyRun
    from accelsim.hardware.activity import Activity
    from accelsim.hardware.simulation import Wire
    from accelsim.hardware.timeline import Recorder
    from accelsim.policies.a3 import A3Rule
    from accelsim.traces import AttentionTrace
    from accelsim.workloads import RivalWorkload, Workload

Fraction = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=1e-3, le=1 << 20), Unit("a cycle")]


_COUNTERS = (
    Counter(
        "candidate_iterations", "iteration", "iterations of the greedy candidate selection (§V-A)"
    ),
    Counter("sorted_key_reads", "entry", "entries (value and row) read from the sorted-key buffer"),
    Counter("sorted_key_writes", "entry", "entries written to it"),
)


class A3Config(AcceleratorConfig):
    """One A3 unit, base or approximate."""

    kind: Literal["a3"]
    channels: Channels = 2
    """DRAM channels."""
    memory: str = "hbm2-nominal"
    energy: str = "a3-40nm"
    multipliers: Multipliers = 64
    """Multipliers of the dot product, and of the output module (d = 64, §VI-D)."""
    capacity_rows: Rows = 320
    """Rows of K and of V that the SRAMs hold (n = 320, §VI-D)."""
    iterations: Annotated[float, Field(ge=1e-6, le=1024), Unit("of the keys")] | None = None
    """M over the number of keys (§VI-B); none: base A3."""
    threshold: Fraction = 0.05
    """T: smallest weight kept, as a fraction of the largest (§IV-D)."""
    integer_bits: Annotated[int, Field(ge=1, le=31), Unit("bits")] = 4
    """Of an input element, beside its sign (§VI-B)."""
    fraction_bits: Annotated[int, Field(ge=1, le=31), Unit("bits")] = 4
    """Of an input element (§VI-B)."""
    range_fit: Literal["fixed", "power-of-two"] = "power-of-two"
    """``fixed``: inputs beyond the format saturate; ``power-of-two``: the tensors of a layer are
    shifted into it first."""
    module_overhead: Cycles = 9
    """Cycles of a base module beyond its rows: 7 divide, 2 multiply-accumulate (§III-A)."""
    selection_fill: Cycles = 4
    """8d products with 2d multipliers before the first iteration (§V-A)."""
    scan_width: PerCycle = 16
    """Greedy scores, or post-scoring comparisons, examined per cycle (§V-A, §V-B)."""
    sort_comparisons_per_cycle: (
        Annotated[float, Field(ge=1e-3, le=1 << 20), Unit("a cycle")] | None
    ) = None
    """Rate of the sorter of the key columns, d n log2(n) comparisons per key matrix, in series with
    the load; none: sorting is free, as in A3's own latency (it is done outside)."""
    transfers: bool = True
    """K, V and queries come from DRAM and outputs go there; off: all is on chip before the first
    query, as in A3's own figures (§III-C)."""
    candidate_fraction: Fraction | None = None
    """C over n for workloads without tensors (Figure 11b); for traces it is measured."""
    kept_fraction: Fraction | None = None
    """K over n for workloads without tensors (Figure 12b); for traces it is measured."""

    @property
    def element_bits(self) -> int:
        """Bits of an element of Q, K or V."""
        return 1 + self.integer_bits + self.fraction_bits

    @property
    def sorted_entry_bits(self) -> int:
        """Bits of a sorted key: the value, and the row it came from."""
        return self.element_bits + (self.capacity_rows - 1).bit_length()

    @property
    def multiplier_count(self) -> int:
        """Multipliers of dot product and output."""
        return 2 * self.multipliers

    @property
    def buffer_bytes(self) -> float:
        """Bytes of key, value and (approximate A3) sorted-key SRAM."""
        bits = 2 * self.element_bits + (self.sorted_entry_bits if self.iterations else 0)
        return self.capacity_rows * self.multipliers * bits / 8

    def rule(self) -> A3Rule:
        """The functional rule of this machine."""
        from accelsim.policies.a3 import A3Rule

        return A3Rule(
            self.iterations, self.threshold, self.integer_bits, self.fraction_bits, self.range_fit
        )


@dataclass(frozen=True, slots=True)
class _Query(Item):
    """One query on its way, with the rows of the key matrix that each module works on.

    Attributes:
        iterations: of the greedy candidate selection (M); 0 in base A3.
        scanned: rows whose greedy scores are scanned, those that the query may see.
        candidates: rows with an exact score (C).
        kept: rows with a weight (K).
    """

    iterations: int
    scanned: int
    candidates: int
    kept: int


class _A3:
    """The block diagram (A3, §III-A and §V), and its counts."""

    def __init__(
        self,
        workload: RivalWorkload,
        config: A3Config,
        memory: MemoryConfig,
        recorder: Recorder | None,
    ) -> None:
        from accelsim.hardware.blocks.bulk_reads import matrix_slots

        self.workload, self.config = workload, config
        self.approximate = config.iterations is not None
        self.row_bytes = -(-workload.head_dim * config.element_bits // 8)
        self.sorted_bytes = 0
        if self.approximate:
            self.sorted_bytes = -(-workload.head_dim * config.sorted_entry_bits // 8)
        bits = 2 * config.element_bits + (config.sorted_entry_bits if self.approximate else 0)
        self.slots = matrix_slots(workload, -(-workload.head_dim * bits // 8))
        self.wire(memory, recorder)

    def wire(self, memory: MemoryConfig, recorder: Recorder | None) -> None:
        """Connect the blocks."""
        from accelsim.hardware.blocks.bulk_reads import BulkReads

        config, dim = self.config, self.workload.head_dim
        fill, more, scan = config.selection_fill, config.module_overhead, config.scan_width
        self.flow = flow = Dataflow(self.workload, config.frequency_hz, recorder)
        queries, candidates = flow.queue("queries"), flow.queue("candidates")
        scores, weights = flow.queue("scores"), flow.queue("weights")
        # K, V and sorted K of one head; not doubled.
        srams = flow.queue("srams", 1, "heads")
        dram = BulkReads(config.channels, memory, config.frequency_hz, recorder)
        self.loader = Loader(flow, "loader", self.orders(), dram, queries, srams)
        self.writer = OutputWriter(
            self.workload.rows, dim, dram.atom, lambda query: 1, config.transfers
        )
        Stage[_Query](
            flow,
            "candidate_selection",
            queries,
            candidates,
            cycles=lambda q: fill + q.iterations if self.approximate else 0,
            operations=lambda q: q.iterations,
            peak=1,
        )
        # Row numbers leave a scan one a cycle, at `scan` registers a cycle.
        Stage[_Query](
            flow,
            "dot_product",
            candidates,
            scores,
            cycles=lambda q: max(q.candidates, -(-q.scanned // scan)) + more,
            operations=lambda q: q.candidates * dim,
            peak=config.multipliers,
        )
        Stage[_Query](
            flow,
            "exponent",
            scores,
            weights,
            cycles=lambda q: max(q.kept, -(-q.candidates // scan)) + more,
            operations=lambda q: q.kept,
            peak=1,
        )
        Stage[_Query](
            flow,
            "output",
            weights,
            cycles=lambda q: q.kept + more,
            operations=lambda q: q.kept * dim,
            peak=config.multipliers,
            writer=self.writer,
            releases=srams,
        )

    def orders(self) -> Iterator[Load]:
        """A head's matrices, then its queries one by one."""
        config, work = self.config, self.workload
        at = 0
        for row in range(work.rows):
            keys, base = int(work["keys"][row]), int(self.slots[row])
            rows = min(keys, config.capacity_rows)
            key_bytes = rows * (self.row_bytes + self.sorted_bytes)
            matrices = (
                Read("key_msb", base, key_bytes),
                Read("value", base + key_bytes, rows * self.row_bytes),
            )
            yield Load(row, matrices if config.transfers else (), None, True, self.sorting(keys))
            for query in self.queries(row, at):
                reads: list[Read] = []
                if config.transfers:
                    reads = [Read("query", 0, self.row_bytes), *self.overflow(query, keys, base)]
                yield Load(row, tuple(reads), query)
            at += int(work["queries"][row])

    def sorting(self, keys: int) -> int:
        """Cycles of the sorter of the key columns."""
        rate = self.config.sort_comparisons_per_cycle
        if not self.approximate or rate is None:
            return 0
        return int(np.ceil(keys * np.log2(max(keys, 2)) * self.workload.head_dim / rate))

    def overflow(self, query: _Query, keys: int, base: int) -> Iterator[Read]:
        """Rows that the SRAMs do not hold come from DRAM for every query (§III-C)."""
        if keys > self.config.capacity_rows:
            share = max(query.scanned - self.config.capacity_rows, 0) / query.scanned
            for tensor, used in (("key_msb", query.candidates), ("value", query.kept)):
                yield Read(tensor, base, int(np.ceil(share * used)) * self.row_bytes)

    def queries(self, row: int, at: int) -> Iterator[_Query]:
        """Queries of a row; the first of them is number ``at`` of the workload."""
        counts, size = self.workload.counts, int(self.workload["queries"][row])
        columns = [
            counts[name][at : at + size].tolist()
            for name in ("iterations", "visible", "candidates", "kept")
        ]
        for number, work in enumerate(zip(*columns, strict=True)):
            yield _Query(row, number == size - 1, *work)

    def run(self) -> Activity:
        """Simulate to the last output, and count."""
        activity = self.flow.run()
        counts, dim = self.workload.counts, self.workload.head_dim
        scored, kept = int(counts["candidates"].sum()), int(counts["kept"].sum())
        loaded = int(np.minimum(self.workload["keys"], self.config.capacity_rows).sum())
        work = {
            "qk_macs": scored * dim,
            "pv_macs": kept * dim,
            "exponentials": kept,
            "divisions": kept,
            "key_sram_write_bytes": loaded * self.row_bytes,
            "key_sram_read_bytes": scored * self.row_bytes,
            "value_sram_write_bytes": loaded * self.row_bytes,
            "value_sram_read_bytes": kept * self.row_bytes,
            "query_register_bytes": len(counts["kept"]) * self.row_bytes,
        }
        if self.approximate:
            iterations = int(counts["iterations"].sum())
            work |= {
                "candidate_iterations": iterations,
                "score_comparisons": scored,
                "sorted_key_reads": 2 * iterations + 8 * dim * len(counts["kept"]),
                "sorted_key_writes": loaded * dim,
            }
        for name, amount in work.items():
            activity.count(name, amount)
        self.loader.count(activity)
        self.writer.count(activity)
        return activity


def _machine(
    workload: Workload, config: A3Config, memory: MemoryConfig, recorder: Recorder | None = None
) -> _A3:
    if workload.head_dim > config.multipliers:
        raise WorkloadError(
            f"workload '{workload.name}': head_dim {workload.head_dim} is wider than the "
            f"{config.multipliers} multipliers of a module, which take one row a cycle"
        )
    fractions: tuple[float | None, float | None] = (1.0, 1.0)
    if config.iterations:
        fractions = (config.candidate_fraction, config.kept_fraction)
    decided = assumed_queries(workload, *fractions, config.rule().budget)
    return _A3(decided, config, memory, recorder)


def _simulate(
    workload: Workload,
    config: A3Config,
    memory: MemoryConfig,
    engine: str,
    recorder: Recorder | None = None,
) -> Activity:
    return _machine(workload, config, memory, recorder).run()


def _wiring(config: A3Config, memory: MemoryConfig) -> list[Wire]:
    """The arrows of the block diagram."""
    nothing = one_key(config.multipliers, visible=1, iterations=1, candidates=1, kept=1)
    return _machine(nothing, config, memory).flow.wiring()


def _decide(trace: AttentionTrace, config: A3Config) -> PolicyRun:
    from accelsim.functional import run_machine

    return run_machine(trace, config.rule())


ACCELERATOR = Accelerator(
    A3Config,
    _simulate,
    _decide,
    record=_simulate,
    wiring=_wiring,
    # Its own rule decides, in elements of its own width.
    serves=frozenset({"bits"}),
    counters=(*ATTENTION, *BUFFERS, QUERY_REGISTERS, SCORE_COMPARISONS, *_COUNTERS),
)
"""See :class:`accelsim.hardware.Accelerator`."""
