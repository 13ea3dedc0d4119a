"""The matrix fetcher and the DRAM channels behind it, as one compiled service function.

Matrices are queued in the order of arbitration. A matrix is a list of fetch beats, one transaction
per fetch channel (specification section 2.6). Addresses wait in 16-deep FIFOs; each DRAM channel
takes the lowest waiting fetch channel (section 5.2); a beat returns when all its transactions have.
:func:`advance` runs until a matrix is complete or a given cycle is reached, so that keys and values
compete for the channels exactly as long as both are outstanding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._channel import (
    DONE_HEAD,
    DONE_TAIL,
    NEXT_EVENT,
    TICK,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
)
from accelsim.hardware.memories._timing import Organisation
from accelsim.jit import kernel

RING = 1 << 15
"""Fetch beats that can be queued."""
ADDRESS_FIFO = 16
ADDRESS_LATENCY = 3
"""Address FIFO (2) and read-address register (1)."""
RESPONSE_FIFO = 128
"""Outstanding (64) and response (64) FIFO of a fetch channel."""
ACCEPT_LATENCY = 15
"""From a response popped by the bridge to its line in the multipliers: one cycle to the bus, then
14 (section 2.6)."""
PADDING = -1

# Columns of ``scalars``.
CYCLE, TAIL, PUSHED, JOINED, ACCEPTED = range(5)
KEY, VALUE = range(2)
"""Which buffer a matrix fills; ``ACCEPTED + kind`` is its consumer's clock."""


class Fetcher(NamedTuple):
    """State; all arrays int64.

    Attributes:
        scalars: current cycle, beats queued, pushed and joined, cycle of the last line
            accepted from the key and from the value buffer (times 1024, as lines per beat need not
            be whole).
        address: [RING, fetch channels] byte address of each transaction, or PADDING.
        ready: [RING] earliest cycle in which a beat enters the address FIFOs.
        visible: [RING] cycle in which a pushed beat is seen by the crossbar.
        lines: [RING] lines of the matrix that a beat completes, times 1024.
        kind: [RING] KEY or VALUE.
        last: [RING] 1 for the last beat of a matrix.
        issued: [fetch channels] beats issued to DRAM.
        returned: [fetch channels] beats returned.
        parked: [channels] fetch channel of a refused request, or -1.
        order: [channels, RESPONSE_FIFO * 32] fetch channels in the order of accepted requests.
        order_ends: [channels, 2] head and tail of ``order``.
    """

    scalars: NDArray[np.int64]
    address: NDArray[np.int64]
    ready: NDArray[np.int64]
    visible: NDArray[np.int64]
    lines: NDArray[np.int64]
    kind: NDArray[np.int64]
    last: NDArray[np.int64]
    issued: NDArray[np.int64]
    returned: NDArray[np.int64]
    parked: NDArray[np.int64]
    order: NDArray[np.int64]
    order_ends: NDArray[np.int64]


def new_fetcher(fetch_channels: int, channels: int, first_accept: int) -> Fetcher:
    """Return an idle fetcher whose first line is accepted at ``first_accept`` or later."""
    scalars = np.zeros(6, np.int64)
    scalars[ACCEPTED:] = first_accept * 1024
    return Fetcher(
        scalars,
        np.full((RING, fetch_channels), PADDING, np.int64),
        np.zeros(RING, np.int64),
        np.zeros(RING, np.int64),
        np.zeros(RING, np.int64),
        np.zeros(RING, np.int64),
        np.zeros(RING, np.int64),
        np.zeros(fetch_channels, np.int64),
        np.zeros(fetch_channels, np.int64),
        np.full(channels, -1, np.int64),
        np.zeros((channels, RESPONSE_FIFO * 32), np.int64),
        np.zeros((channels, 2), np.int64),
    )


@kernel
def queue_matrix(
    fetcher: Fetcher, beats: NDArray[np.int64], ready: int, spread: int, lines: int, kind: int
) -> None:
    """Append a matrix.

    Args:
        fetcher: state.
        beats: byte addresses [beats, fetch channels], PADDING where there is none.
        ready: cycle in which the first beat may enter the address FIFOs.
        spread: cycles over which the beats become ready, evenly.
        lines: buffer lines the matrix fills.
        kind: KEY or VALUE.
    """
    count = len(beats)
    tail = fetcher.scalars[TAIL]
    for beat in range(count):
        slot = (tail + beat) % RING
        fetcher.address[slot] = beats[beat]
        fetcher.ready[slot] = ready + beat * spread // count
        fetcher.lines[slot] = lines * 1024 // count
        fetcher.kind[slot] = kind
        fetcher.last[slot] = beat == count - 1
    fetcher.scalars[TAIL] = tail + count


