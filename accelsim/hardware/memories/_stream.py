"""Drive one channel with a list of addresses: the DRAM experiment without an accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories.channel import (
    CONFLICTS,
    HITS,
    MISSES,
    Banks,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
    counters,
    new_channels,
)
from accelsim.hardware.memories.timing import (
    COMMANDS,
    MAX_ENTRIES,
    Organisation,
    organisation,
)
from accelsim.jit import kernel


@dataclass(frozen=True)
class StreamResult:
    """What a stream of reads through one channel took.

    Attributes:
        cycles: ``bridge``: clock edges from the first offer to the edge that samples the last
            response, both included; ``controller``: ticks to the last data.
        average_latency: ticks from acceptance to data, mean over the reads.
        row_hits, row_misses, row_conflicts: by the first command issued for the request.
        commands: commands issued, by name.
    """

    cycles: int
    average_latency: float
    row_hits: int
    row_misses: int
    row_conflicts: int
    commands: dict[str, int]


def read_stream(
    memory: MemoryConfig,
    addresses: NDArray[np.int64],
    protocol: Literal["bridge", "controller"] = "bridge",
) -> StreamResult:
    """Read ``addresses`` (channel-local bytes) in order through one channel.

    Args:
        memory: the channel.
        addresses: bytes, in order.
        protocol: ``bridge``: the released test bench's: one request a cycle, a refused request is
            parked and retried (the cycle of its acceptance takes no new one), one response a
            cycle, at most ``inflight_limit`` in flight. ``controller``: one request offered a tick
            until accepted; only the controller's queue limits them.

    Raises:
        SimulationError: the channel does not finish (a timing table that can never be met).
    """
    if protocol == "controller":
        memory = memory.model_copy(update={"inflight_limit": MAX_ENTRIES})
    org = organisation(memory)
    state, banks = new_channels(1, org)
    limit = 10_000 + 2_000 * len(addresses)
    drive = _drive_controller if protocol == "controller" else _drive
    cycles = int(drive(state, banks, org, np.asarray(addresses, np.int64), limit))
    if cycles < 0:
        raise SimulationError(
            f"memory: {len(addresses)} reads not finished after {limit} ticks; "
            "check the timing table"
        )
    counts = counters(state)
    return StreamResult(
        cycles,
        float(state[0]["latency_sum"]) / max(1, len(addresses)),
        int(counts[HITS]),
        int(counts[MISSES]),
        int(counts[CONFLICTS]),
        {name: int(counts[code]) for code, name in enumerate(COMMANDS)},
    )


@kernel
def _drive(
    state: Channels, banks: Banks, org: Organisation, addresses: NDArray[np.int64], limit: int
) -> int:
    reads = len(addresses)
    offered, received = 0, 0
    parked = -1
    for edge in range(limit):
        if parked >= 0:
            if channel_can_push(state, org, 0):
                channel_push(state, banks, org, 0, addresses[parked], parked, False)
                parked = -1
        elif offered < reads:
            if channel_can_push(state, org, 0):
                channel_push(state, banks, org, 0, addresses[offered], offered, False)
            else:
                parked = offered
            offered += 1
        if channel_pop(state, 0) >= 0:
            received += 1
            if received == reads:
                return edge + 2
        channel_tick(state, banks, org, 0)
    return -1


@kernel
def _drive_controller(
    state: Channels, banks: Banks, org: Organisation, addresses: NDArray[np.int64], limit: int
) -> int:
    reads = len(addresses)
    offered, received = 0, 0
    for tick in range(limit):
        if offered < reads and channel_can_push(state, org, 0):
            channel_push(state, banks, org, 0, addresses[offered], offered, False)
            offered += 1
        channel_tick(state, banks, org, 0)
        if channel_pop(state, 0) >= 0:
            received += 1
            if received == reads:
                return tick + 1
    return -1
