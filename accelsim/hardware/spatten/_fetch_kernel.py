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

from accelsim.hardware.blocks._crossbar import (
    D_ORDER_HEAD,
    D_RESPONSE,
    F_ADDRESS,
    F_CHANNEL,
    F_HEAD,
    F_RETURNED,
    F_SERVED,
    PADDING,
    RING,
    cross,
    new_crossbar,
    oldest_read,
    run_channel,
    run_channels,
)
from accelsim.hardware.memories._channel import (
    NEVER,
    Banks,
    Channels,
    channel_next_response,
    channel_pop,
)
from accelsim.hardware.memories._timing import Organisation
from accelsim.jit import in_place, inlined

ADDRESS_FIFO = 16
ADDRESS_LATENCY = 2
"""From the address FIFO's input to its output; the read-address register adds one more."""
RESPONSE_FIFO = 64
"""Responses that a fetch channel holds until their beats are whole; a full one keeps the next in
its DRAM channel's response register, and those of others behind it (section 5.3)."""
SCORE_ROWS = 16
"""Rows of scores in the score queue, which holds 16R beats (section 2.14)."""
TAKEN_TO_FETCH = 6
"""From a score that leaves the score queue to the address FIFOs: the next score enters the value
fork, and its row passes the registers of section 2.14."""
ACCEPT_LATENCY = 16
"""From a response on the bus to its line in the multipliers: 14 cycles (section 2.6), and the mean
of the 0 to 4 that the line waits for the next poll of the reader (section 2.8)."""
JOIN_TO_BUFFER = 6
"""From a joined beat to the write of its lines (section 2.6)."""
KEY, VALUE = range(2)
"""Which buffer a matrix fills; ``ACCEPTED + kind`` is its consumer's clock."""

# Entries of ``scalars``. ``CYCLE``: the present cycle. ``TAIL``, ``PUSHED``, ``LOADED``,
# ``JOINED``: beats queued, in the address FIFOs, out of all of them, returned. ``WAITING``:
# addresses in the read-address registers. ``REFUSED``: ports with a parked address. ``OPENS``:
# cycle before which no beat returns, as the buffers are being initialised. ``ACCEPTED``: cycle of
# the last line taken from the key and from the value buffer, times 1024, as lines per beat need not
# be whole.
CYCLE, TAIL, PUSHED, LOADED, JOINED, WAITING, REFUSED, OPENS, ACCEPTED = range(9)
N_SCALARS = ACCEPTED + 2

# Columns of a beat; then the byte address for each fetch channel. ``B_AFTER``: how many beats
# before it the beat is whose lines must have been taken before this one may enter (0: none).
# ``B_PACE``: the same for the beat that must have entered ``B_GAP`` cycles earlier.
(
    B_READY,
    B_PUSHED,
    B_LOADED,
    B_ARRIVED,
    B_LINES,
    B_KIND,
    B_LAST,
    B_AFTER,
    B_TAKEN,
    B_PACE,
    B_GAP,
    B_ADDRESS,
) = range(12)
ORDER_RING = 256
"""Requests of a DRAM channel whose fetch channels are remembered."""


class Fetcher(NamedTuple):
    """State; all arrays int64.

    Attributes:
        scalars: [N_SCALARS].
        beats: [RING, B_ADDRESS + fetch channels].
        fetch, ports: of the crossbar: fetch channels, DRAM channels.
    """

    scalars: NDArray[np.int64]
    beats: NDArray[np.int64]
    fetch: NDArray[np.int64]
    ports: NDArray[np.int64]


def new_fetcher(fetch_channels: int, channels: int, first_accept: int) -> Fetcher:
    """Return an idle fetcher whose first line is accepted at ``first_accept`` or later."""
    scalars = np.zeros(N_SCALARS, np.int64)
    scalars[OPENS] = first_accept - JOIN_TO_BUFFER
    scalars[ACCEPTED:] = first_accept * 1024
    fetch, ports = new_crossbar(fetch_channels, channels, ORDER_RING)
    return Fetcher(scalars, np.zeros((RING, B_ADDRESS + fetch_channels), np.int64), fetch, ports)


