"""Between fetch ports and DRAM channels: the crossbar and the way back, compiled.

SpAtten's release, sections 5.2 and 5.3. What a fetch beat is, and when it is joined, is the
fetcher's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories.channel import (
    Banks,
    Channels,
    channel_can_push,
    channel_push,
    channel_tick,
)
from accelsim.hardware.memories.timing import Organisation
from accelsim.jit import inlined

Ints = NDArray[np.int64]
Records = NDArray[np.void]

RING = 1 << 15
"""Fetch beats that are kept: those outstanding, and those whose times are still asked for."""
PADDING = -1
"""Address of a transaction of a beat that is not asked for."""

PORT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "head",  # next beat of its address FIFO
            "returned",  # beats returned
            "channel",  # of the address in its read-address register, -1: empty
            "address",  # in that register
            "served",  # cycle of its last response
        )
    ]
)
"""A port of the fetcher."""


def dram_port(ring: int) -> np.dtype[np.void]:
    """Record of the port of a DRAM channel that remembers the ports of ``ring`` requests."""
    return np.dtype(
        [
            ("parked", np.int64),  # address that the memory refused, -1: none
            ("lock", np.int64),  # port that waits behind it, -1: none
            ("choice", np.int64),  # scratch of the crossbar
            ("response", np.int64),  # whether the response register is full
            ("order_head", np.int64),  # requests answered
            ("order_tail", np.int64),  # requests accepted
            ("order", np.int64, ring),  # ports in the order of accepted requests
        ]
    )


def new_crossbar(ports: int, channels: int, ring: int) -> tuple[Records, Records]:
    """Return idle ports [ports] and channels [channels] that remember ``ring`` requests."""
    fetch = np.zeros(ports, PORT)
    fetch["channel"] = fetch["served"] = -1
    drams = np.zeros(channels, dram_port(ring))
    drams["parked"] = drams["lock"] = -1
    return fetch, drams


@inlined
def cross(
    fetch: Records, drams: Records, state: Channels, banks: Banks, org: Organisation
) -> tuple[int, int]:
    """Each DRAM channel takes the address of the lowest waiting port.

    What the memory refuses is parked at the channel and keeps its turn; the port behind it is
    chosen, and waits (section 5.2).

    Returns:
        Addresses that left their ports, and that the memory accepted.
    """
    left = accepted = 0
    for d in range(len(drams)):
        drams[d].choice = drams[d].lock
    for k in range(len(fetch)):
        d = fetch[k].channel
        if d >= 0 and drams[d].choice < 0:
            drams[d].choice = k
    for d in range(len(drams)):
        k, address = drams[d].choice, drams[d].parked
        if address >= 0:
            drams[d].lock = k
        elif k >= 0:
            address = fetch[k].address
            drams[d].order[drams[d].order_tail % len(drams[d].order)] = k
            drams[d].order_tail += 1
            drams[d].lock = -1
            fetch[k].channel = -1
            left += 1
        else:
            continue
        if channel_can_push(state, org, d):
            channel_push(state, banks, org, d, address, 0, False)
            address = -1
            accepted += 1
        drams[d].parked = address
    return left, accepted


@inlined
def oldest_read(addresses: Ints, fetch: Records, drams: Records, d: int) -> tuple[int, int]:
    """Port and beat of the oldest read of a channel: responses come in the order of requests.

    Args:
        addresses: of the beats, [RING, ports].
        fetch, drams: ports and channels of the crossbar.
        d: the channel.
    """
    k = drams[d].order[drams[d].order_head % len(drams[d].order)]
    beat = fetch[k].returned
    while addresses[beat % RING, k] == PADDING:
        beat += 1
    return k, beat


@inlined
def run_channel(state: Channels, banks: Banks, org: Organisation, d: int, target: int) -> None:
    """Let the memory clock of a channel run up to a tick."""
    c = state[d]
    while c.tick < target:
        # Most ticks only count; it is worth a look before the call.
        if c.tick + 1 >= c.next_event:
            channel_tick(state, banks, org, d)
        else:
            c.tick = min(target, c.next_event - 1)


@inlined
def run_channels(state: Channels, banks: Banks, org: Organisation, tick: int) -> None:
    """Let the channels run on their own, while nothing is pushed or popped."""
    for d in range(len(state)):
        run_channel(state, banks, org, d, tick)
