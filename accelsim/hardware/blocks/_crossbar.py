"""Between fetch ports and DRAM channels: the crossbar and the way back, compiled.

SpAtten's release, sections 5.2 and 5.3. What a fetch beat is, and when it is joined, is the
fetcher's own: arguments ``beats``, ``ring`` and ``addresses`` are its beats, how many entries the
order of requests of a channel has, and the column of a beat's first address.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._channel import (
    Banks,
    Channels,
    channel_can_push,
    channel_push,
    channel_tick,
)
from accelsim.hardware.memories._timing import Organisation
from accelsim.jit import inlined

Ints = NDArray[np.int64]

RING = 1 << 15
"""Fetch beats that are kept: those outstanding, and those whose times are still asked for."""
PADDING = -1
"""Address of a transaction of a beat that is not asked for."""

# Columns of a port: next beat of its address FIFO, beats returned, the DRAM channel (-1: empty) and
# address in its read-address register, and the cycle of its last response.
F_HEAD, F_RETURNED, F_CHANNEL, F_ADDRESS, F_SERVED = range(5)
N_PORT_COLUMNS = F_SERVED + 1
# Columns of a DRAM channel: address that the memory refused (-1: none), port that waits behind it
# (-1: none), scratch of the crossbar, whether the response register is full, then the ring of ports
# in the order of accepted requests.
D_PARKED, D_LOCK, D_CHOICE, D_RESPONSE, D_ORDER_HEAD, D_ORDER_TAIL, D_ORDER = range(7)


def new_crossbar(ports: int, channels: int, ring: int) -> tuple[Ints, Ints]:
    """Return idle ports [ports, N_PORT_COLUMNS] and channels [channels, D_ORDER + ring]."""
    fetch = np.zeros((ports, N_PORT_COLUMNS), np.int64)
    fetch[:, [F_CHANNEL, F_SERVED]] = -1
    drams = np.zeros((channels, D_ORDER + ring), np.int64)
    drams[:, [D_PARKED, D_LOCK]] = -1
    return fetch, drams


@inlined
def cross(
    fetch: Ints, drams: Ints, state: Channels, banks: Banks, org: Organisation, ring: int
) -> tuple[int, int]:
    """Each DRAM channel takes the address of the lowest waiting port.

    What the memory refuses is parked at the channel and keeps its turn; the port behind it is
    chosen, and waits (section 5.2).

    Returns:
        Addresses that left their ports, and that the memory accepted.
    """
    left = accepted = 0
    for d in range(len(drams)):
        drams[d, D_CHOICE] = drams[d, D_LOCK]
    for k in range(len(fetch)):
        d = fetch[k, F_CHANNEL]
        if d >= 0 and drams[d, D_CHOICE] < 0:
            drams[d, D_CHOICE] = k
    for d in range(len(drams)):
        k, address = drams[d, D_CHOICE], drams[d, D_PARKED]
        if address >= 0:
            drams[d, D_LOCK] = k
        elif k >= 0:
            address = fetch[k, F_ADDRESS]
            drams[d, D_ORDER + drams[d, D_ORDER_TAIL] % ring] = k
            drams[d, D_ORDER_TAIL] += 1
            drams[d, D_LOCK] = -1
            fetch[k, F_CHANNEL] = -1
            left += 1
        else:
            continue
        if channel_can_push(state, org, d):
            channel_push(state, banks, org, d, address, 0, False)
            address = -1
            accepted += 1
        drams[d, D_PARKED] = address
    return left, accepted


@inlined
def oldest_read(
    beats: Ints, fetch: Ints, drams: Ints, d: int, ring: int, addresses: int
) -> tuple[int, int]:
    """Port and beat of the oldest read of a channel: responses come in the order of requests."""
    k = drams[d, D_ORDER + drams[d, D_ORDER_HEAD] % ring]
    beat = fetch[k, F_RETURNED]
    while beats[beat % RING, addresses + k] == PADDING:
        beat += 1
    return k, beat


@inlined
def run_channel(state: Channels, banks: Banks, org: Organisation, d: int, target: int) -> None:
    """Let the memory clock of a channel run up to a tick."""
    while state[d].tick < target:
        # Most ticks only count; it is worth a look before the call.
        if state[d].tick + 1 >= state[d].next_event:
            channel_tick(state, banks, org, d)
        else:
            state[d].tick = min(target, state[d].next_event - 1)


@inlined
def run_channels(state: Channels, banks: Banks, org: Organisation, tick: int) -> None:
    """Let the channels run on their own, while nothing is pushed or popped."""
    for d in range(len(state)):
        run_channel(state, banks, org, d, tick)
