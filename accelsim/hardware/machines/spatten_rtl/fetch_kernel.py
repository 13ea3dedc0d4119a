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
    PADDING,
    RING,
    Records,
    cross,
    new_crossbar,
    oldest_read,
    run_channel,
    run_channels,
)
from accelsim.hardware.machines.spatten_rtl.facts import (
    ADDRESS_FIFO,
    ADDRESS_LATENCY,
    RESPONSE_FIFO,
    SCORE_ROWS,
)
from accelsim.hardware.memories.channel import (
    NEVER,
    Banks,
    Channels,
    channel_next_response,
    channel_pop,
)
from accelsim.hardware.memories.timing import Organisation
from accelsim.jit import in_place, inlined

TAKEN_TO_FETCH = 6
"""From a score that leaves the score queue to the address FIFOs: the next score enters the value
fork, and its row passes the registers of section 2.14."""
ACCEPT_LATENCY = 16
"""From a response on the bus to its line in the multipliers: 14 cycles (section 2.6), and the mean
of the 0 to 4 that the line waits for the next poll of the reader (section 2.8)."""
JOIN_TO_BUFFER = 6
"""From a joined beat to the write of its lines (section 2.6)."""
KEY, VALUE = range(2)
"""Which buffer a matrix fills."""

FETCHER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "cycle",  # the present one
            "tail",  # beats queued
            "pushed",  # beats in the address FIFOs or past them
            "loaded",  # beats whose addresses all left the FIFOs
            "joined",  # beats returned
            "waiting",  # addresses in the read-address registers
            "refused",  # ports with a parked address
            "opens",  # cycle before which no beat returns: the buffers are being initialised
        )
    ]
    # Cycle of the last line taken from the key and from the value buffer, times 1024, as lines per
    # beat need not be whole.
    + [("accepted", np.int64, 2)]
)
"""Of the whole fetcher; one record."""

BEAT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "ready",  # cycle from which it may enter the address FIFOs
            "lines",  # it fills, times 1024
            "kind",  # KEY or VALUE
            "last",  # whether it is the last of its matrix
            "after",  # how many beats before it the beat is whose lines must have been taken before
            # this one may enter, 0: none
            "pace",  # the same for the beat that must have entered ``gap`` cycles earlier
            "gap",
            "pushed",  # cycle in which it entered
            "loaded",  # ports that have taken their address
            "arrived",  # responses, and transactions that are not asked for
            "taken",  # cycle in which its lines were taken
        )
    ]
)
"""A fetch beat. Up to ``gap`` it is given with its matrix; the rest changes while it is fetched."""

ORDER_RING = 256
"""Requests of a DRAM channel whose fetch channels are remembered."""


class Fetcher(NamedTuple):
    """State.

    Attributes:
        state: one record of FETCHER.
        beats: [RING] of BEAT.
        addresses: bytes, of each beat for each fetch channel, int64 [RING, fetch channels].
        fetch, ports: of the crossbar: fetch channels, DRAM channels.
    """

    state: Records
    beats: Records
    addresses: NDArray[np.int64]
    fetch: Records
    ports: Records


def new_fetcher(fetch_channels: int, channels: int, first_accept: int) -> Fetcher:
    """Return an idle fetcher whose first line is accepted at ``first_accept`` or later."""
    state = np.zeros(1, FETCHER)
    state["opens"] = first_accept - JOIN_TO_BUFFER
    state["accepted"] = first_accept * 1024
    fetch, ports = new_crossbar(fetch_channels, channels, ORDER_RING)
    addresses = np.zeros((RING, fetch_channels), np.int64)
    return Fetcher(state, np.zeros(RING, BEAT), addresses, fetch, ports)


