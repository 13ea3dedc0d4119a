"""A3 (Ham et al., HPCA 2020): candidate selection, then a pipeline of one query a module.

Blocks: loader (K, V and sorted K from DRAM), candidate selection, dot product with post-scoring
selection, exponent, output. Section numbers are the paper's. See docs/accelerators/a3.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import simpy
from numpy.typing import NDArray
from pydantic import Field

from accelsim.errors import WorkloadError
from accelsim.functional.rivals import RivalWorkload, undecided
from accelsim.hardware._registry import Accelerator
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import AcceleratorConfig, Cycles, MemoryConfig, PositiveInt
from accelsim.hardware.simulation import Module, Stream
from accelsim.workloads import Workload

if TYPE_CHECKING:
    from accelsim.functional import PolicyRun
    from accelsim.functional.rivals import A3Rule
    from accelsim.hardware.simulation._module import Process
    from accelsim.traces import AttentionTrace

Fraction = Annotated[float, Field(gt=0, le=1)]


class A3Config(AcceleratorConfig):
    """One A3 unit, base or approximate."""

    kind: Literal["a3"]
    channels: PositiveInt = 2
    """DRAM channels."""
    memory: str = "hbm2-nominal"
    energy: str = "a3-40nm"
    multipliers: PositiveInt = 64
    """Multipliers of the dot product, and of the output module (d = 64, §VI-D)."""
    capacity_rows: PositiveInt = 320
    """Rows of K and of V that the SRAMs hold (n = 320, §VI-D)."""
    iterations: Annotated[float, Field(gt=0)] | None = None
    """M over the number of keys (§VI-B); none: base A3."""
    threshold: Fraction = 0.05
    """T: smallest weight kept, as a fraction of the largest (§IV-D)."""
    integer_bits: PositiveInt = 4
    """Of an input element, beside its sign (§VI-B)."""
    fraction_bits: PositiveInt = 4
    """Of an input element (§VI-B)."""
    range_fit: Literal["fixed", "power-of-two"] = "power-of-two"
    """``fixed``: inputs beyond the format saturate; ``power-of-two``: the tensors of a layer are
    shifted into it first."""
    module_overhead: Cycles = 9
    """Cycles of a base module beyond its rows: 7 divide, 2 multiply-accumulate (§III-A)."""
    selection_fill: Cycles = 4
    """8d products with 2d multipliers before the first iteration (§V-A)."""
    scan_width: PositiveInt = 16
    """Greedy scores, or post-scoring comparisons, examined per cycle (§V-A, §V-B)."""
    sort_comparisons_per_cycle: Annotated[float, Field(gt=0)] | None = None
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
        from accelsim.functional.rivals import A3Rule

        return A3Rule(
            self.iterations, self.threshold, self.integer_bits, self.fraction_bits, self.range_fit
        )


@dataclass
class _Query:
    """One query on its way.

    Attributes:
        row: of the workload.
        last: whether it is the last of its row.
        select: cycles in candidate selection.
        dot: cycles in the dot product, without the module's overhead.
        exponent: likewise in the exponent module.
        output: likewise in the output module.
    """

    row: int
    last: bool
    select: int
    dot: int
    exponent: int
    output: int


class _A3:
    """One run."""

    def __init__(self, workload: RivalWorkload, config: A3Config, memory: MemoryConfig) -> None:
        from accelsim.hardware.blocks.bulk_reads import BulkReads, matrix_slots

        self.workload, self.config = workload, config
        self.env = simpy.Environment()
        self.dram = BulkReads(config.channels, memory, config.frequency_hz)
        bits = 2 * config.element_bits + (config.sorted_entry_bits if config.iterations else 0)
        self.slots = matrix_slots(workload.columns, -(-workload.head_dim * bits // 8))
        names = ["loader", "candidate_selection", "dot_product", "exponent", "output"]
        self.modules = {name: Module(self.env, name) for name in names}
        # One query in each module; what a module has finished waits in its output registers.
        self.streams = {name: Stream(self.env, 1) for name in names[:-1]}
        self.free = [self.env.event() for _ in range(workload.rows)]
        self.bytes = dict.fromkeys(("query", "key_msb", "key_lsb", "value"), 0)
        self.first = np.concatenate([[0], np.cumsum(workload["queries"].astype(np.int64))])
        self.completions = [0] * workload.rows

    def run(self) -> Activity:
        """Simulate to the last output."""
        self.env.process(self.load())
        self.env.process(self.serve("candidate_selection", "loader", "select", 0))
        overhead = self.config.module_overhead
        self.env.process(self.serve("dot_product", "candidate_selection", "dot", overhead))
        self.env.process(self.serve("exponent", "dot_product", "exponent", overhead))
        last = self.serve("output", "exponent", "output", overhead)
        self.env.run(until=self.env.process(last))
        return self._activity(int(self.env.now))

    # -- modules ----------------------------------------------------------------------------

    def load(self) -> Process:
        """Copy a head's matrices on chip, then feed its queries; the SRAMs are not doubled."""
        module, config = self.modules["loader"], self.config
        for row in range(self.workload.rows):
            if row:
                yield from module.wait(self.free[row - 1], "sram_in_use")
            keys = int(self.workload["keys"][row])
            if config.transfers:
                yield from self._copy_in(row, min(keys, config.capacity_rows))
            if config.iterations and config.sort_comparisons_per_cycle:
                work = keys * np.log2(max(keys, 2)) * self.workload.head_dim
                yield from module.busy(int(np.ceil(work / config.sort_comparisons_per_cycle)))
            for at in range(self.first[row], self.first[row + 1]):
                if config.transfers:
                    yield from self._read("query", 0, self._row_bytes(config.element_bits))
                    yield from self._overflow(row, at, keys - config.capacity_rows)
                query = self._query(row, at)
                yield from module.give(self.streams["loader"], query, "pipeline_full")

    def serve(self, name: str, source: str, field: str, overhead: int) -> Process:
        """One module: take a query, work on its rows, hand it on."""
        module = self.modules[name]
        for _ in range(self.first[-1]):
            query = yield from module.take(self.streams[source], f"no_{source}")
            cycles = getattr(query, field)
            yield from module.busy(cycles + overhead if cycles else 0)
            if name == "output":
                self.completions[query.row] = int(self.env.now)
                if query.last:
                    self.free[query.row].succeed()
            else:
                yield from module.give(self.streams[name], query, "next_module_busy")

    def _query(self, row: int, at: int) -> _Query:
        counts, config = self.workload.counts, self.config
        iterations, scored, kept = (
            int(counts[name][at]) for name in ("iterations", "candidates", "kept")
        )
        last = at + 1 == self.first[row + 1]
        if not config.iterations:
            return _Query(row, last, 0, scored, scored, scored)
        # Row numbers leave the scan one a cycle, at 16 registers a cycle; likewise after the dot
        # product.
        scan = -(-int(counts["visible"][at]) // config.scan_width)
        compare = -(-scored // config.scan_width)
        return _Query(
            row,
            last,
            config.selection_fill + iterations,
            max(scored, scan),
            max(kept, compare),
            kept,
        )

    # -- memory -----------------------------------------------------------------------------

    def _row_bytes(self, bits: int) -> int:
        return -(-self.workload.head_dim * bits // 8)

    def _copy_in(self, row: int, rows: int) -> Process:
        address = int(self.slots[row])
        size = rows * self._row_bytes(self.config.element_bits)
        sorted_size = 0
        if self.config.iterations:
            sorted_size = rows * self._row_bytes(self.config.sorted_entry_bits)
        yield from self._read("key_msb", address, size + sorted_size)
        yield from self._read("value", address + size + sorted_size, size)

    def _overflow(self, row: int, at: int, beyond: int) -> Process:
        """Rows that the SRAMs do not hold come from DRAM for every query (§III-C)."""
        if beyond <= 0:
            return
        counts = self.workload.counts
        visible = int(counts["visible"][at])
        share = max(visible - self.config.capacity_rows, 0) / visible
        for tensor, name in (("key_msb", "candidates"), ("value", "kept")):
            rows = int(np.ceil(share * int(counts[name][at])))
            size = rows * self._row_bytes(self.config.element_bits)
            yield from self._read(tensor, int(self.slots[row]), size)

    def _read(self, tensor: str, address: int, size: int) -> Process:
        end, moved = self.dram.read(address, size, int(self.env.now))
        self.bytes[tensor] += moved
        yield from self.modules["loader"].busy_until(end)

    # -- results ----------------------------------------------------------------------------

    def _activity(self, total: int) -> Activity:
        config, counts, dim = self.config, self.workload.counts, self.workload.head_dim
        activity = Activity(total, config.frequency_hz, dict(self.bytes))
        scored, kept = int(counts["candidates"].sum()), int(counts["kept"].sum())
        row_bytes = self._row_bytes(config.element_bits)
        loaded = int(np.minimum(self.workload["keys"], config.capacity_rows).sum())
        work = {
            "qk_macs": scored * dim,
            "pv_macs": kept * dim,
            "exponentials": kept,
            "divisions": kept,
            "key_sram_write_bytes": loaded * row_bytes,
            "key_sram_read_bytes": scored * row_bytes,
            "value_sram_write_bytes": loaded * row_bytes,
            "value_sram_read_bytes": kept * row_bytes,
        }
        if config.iterations:
            iterations = int(counts["iterations"].sum())
            queries = int(self.first[-1])
            work |= {
                "candidate_iterations": iterations,
                "score_comparisons": scored,
                "sorted_key_reads": 2 * iterations + 8 * dim * queries,
                "sorted_key_writes": loaded * dim,
            }
        for name, amount in work.items():
            activity.count(name, amount)
        self.dram.count(activity)
        if config.transfers:
            _count_output(activity, int(self.first[-1]), dim, self.dram.atom)
        activity.modules = {name: m.finish(total) for name, m in self.modules.items()}
        activity.completion_cycles = self.completions
        return activity


def _count_output(activity: Activity, queries: int, dim: int, atom: int) -> None:
    """Attention outputs leave at 12 bit, as SpAtten's do; their time is hidden."""
    activity.dram_write_bytes = -(-(queries * dim * 12 // 8) // atom) * atom
    activity.count("dram_writes", activity.dram_write_bytes // atom)


def _decided(workload: Workload, config: A3Config) -> RivalWorkload:
    """Give a workload without tensors its counts: exact for base A3, else the assumed fractions."""
    if isinstance(workload, RivalWorkload):
        return workload
    undecided(workload, "A3")
    fractions: tuple[float | None, float | None] = (1.0, 1.0)
    if config.iterations:
        fractions = (config.candidate_fraction, config.kept_fraction)
    if fractions[0] is None or fractions[1] is None:
        raise WorkloadError(
            f"workload '{workload.name}': approximate A3 decides on real tensors; expected a "
            "trace, or candidate_fraction and kept_fraction set"
        )
    queries = workload["queries"].astype(np.int64)
    visible = np.repeat(np.rint(workload["query_keys"] / queries).astype(np.int64), queries)
    candidates = np.maximum(1, np.rint(visible * fractions[0])).astype(np.int64)
    kept = np.maximum(1, np.rint(visible * fractions[1])).astype(np.int64)
    counts: dict[str, NDArray[np.int64]] = {
        "visible": visible,
        "iterations": config.rule().budget(visible),
        "candidates": candidates,
        "kept": np.minimum(kept, candidates),
    }
    return RivalWorkload(workload.columns, workload.head_dim, workload.name, counts=counts)


def _simulate(workload: Workload, config: A3Config, memory: MemoryConfig, engine: str) -> Activity:
    if workload.head_dim > config.multipliers:
        raise WorkloadError(
            f"workload '{workload.name}': head_dim {workload.head_dim} is wider than the "
            f"{config.multipliers} multipliers of a module, which take one row a cycle"
        )
    return _A3(_decided(workload, config), config, memory).run()


def _decide(trace: AttentionTrace, config: A3Config) -> PolicyRun:
    from accelsim.functional.rivals import run_a3

    return run_a3(trace, config.rule())


ACCELERATOR = Accelerator(A3Config, _simulate, _decide)
"""See :class:`accelsim.hardware.Accelerator`."""
