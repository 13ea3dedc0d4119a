"""MNNFast (Jang et al., ISCA 2019) as an attention machine: column-wise streaming, zero-skipping.

Blocks: loader (chunks of K and V from DRAM, one ahead), compute (one array of multipliers: inner
products, exponentials, weighted sum of the values that are not skipped), divider (one division per
output element, once per query). See docs/accelerators/mnnfast.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import simpy
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
    from accelsim.hardware.simulation._module import Process
    from accelsim.traces import AttentionTrace

Fraction = Annotated[float, Field(ge=0, le=1)]


class MnnFastConfig(AcceleratorConfig):
    """One MNNFast."""

    kind: Literal["mnnfast"]
    channels: PositiveInt = 2
    """DRAM channels."""
    memory: str = "hbm2-nominal"
    energy: str = "mnnfast"
    multipliers: PositiveInt = 128
    """Multipliers of the whole machine (SpAtten §V-B)."""
    sharing: Literal["shared", "split"] = "shared"
    """``shared``: all multipliers do inner products, then weighted sums, so that a skipped value
    saves time; ``split``: half of them do each, at the same time."""
    threshold: Fraction = 0.1
    """Values whose weight is below it are skipped (not verified: the paper could not be read)."""
    chunk_rows: PositiveInt = 64
    """Keys, and values, of a chunk (assumption)."""
    element_bits: PositiveInt = 12
    """Bits of an element in DRAM and on chip (assumption: as SpAtten's)."""
    fetch_skipped: bool = True
    """Skipped values are fetched all the same (SpAtten §V-B: everything is fetched)."""
    divisions_per_cycle: PositiveInt = 8
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
        """Two chunks each of keys and values, 64 elements wide."""
        return 4 * self.chunk_rows * 64 * self.element_bits / 8


class _MnnFast:
    """One run."""

    def __init__(
        self, workload: RivalWorkload, config: MnnFastConfig, memory: MemoryConfig
    ) -> None:
        from accelsim.hardware.blocks.bulk_reads import BulkReads, matrix_slots

        self.workload, self.config = workload, config
        self.env = simpy.Environment()
        self.dram = BulkReads(config.channels, memory, config.frequency_hz)
        self.row_bytes = -(-workload.head_dim * config.element_bits // 8)
        self.slots = matrix_slots(workload.columns, 2 * self.row_bytes)
        self.modules = {n: Module(self.env, n) for n in ("loader", "compute", "divider")}
        self.chunks, self.sums = Stream(self.env, 1), Stream(self.env, 1)
        chunks = -(-workload["keys"].astype(np.int64) // config.chunk_rows)
        self.first = np.concatenate([[0], np.cumsum(chunks)])
        self.bytes = dict.fromkeys(("query", "key_msb", "key_lsb", "value"), 0)
        self.completions = [0] * workload.rows

    def run(self) -> Activity:
        """Simulate to the last division."""
        self.env.process(self.load())
        self.env.process(self.compute())
        self.env.run(until=self.env.process(self.divide()))
        return self._activity(int(self.env.now))

    def load(self) -> Process:
        """Fetch queries, then chunk after chunk; the next one while this one is computed."""
        module, work, rows = self.modules["loader"], self.workload, self.config.chunk_rows
        for row in range(work.rows):
            yield from self._read("query", 0, int(work["queries"][row]) * self.row_bytes)
            keys, values = int(work["keys"][row]), int(work["values"][row])
            base = int(self.slots[row])
            for at in range(self.first[row], self.first[row + 1]):
                start = (at - self.first[row]) * rows
                size = min(rows, keys - start) * self.row_bytes
                yield from self._read("key_msb", base + start * self.row_bytes, size)
                # Where skipped values stay in DRAM, the used ones are spread over the chunks.
                fetched = size if self.config.fetch_skipped else -(-size * values // keys)
                address = base + (keys + start) * self.row_bytes
                yield from self._read("value", address, fetched)
                yield from module.give(self.chunks, at, "chunk_buffers_full")

    def compute(self) -> Process:
        """All queries of a head against one chunk, then the next chunk."""
        module, counts = self.modules["compute"], self.workload.counts
        # A vector narrower than 64 takes 64 multipliers all the same, as in A3 and SpAtten.
        lanes = self.config.multipliers / max(self.workload.head_dim, 64)
        for row in range(self.workload.rows):
            for _ in range(self.first[row], self.first[row + 1]):
                at = yield from module.take(self.chunks, "awaiting_chunk")
                scored, kept = int(counts["scored"][at]), int(counts["kept"][at])
                vectors = scored + kept if self.config.sharing == "shared" else 2 * scored
                yield from module.busy(int(np.ceil(vectors / lanes)) + self.config.pipeline_latency)
            yield from module.give(self.sums, row, "divider_busy")

    def divide(self) -> Process:
        """Divide each output element by the sum of exponentials, once per query."""
        module = self.modules["divider"]
        for row in range(self.workload.rows):
            yield from module.take(self.sums, "no_sums")
            elements = int(self.workload["queries"][row]) * self.workload.head_dim
            yield from module.busy(-(-elements // self.config.divisions_per_cycle))
            self.completions[row] = int(self.env.now)

    def _read(self, tensor: str, address: int, size: int) -> Process:
        end, moved = self.dram.read(address, size, int(self.env.now))
        self.bytes[tensor] += moved
        yield from self.modules["loader"].busy_until(end)

    def _activity(self, total: int) -> Activity:
        work, dim = self.workload, self.workload.head_dim
        activity = Activity(total, self.config.frequency_hz, dict(self.bytes))
        scored, kept = int(work.counts["scored"].sum()), int(work.counts["kept"].sum())
        queries = int(work["queries"].sum())
        for name, amount in {
            "qk_macs": scored * dim,
            "pv_macs": kept * dim,
            "exponentials": scored,
            "score_comparisons": scored,
            "divisions": queries * dim,
            "key_sram_write_bytes": self.bytes["key_msb"],
            "value_sram_write_bytes": self.bytes["value"],
            "key_sram_read_bytes": scored * self.row_bytes,
            "value_sram_read_bytes": kept * self.row_bytes,
        }.items():
            activity.count(name, amount)
        self.dram.count(activity)
        # Outputs leave at 12 bit, as SpAtten's do; their time is hidden.
        atom = self.dram.atom
        activity.dram_write_bytes = -(-(queries * dim * 12 // 8) // atom) * atom
        activity.count("dram_writes", activity.dram_write_bytes // atom)
        activity.modules = {name: m.finish(total) for name, m in self.modules.items()}
        activity.completion_cycles = self.completions
        return activity


def _decided(workload: Workload, config: MnnFastConfig) -> RivalWorkload:
    """Give a workload without tensors its counts, by the assumed fraction."""
    if isinstance(workload, RivalWorkload):
        return workload
    undecided(workload, "MNNFast")
    if config.kept_fraction is None:
        raise WorkloadError(
            f"workload '{workload.name}': MNNFast skips by real probabilities; expected a trace, "
            "or kept_fraction set"
        )
    scored: list[int] = []
    for keys, total in zip(workload["keys"], workload["query_keys"], strict=True):
        edges = np.minimum(np.arange(0, keys + config.chunk_rows, config.chunk_rows), keys)
        scored += np.diff(np.rint(edges * (total / keys)).astype(np.int64)).tolist()
    counts = np.array(scored, dtype=np.int64)
    kept = np.rint(counts * config.kept_fraction).astype(np.int64)
    return RivalWorkload(
        workload.columns,
        workload.head_dim,
        workload.name,
        counts={"scored": counts, "kept": kept},
    )


def _simulate(
    workload: Workload, config: MnnFastConfig, memory: MemoryConfig, engine: str
) -> Activity:
    return _MnnFast(_decided(workload, config), config, memory).run()


def _decide(trace: AttentionTrace, config: MnnFastConfig) -> PolicyRun:
    from accelsim.functional.rivals import MnnFastRule, run_mnnfast

    rule = MnnFastRule(
        config.threshold, config.chunk_rows, config.element_bits, config.fetch_skipped
    )
    return run_mnnfast(trace, rule)


ACCELERATOR = Accelerator(MnnFastConfig, _simulate, _decide)
"""See :class:`accelsim.hardware.Accelerator`."""