@in_place
def queue_matrix(
    s: Records,
    beats: Records,
    addresses: NDArray[np.int64],
    transactions: NDArray[np.int64],
    ready: int,
    spread: int,
    lines: int,
    kind: int,
    row_beats: int,
) -> None:
    """Append a matrix.

    Args:
        s, beats, addresses: of the fetcher.
        transactions: byte addresses in order; each beat takes one for each fetch channel.
        ready: cycle in which the first beat may enter the address FIFOs.
        spread: cycles over which the beats become ready, evenly.
        lines: buffer lines the matrix fills.
        kind: KEY or VALUE.
        row_beats: fetch beats of a row of vectors, if the score queue limits how many rows are
            fetched ahead of the multipliers; else 0.
    """
    width = addresses.shape[1]
    count = -(-len(transactions) // width)
    tail = s[0].tail
    for beat in range(count):
        slot = (tail + beat) % RING
        beats[slot].ready = ready + beat * spread // count
        beats[slot].lines = lines * 1024 // count
        beats[slot].kind = kind
        beats[slot].last = beat == count - 1
        beats[slot].after = beats[slot].pace = 0
        if row_beats:
            number, part = beat // row_beats, beat % row_beats
            gap = lines * row_beats // count
            beats[slot].ready = ready + number * gap
            if number >= 2:
                # The second row is gathered while the first waits for the arbiter.
                beats[slot].pace, beats[slot].gap = row_beats, gap
            if number >= SCORE_ROWS:
                beats[slot].after = (SCORE_ROWS - 1) * row_beats + 1 + part
        for k in range(width):
            at = beat * width + k
            addresses[slot, k] = transactions[at] if at < len(transactions) else PADDING
    s[0].tail = tail + count


@inlined
def _ready(s: Records, beats: Records) -> int:
    """Cycle in which the next beat may enter the address FIFOs, or far in the future."""
    slot = s[0].pushed % RING
    ready = beats[slot].ready
    if beats[slot].pace:
        before = (s[0].pushed - beats[slot].pace) % RING
        ready = max(ready, beats[before].pushed + beats[slot].gap)
    if beats[slot].after:
        awaited = s[0].pushed - beats[slot].after
        if awaited >= s[0].joined:
            return int(NEVER)
        ready = max(ready, beats[awaited % RING].taken + TAKEN_TO_FETCH)
    return int(ready)


@inlined
def _push_beat(s: Records, beats: Records, addresses: NDArray[np.int64]) -> None:
    """Put the next beat into the address FIFOs; its padding bypasses DRAM."""
    slot = s[0].pushed % RING
    padding = 0
    for k in range(addresses.shape[1]):
        padding += addresses[slot, k] == PADDING
    beats[slot].pushed = s[0].cycle
    beats[slot].loaded = padding
    beats[slot].arrived = padding
    s[0].pushed += 1


@inlined
def _load_addresses(
    s: Records,
    beats: Records,
    addresses: NDArray[np.int64],
    fetch: Records,
    channels: int,
    shift: int,
) -> None:
    """Each free read-address register takes the output of its address FIFO."""
    pushed, now = s[0].pushed, s[0].cycle
    for k in range(len(fetch)):
        head = fetch[k].head
        if fetch[k].channel >= 0 or head >= pushed:
            continue
        while head < pushed and addresses[head % RING, k] == PADDING:
            head += 1
        fetch[k].head = head
        if head >= pushed:
            continue
        slot = head % RING
        if beats[slot].pushed + ADDRESS_LATENCY > now:
            continue
        address = addresses[slot, k]
        fetch[k].channel = (address >> 5) & (channels - 1)
        fetch[k].address = (address >> (5 + shift)) << 5
        fetch[k].head = head + 1
        s[0].waiting += 1
        beats[slot].loaded += 1
    while s[0].loaded < pushed and beats[s[0].loaded % RING].loaded == len(fetch):
        s[0].loaded += 1


@inlined
def _clock_channels(
    s: Records,
    beats: Records,
    addresses: NDArray[np.int64],
    fetch: Records,
    ports: Records,
    state: Channels,
    banks: Banks,
    org: Organisation,
    rate: int,
) -> None:
    """Return responses, then let the memory clock run to the end of the cycle.

    A fetch channel takes one response a cycle, of the lowest DRAM channel; the others wait in their
    response registers, and keep the next ones in the memory (sections 5.2, 5.3).
    """
    target = (s[0].cycle + 1) * rate >> 10
    for d in range(len(ports)):
        if ports[d].response:
            k, beat = oldest_read(addresses, fetch, ports, d)
            if fetch[k].served != s[0].cycle and beat - s[0].joined < RESPONSE_FIFO:
                fetch[k].served = s[0].cycle
                ports[d].response = 0
                ports[d].order_head += 1
                beats[beat % RING].arrived += 1
                fetch[k].returned = beat + 1
        if not ports[d].response and state[d].done_head != state[d].done_tail:
            channel_pop(state, d)
            ports[d].response = 1
        run_channel(state, banks, org, d, target)


@inlined
def _quiet_until(
    s: Records,
    beats: Records,
    ports: Records,
    state: Channels,
    org: Organisation,
    rate: int,
    limit: int,
) -> int:
    """First cycle in which anything can happen outside of the channels, if nothing is on its way.

    Until then each channel runs on its own.
    """
    until = np.int64(limit)
    if s[0].pushed < s[0].tail:
        until = min(until, np.int64(_ready(s, beats)))
    for d in range(len(state)):
        if ports[d].response or state[d].done_head != state[d].done_tail:
            return int(s[0].cycle)
        response = channel_next_response(state, org, d)
        if response < NEVER:
            # The cycle whose ticks reach it: (cycle + 1) * rate >> 10 >= response.
            until = min(until, np.int64(((response << 10) - 1) // rate))
    return int(max(until, s[0].cycle))


@in_place
def advance(
    s: Records,
    beats: Records,
    addresses: NDArray[np.int64],
    fetch: Records,
    ports: Records,
    state: Channels,
    banks: Banks,
    org: Organisation,
    shift: int,
    rate: int,
    limit: int,
) -> int:
    """Run until a matrix is complete or the cycle reaches ``limit``.

    Args:
        s, beats, addresses, fetch, ports: fields of a :class:`Fetcher`; as a tuple they would
            take four times as long to unpack.
        state, banks: of the DRAM channels.
        org: of one DRAM channel.
        shift: log2 of the number of channels (32-byte interleave, section 5.1).
        rate: memory clock ticks in 1024 core cycles.
        limit: cycle to stop at.

    Returns:
        1 + kind of the matrix that was completed, else 0.
    """
    while s[0].cycle < limit:
        if s[0].joined == s[0].tail:
            run_channels(state, banks, org, limit * rate >> 10)
            s[0].cycle = limit
            return 0
        complete = s[0].joined < s[0].pushed and beats[s[0].joined % RING].arrived == len(fetch)
        if s[0].waiting == s[0].refused == 0 and s[0].loaded == s[0].pushed and not complete:
            s[0].cycle = _quiet_until(s, beats, ports, state, org, rate, limit)
            run_channels(state, banks, org, s[0].cycle * rate >> 10)
            if s[0].cycle == limit:
                return 0
        now = s[0].cycle
        pushed = s[0].pushed
        room = pushed < s[0].tail and pushed - s[0].loaded < ADDRESS_FIFO
        if room and _ready(s, beats) <= now:
            _push_beat(s, beats, addresses)
        if s[0].waiting or s[0].refused:
            left, accepted = cross(fetch, ports, state, banks, org)
            s[0].waiting -= left
            s[0].refused += left - accepted
        if s[0].loaded != s[0].pushed:
            _load_addresses(s, beats, addresses, fetch, len(ports), shift)
        _clock_channels(s, beats, addresses, fetch, ports, state, banks, org, rate)
        s[0].cycle = now + 1
        slot = s[0].joined % RING
        if now >= s[0].opens and s[0].joined < s[0].pushed and beats[slot].arrived == len(fetch):
            lines = beats[slot].lines
            kind = beats[slot].kind
            taken = (now + ACCEPT_LATENCY) * 1024 + max(lines - 1024, 0)
            taken = max(s[0].accepted[kind] + lines, taken)
            s[0].accepted[kind] = taken
            beats[slot].taken = taken >> 10
            s[0].joined += 1
            if beats[slot].last:
                return 1 + int(kind)
    return 0