@kernel
def _skip_padding(fetcher: Fetcher, port: int) -> None:
    """Padding bypasses DRAM but keeps its place."""
    pushed = fetcher.scalars[PUSHED]
    while (
        fetcher.issued[port] < pushed
        and fetcher.address[fetcher.issued[port] % RING, port] == PADDING
    ):
        fetcher.issued[port] += 1
    while (
        fetcher.returned[port] < fetcher.issued[port]
        and fetcher.address[fetcher.returned[port] % RING, port] == PADDING
    ):
        fetcher.returned[port] += 1


@kernel
def _idle_until(state: Channels, org: Organisation, channel: int, tick: int) -> None:
    """Let a channel without requests count, and refresh when it is due."""
    while state[channel, TICK] < tick:
        free = min(tick, state[channel, NEXT_EVENT] - 1) - state[channel, TICK]
        if free > 0:
            state[channel, TICK] += free
        else:
            channel_tick(state, org, channel)


@kernel
def advance(
    fetcher: Fetcher, state: Channels, org: Organisation, shift: int, rate: int, limit: int
) -> int:
    """Run until a matrix is complete or the cycle reaches ``limit``.

    Args:
        fetcher: state.
        state: of the DRAM channels.
        org: of one DRAM channel.
        shift: log2 of the number of channels (32-byte interleave, section 5.1).
        rate: memory clock ticks in 1024 core cycles.
        limit: cycle to stop at.

    Returns:
        1 + kind of the matrix that was completed, else 0.
    """
    scalars = fetcher.scalars
    ports = fetcher.address.shape[1]
    channels = len(fetcher.parked)
    while scalars[CYCLE] < limit:
        now = scalars[CYCLE]
        if scalars[JOINED] == scalars[TAIL]:
            for channel in range(channels):
                _idle_until(state, org, channel, limit * rate >> 10)
            scalars[CYCLE] = limit
            return 0
        pushed = scalars[PUSHED]
        if pushed < scalars[TAIL] and fetcher.ready[pushed % RING] <= now:
            room = True
            for port in range(ports):
                if pushed - fetcher.issued[port] >= ADDRESS_FIFO:
                    room = False
                    break
            if room:
                fetcher.visible[pushed % RING] = now + ADDRESS_LATENCY
                scalars[PUSHED] = pushed + 1
                for port in range(ports):
                    if fetcher.issued[port] == pushed:
                        _skip_padding(fetcher, port)
        for channel in range(channels):
            chosen = fetcher.parked[channel]
            if chosen < 0:
                for port in range(ports):
                    beat = fetcher.issued[port]
                    if beat >= scalars[PUSHED] or fetcher.visible[beat % RING] > now:
                        continue
                    if beat - scalars[JOINED] >= RESPONSE_FIFO:
                        continue
                    if (fetcher.address[beat % RING, port] >> 5) & (channels - 1) == channel:
                        chosen = port
                        break
            if chosen >= 0:
                if channel_can_push(state, org, channel):
                    beat = fetcher.issued[chosen]
                    address = fetcher.address[beat % RING, chosen]
                    channel_push(state, org, channel, (address >> (5 + shift)) << 5, chosen, False)
                    tail = fetcher.order_ends[channel, 1]
                    fetcher.order[channel, tail % (RESPONSE_FIFO * 32)] = chosen
                    fetcher.order_ends[channel, 1] = tail + 1
                    fetcher.issued[chosen] = beat + 1
                    fetcher.parked[channel] = -1
                    _skip_padding(fetcher, chosen)
                else:
                    fetcher.parked[channel] = chosen
            answered = state[channel, DONE_HEAD] != state[channel, DONE_TAIL]
            if answered and channel_pop(state, channel) >= 0:
                # Responses are attributed in the order of the requests (section 5.2).
                head = fetcher.order_ends[channel, 0]
                port = fetcher.order[channel, head % (RESPONSE_FIFO * 32)]
                fetcher.order_ends[channel, 0] = head + 1
                fetcher.returned[port] += 1
                _skip_padding(fetcher, port)
            target = (now + 1) * rate >> 10
            while state[channel, TICK] < target:
                # Most ticks only count; it is worth a look before the call.
                if state[channel, TICK] + 1 >= state[channel, NEXT_EVENT]:
                    channel_tick(state, org, channel)
                else:
                    state[channel, TICK] += 1
        scalars[CYCLE] = now + 1
        joined = scalars[JOINED]
        complete = joined < scalars[PUSHED]
        for port in range(ports):
            if fetcher.returned[port] <= joined:
                complete = False
                break
        if complete:
            slot = joined % RING
            lines = fetcher.lines[slot]
            arrival = (now + ACCEPT_LATENCY) * 1024
            clock = ACCEPTED + fetcher.kind[slot]
            scalars[clock] = max(scalars[clock] + lines, arrival + max(lines - 1024, 0))
            scalars[JOINED] = joined + 1
            if fetcher.last[slot]:
                return 1 + int(fetcher.kind[slot])
    return 0
