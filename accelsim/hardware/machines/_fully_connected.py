"""Fully connected layers on an attention machine's multipliers, weights streamed from DRAM.

As SpAtten-e2e does (SpAtten, HPCA 2021, §V-B): the weights of a layer pass once through the
multipliers for all tokens that are on chip. The bandwidth of the stream is what the bank model
delivers; see docs/accelerators/spatten-e2e.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from accelsim.errors import WorkloadError
from accelsim.hardware.activity import Activity, ModuleActivity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.counters import Counter
from accelsim.hardware.machines._spatten import BITS_ON_CHIP
from accelsim.workloads import Workload
from accelsim.workloads.models import ModelShape

FC_MACS = Counter("fc_macs", "MAC", "multiply-accumulates of fully connected layers")
_SIMULATED_BYTES = 1 << 24
"""A longer stream is simulated up to here, and extended by the rate of its second half."""
_DRAM_COUNTERS = (
    "dram_activations",
    "dram_precharges",
    "dram_reads",
    "dram_refreshes",
    "row_hits",
    "row_misses",
    "row_conflicts",
)


@dataclass(frozen=True)
class FcMachine:
    """What of a machine matters to fully connected layers.

    Attributes:
        multipliers: of the whole machine, one multiply-accumulate a cycle each.
        buffer_bytes: where activations wait for the weights.
        channels: DRAM channels.
        weight_bits: of a weight in DRAM.
    """

    multipliers: int
    buffer_bytes: float
    channels: int
    weight_bits: int


def weight_stream(
    memory: MemoryConfig,
    channels: int,
    hz: float,
    size: int,
    simulated_bytes: int = _SIMULATED_BYTES,
) -> tuple[int, dict[str, int]]:
    """Cycles and DRAM commands of reading ``size`` consecutive bytes.

    Args:
        memory: the bank model.
        channels: over which consecutive bursts are spread.
        hz: core clock, in whose cycles the time is given.
        size: bytes.
        simulated_bytes: a longer stream is extended linearly from here.
    """
    if size <= simulated_bytes:
        return _simulated_stream(memory, channels, hz, size)
    half, half_counts = _simulated_stream(memory, channels, hz, simulated_bytes // 2)
    full, full_counts = _simulated_stream(memory, channels, hz, simulated_bytes)
    factor = (size - simulated_bytes) / (simulated_bytes - simulated_bytes // 2)
    counts = {
        name: round(full_counts[name] + factor * (full_counts[name] - half_counts[name]))
        for name in _DRAM_COUNTERS
    }
    return round(full + factor * (full - half)), counts


@lru_cache(maxsize=256)
def _simulated_stream(
    memory: MemoryConfig, channels: int, hz: float, size: int
) -> tuple[int, dict[str, int]]:
    from accelsim.hardware.blocks.bulk_reads import BulkReads

    dram = BulkReads(channels, memory, hz)
    cycles, _ = dram.read(0, size, 0)
    activity = Activity(cycles, 1.0)
    dram.count(activity)
    return cycles, {name: activity.counters[name] for name in _DRAM_COUNTERS}


def fully_connected(
    workload: Workload, shape: ModelShape, machine: FcMachine, memory: MemoryConfig, hz: float
) -> Activity:
    """Run the fully connected layers that go with an attention workload.

    Tokens and heads that the workload has pruned cost nothing: a step's layer computes the
    projections of its surviving query rows and heads. Weights are re-streamed for each group of
    tokens whose widest activations fill the buffers. Compute and stream overlap within a layer.

    Args:
        workload: of attention; tells the steps, layers, and surviving queries and heads.
        shape: the model that the workload came from.
        machine: multipliers and memory channels.
        memory: the bank model.
        hz: core clock.

    Raises:
        WorkloadError: the workload does not come from that model.
    """
    _check_shape(workload, shape)
    group = shape.query_heads // shape.kv_heads
    total = Activity(0, hz)
    early, _ = workload.stages()
    stalled = 0
    # Rows of a step's layer lie together.
    key = workload["step"].astype(np.int64) * shape.layers + workload["layer"]
    for rows in np.split(np.arange(workload.rows), np.flatnonzero(np.diff(key)) + 1):
        queries = workload["queries"][rows].astype(np.int64)
        tokens = int(-(-queries.max() // group))
        heads = int(-(-queries.sum() // tokens))
        weights = shape.layer_weights(heads, len(rows))
        widest = max(shape.width, shape.ffn_width) * BITS_ON_CHIP / 8
        on_chip = max(1, int(machine.buffer_bytes // widest))
        passes = -(-tokens // on_chip)
        size = -(-weights * machine.weight_bits // 8)
        streamed, counts = weight_stream(memory, machine.channels, hz, size)
        computed = -(-weights * tokens // machine.multipliers)
        cycles = max(passes * streamed, computed)
        stalled += cycles - computed
        total.cycles += cycles
        total.prefill_cycles += cycles if early[rows[0]] else 0
        total.completion_cycles += [total.cycles] * len(rows)
        moved = passes * counts["dram_reads"] * memory.transaction_bytes
        total.dram_read_bytes["weight"] = total.dram_read_bytes.get("weight", 0) + moved
        on_chip_bytes = passes * weights * BITS_ON_CHIP // 8
        for name, amount in {
            "fc_macs": weights * tokens,
            "fetcher_bytes": 2 * moved,
            # Half of the weights pass through either buffer.
            "key_sram_write_bytes": on_chip_bytes // 2,
            "key_sram_read_bytes": on_chip_bytes // 2,
            "value_sram_write_bytes": on_chip_bytes // 2,
            "value_sram_read_bytes": on_chip_bytes // 2,
            **{name: passes * count for name, count in counts.items()},
        }.items():
            total.count(name, amount)
    stalls = {"awaiting_weights": stalled} if stalled else {}
    total.modules["fully_connected"] = ModuleActivity(total.cycles - stalled, stalls)
    return total


def _check_shape(workload: Workload, shape: ModelShape) -> None:
    for what, got, limit in (
        ("layers", int(workload["layer"].max()) + 1, shape.layers),
        ("KV heads", int(workload["head"].max()) + 1, shape.kv_heads),
    ):
        if got > limit:
            raise WorkloadError(
                f"workload '{workload.name}' has {got} {what}, the model {limit}: it does not come "
                "from this model"
            )
    if workload.head_dim != shape.head_dim:
        raise WorkloadError(
            f"workload '{workload.name}' has head_dim {workload.head_dim}, the model "
            f"{shape.head_dim}: it does not come from this model"
        )
