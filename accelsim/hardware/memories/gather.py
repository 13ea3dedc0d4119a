"""Drive several channels with one gather: the DRAM experiment of a whole fetcher.

Two front ends. ``ideal``: each channel is offered its own reads in order, independently of the
others. ``ports``: an approximate fetcher in front of a crossbar, twice as many ports as channels,
beats of one block per port that retire together.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories._stream import read_stream
from accelsim.hardware.memories.channel import (
    Banks,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
    new_channels,
)
from accelsim.hardware.memories.timing import Organisation, organisation
from accelsim.jit import kernel

_PORT_ENTRIES = 17
"""Addresses that a port holds: a queue of 16 and the request on offer."""
_OUTSTANDING = 64
"""Beats by which a port may be ahead of the one that retires next."""
_RETIRE_CYCLES = 1
"""From the last response taken by its port to the beat's retirement."""


def local_addresses(
    memory: MemoryConfig, addresses: NDArray[np.int64], channels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the channel of each address and the address within that channel.

    Channels are interleaved by one transaction (specification section 5.1).
    """
    blocks = np.asarray(addresses, np.int64) // memory.transaction_bytes
    return blocks % channels, blocks // channels * memory.transaction_bytes


def read_gather(
    memory: MemoryConfig,
    addresses: NDArray[np.int64],
    channels: int,
    front_end: Literal["ideal", "ports"] = "ideal",
) -> int:
    """Read global byte ``addresses`` in order through several channels; return the cycles.

    Args:
        memory: one channel.
        addresses: one transaction each.
        channels: a power of two.
        front_end: ``ideal``: the slowest channel counts, each driven as in :func:`read_stream`;
            ``ports``: address k goes to port k modulo (2 x channels). A beat of one address per
            port enters only when every port has room, and is on offer a cycle later; a port offers
            one request a cycle, its oldest; a channel takes the lowest waiting port, and keeps to
            it when it cannot take it at once; a request that the memory refuses is parked, as in
            :func:`read_stream`. The k-th response of a channel belongs to its k-th request; a port
            takes one response a cycle, of the lowest channel, and the others wait in a register in
            front of their channels; a beat retires, one a cycle, when each of its ports has a
            response.

    Raises:
        SimulationError: the channels do not finish.
    """
    channel, local = local_addresses(memory, addresses, channels)
    if front_end == "ideal":
        busy = np.unique(channel)
        return max(read_stream(memory, local[channel == c]).cycles for c in busy)
    org = organisation(memory)
    state, banks = new_channels(channels, org)
    limit = 10_000 + 2_000 * len(addresses)
    cycles = int(_drive_ports(state, banks, org, channel, local, limit))
    if cycles < 0:
        raise SimulationError(f"memory: gather not finished after {limit} cycles")
    return cycles


@kernel
def _drive_ports(
    state: Channels,
    banks: Banks,
    org: Organisation,
    channel: NDArray[np.int64],
    local: NDArray[np.int64],
    limit: int,
) -> int:
    reads, channels = len(local), len(state)
    ports = 2 * channels
    beats = -(-reads // ports)
    accepted = np.zeros(ports, np.int64)
    answered = np.zeros(ports, np.int64)
    selected = np.full(channels, -1, np.int64)
    parked = np.full(channels, -1, np.int64)
    response = np.full(channels, -1, np.int64)
    order = np.zeros((channels, reads), np.int64)
    sent = np.zeros(channels, np.int64)
    served = np.zeros(channels, np.int64)
    entered, retired = 0, 0
    for edge in range(limit):
        if _beat_complete(answered, retired, min(ports, reads - retired * ports)):
            retired += 1
            if retired == beats:
                return edge + 1 + _RETIRE_CYCLES
        offered = min(entered, retired + _OUTSTANDING)
        if entered < beats and entered - accepted.min() < _PORT_ENTRIES:
            entered += 1
        on_offer = accepted.copy()  # A port that is taken offers its next request a cycle later.
        for c in range(channels):
            if selected[c] < 0:
                selected[c] = _lowest_waiting(channel, on_offer, offered, c)
            if parked[c] >= 0:
                if channel_can_push(state, org, c):
                    channel_push(state, banks, org, c, local[parked[c]], parked[c], False)
                    parked[c] = -1
                continue
            port = selected[c]
            if port < 0:
                continue
            k = accepted[port] * ports + port
            if channel_can_push(state, org, c):
                channel_push(state, banks, org, c, local[k], k, False)
            else:
                parked[c] = k
            order[c, sent[c]] = port
            sent[c] += 1
            accepted[port] += 1
            selected[c] = -1
        _take_responses(response, answered)
        for c in range(channels):
            if response[c] < 0 and channel_pop(state, c) >= 0:
                response[c] = order[c, served[c]]
                served[c] += 1
            channel_tick(state, banks, org, c)
    return -1


@kernel
def _take_responses(response: NDArray[np.int64], answered: NDArray[np.int64]) -> None:
    """Let each port take the response of the lowest channel that holds one for it."""
    busy = np.zeros(len(answered), np.bool_)
    for c in range(len(response)):
        port = response[c]
        if port >= 0 and not busy[port]:
            busy[port] = True
            answered[port] += 1
            response[c] = -1


@kernel
def _beat_complete(answered: NDArray[np.int64], beat: int, width: int) -> bool:
    for port in range(width):  # noqa: SIM110 - Numba compiles no generators
        if answered[port] <= beat:
            return False
    return True


@kernel
def _lowest_waiting(
    channel: NDArray[np.int64], accepted: NDArray[np.int64], limit: int, wanted: int
) -> int:
    """Return the lowest port that offers a request for channel ``wanted``, -1 if there is none."""
    ports = len(accepted)
    for port in range(ports):
        k = accepted[port] * ports + port
        if accepted[port] < limit and k < len(channel) and channel[k] == wanted:
            return port
    return -1