@in_place
def queue_matrix(
    s: NDArray[np.int64],
    beats: NDArray[np.int64],
    transactions: NDArray[np.int64],
    ready: int,
    spread: int,
    lines: int,
    kind: int,
    row_beats: int,
) -> None:
    """Append a matrix.

    Args:
        s, beats: ``scalars`` and ``beats`` of the fetcher.
        transactions: byte addresses in order; each beat takes one for each fetch channel.
        ready: cycle in which the first beat may enter the address FIFOs.
        spread: cycles over which the beats become ready, evenly.
        lines: buffer lines the matrix fills.
        kind: KEY or VALUE.
        row_beats: fetch beats of a row of vectors, if the score queue limits how many rows are
            fetched ahead of the multipliers; else 0.
    """
    width = beats.shape[1] - B_ADDRESS
    count = -(-len(transactions) // width)
    tail = s[TAIL]
    for beat in range(count):
        row = beats[(tail + beat) % RING]
        row[B_READY] = ready + beat * spread // count
        row[B_LINES] = lines * 1024 // count
        row[B_KIND] = kind
        row[B_LAST] = beat == count - 1
        row[B_AFTER] = row[B_PACE] = 0
        if row_beats:
            number, part = beat // row_beats, beat % row_beats
            gap = lines * row_beats // count
            row[B_READY] = ready + number * gap
            if number >= 2:
                # The second row is gathered while the first waits for the arbiter.
                row[B_PACE], row[B_GAP] = row_beats, gap
            if number >= SCORE_ROWS:
                row[B_AFTER] = (SCORE_ROWS - 1) * row_beats + 1 + part
        for k in range(width):
            at = beat * width + k
            row[B_ADDRESS + k] = transactions[at] if at < len(transactions) else PADDING
    s[TAIL] = tail + count


@inlined
def _ready(s: NDArray[np.int64], beats: NDArray[np.int64]) -> int:
    """Cycle in which the next beat may enter the address FIFOs, or far in the future."""
    slot = s[PUSHED] % RING
    ready = beats[slot, B_READY]
    if beats[slot, B_PACE]:
        before = (s[PUSHED] - beats[slot, B_PACE]) % RING
        ready = max(ready, beats[before, B_PUSHED] + beats[slot, B_GAP])
    if beats[slot, B_AFTER]:
        awaited = s[PUSHED] - beats[slot, B_AFTER]
        if awaited >= s[JOINED]:
            return int(NEVER)
        ready = max(ready, beats[awaited % RING, B_TAKEN] + TAKEN_TO_FETCH)
    return int(ready)


@inlined
def _push_beat(s: NDArray[np.int64], beats: NDArray[np.int64], ports: int) -> None:
    """Put the next beat into the address FIFOs; its padding bypasses DRAM."""
    slot = s[PUSHED] % RING
    padding = 0
    for k in range(ports):
        padding += beats[slot, B_ADDRESS + k] == PADDING
    beats[slot, B_PUSHED] = s[CYCLE]
    beats[slot, B_LOADED] = padding
    beats[slot, B_ARRIVED] = padding
    s[PUSHED] += 1


@inlined
def _load_addresses(
    s: NDArray[np.int64],
    beats: NDArray[np.int64],
    fetch: NDArray[np.int64],
    channels: int,
    shift: int,
) -> None:
    """Each free read-address register takes the output of its address FIFO."""
    pushed, now = s[PUSHED], s[CYCLE]
    for k in range(len(fetch)):
        head = fetch[k, F_HEAD]
        if fetch[k, F_CHANNEL] >= 0 or head >= pushed:
            continue
        while head < pushed and beats[head % RING, B_ADDRESS + k] == PADDING:
            head += 1
        fetch[k, F_HEAD] = head
        if head >= pushed:
            continue
        slot = head % RING
        if beats[slot, B_PUSHED] + ADDRESS_LATENCY > now:
            continue
        address = beats[slot, B_ADDRESS + k]
        fetch[k, F_CHANNEL] = (address >> 5) & (channels - 1)
        fetch[k, F_ADDRESS] = (address >> (5 + shift)) << 5
        fetch[k, F_HEAD] = head + 1
        s[WAITING] += 1
        beats[slot, B_LOADED] += 1
    while s[LOADED] < pushed and beats[s[LOADED] % RING, B_LOADED] == len(fetch):
        s[LOADED] += 1


@inlined
def _clock_channels(
    s: NDArray[np.int64],
    beats: NDArray[np.int64],
    fetch: NDArray[np.int64],
    ports: NDArray[np.int64],
    state: Channels,
    banks: Banks,
    org: Organisation,
    rate: int,
) -> None:
    """Return responses, then let the memory clock run to the end of the cycle.

    A fetch channel takes one response a cycle, of the lowest DRAM channel; the others wait in their
    response registers, and keep the next ones in the memory (sections 5.2, 5.3).
    """
    target = (s[CYCLE] + 1) * rate >> 10
    for d in range(len(ports)):
        if ports[d, D_RESPONSE]:
            k, beat = oldest_read(beats, fetch, ports, d, ORDER_RING, B_ADDRESS)
            if fetch[k, F_SERVED] != s[CYCLE] and beat - s[JOINED] < RESPONSE_FIFO:
                fetch[k, F_SERVED] = s[CYCLE]
                ports[d, D_RESPONSE] = 0
                ports[d, D_ORDER_HEAD] += 1
                beats[beat % RING, B_ARRIVED] += 1
                fetch[k, F_RETURNED] = beat + 1
        if not ports[d, D_RESPONSE] and state[d].done_head != state[d].done_tail:
            channel_pop(state, d)
            ports[d, D_RESPONSE] = 1
        run_channel(state, banks, org, d, target)


@inlined
def _quiet_until(
    s: NDArray[np.int64],
    beats: NDArray[np.int64],
    ports: NDArray[np.int64],
    state: Channels,
    org: Organisation,
    rate: int,
    limit: int,
) -> int:
    """First cycle in which anything can happen outside of the channels, if nothing is on its way.

    Until then each channel runs on its own.
    """
    until = np.int64(limit)
    if s[PUSHED] < s[TAIL]:
        until = min(until, np.int64(_ready(s, beats)))
    for d in range(len(state)):
        if ports[d, D_RESPONSE] or state[d].done_head != state[d].done_tail:
            return int(s[CYCLE])
        response = channel_next_response(state, org, d)
        if response < NEVER:
            # The cycle whose ticks reach it: (cycle + 1) * rate >> 10 >= response.
            until = min(until, np.int64(((response << 10) - 1) // rate))
    return int(max(until, s[CYCLE]))


@in_place
def advance(
    s: NDArray[np.int64],
    beats: NDArray[np.int64],
    fetch: NDArray[np.int64],
    ports: NDArray[np.int64],
    state: Channels,
    banks: Banks,
    org: Organisation,
    shift: int,
    rate: int,
    limit: int,
) -> int:
    """Run until a matrix is complete or the cycle reaches ``limit``.

    Args:
        s, beats, fetch, ports: fields of a :class:`Fetcher`; as a tuple they would take four times
            as long to unpack.
        state, banks: of the DRAM channels.
        org: of one DRAM channel.
        shift: log2 of the number of channels (32-byte interleave, section 5.1).
        rate: memory clock ticks in 1024 core cycles.
        limit: cycle to stop at.

    Returns:
        1 + kind of the matrix that was completed, else 0.
    """
    while s[CYCLE] < limit:
        if s[JOINED] == s[TAIL]:
            run_channels(state, banks, org, limit * rate >> 10)
            s[CYCLE] = limit
            return 0
        complete = s[JOINED] < s[PUSHED] and beats[s[JOINED] % RING, B_ARRIVED] == len(fetch)
        if s[WAITING] == s[REFUSED] == 0 and s[LOADED] == s[PUSHED] and not complete:
            s[CYCLE] = _quiet_until(s, beats, ports, state, org, rate, limit)
            run_channels(state, banks, org, s[CYCLE] * rate >> 10)
            if s[CYCLE] == limit:
                return 0
        now = s[CYCLE]
        pushed = s[PUSHED]
        room = pushed < s[TAIL] and pushed - s[LOADED] < ADDRESS_FIFO
        if room and _ready(s, beats) <= now:
            _push_beat(s, beats, len(fetch))
        if s[WAITING] or s[REFUSED]:
            left, accepted = cross(fetch, ports, state, banks, org, ORDER_RING)
            s[WAITING] -= left
            s[REFUSED] += left - accepted
        if s[LOADED] != s[PUSHED]:
            _load_addresses(s, beats, fetch, len(ports), shift)
        _clock_channels(s, beats, fetch, ports, state, banks, org, rate)
        s[CYCLE] = now + 1
        slot = s[JOINED] % RING
        if now >= s[OPENS] and s[JOINED] < s[PUSHED] and beats[slot, B_ARRIVED] == len(fetch):
            lines = beats[slot, B_LINES]
            clock = ACCEPTED + beats[slot, B_KIND]
            s[clock] = max(s[clock] + lines, (now + ACCEPT_LATENCY) * 1024 + max(lines - 1024, 0))
            beats[slot, B_TAKEN] = s[clock] >> 10
            s[JOINED] += 1
            if beats[slot, B_LAST]:
                return 1 + int(beats[slot, B_KIND])
    return 0
