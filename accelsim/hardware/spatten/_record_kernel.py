"""Recording inside compiled loops: one open span a track, closed when what it shows changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._channel import COUNTERS, INFLIGHT, RD, Channels
from accelsim.hardware.memories._timing import Organisation
from accelsim.hardware.spatten._fetch_kernel import (
    B_ADDRESS,
    CYCLE,
    D_ORDER,
    D_ORDER_HEAD,
    D_ORDER_TAIL,
    F_RETURNED,
    JOINED,
    ORDER_RING,
    PADDING,
    RING,
    TAIL,
    Fetcher,
    advance,
)
from accelsim.hardware.timeline import N_COLUMNS, NO_ITEM
from accelsim.jit import kernel

Ints = NDArray[np.int64]

O_ITEM, O_STATE, O_START, O_READS = range(4)
NOTHING = -1
"""State of a track that shows nothing."""


def open_spans(tracks: int) -> Ints:
    """Return the open spans of ``tracks`` tracks that show nothing yet."""
    opened = np.full((tracks, 4), NOTHING, np.int64)
    opened[:, O_READS] = 0
    return opened


@kernel
def note(
    opened: Ints, rows: Ints, used: int, track: int, item: int, state: int, now: int, reads: int
) -> int:
    """Say what a track shows from cycle ``now`` on.

    Args:
        opened: open spans [tracks, 4].
        rows: closed spans, columns as in ``Timeline.spans``.
        used: how many there are.
        track: which.
        item: item code.
        state: number of a state, or NOTHING.
        now: cycle.
        reads: read bursts issued so far (channels).

    Returns:
        ``used``, one more if a span was closed.
    """
    if opened[track, O_ITEM] == item and opened[track, O_STATE] == state:
        return used
    if opened[track, O_STATE] != NOTHING:
        rows[used, 0] = track
        rows[used, 1] = opened[track, O_START]
        rows[used, 2] = now
        rows[used, 3] = opened[track, O_ITEM]
        rows[used, 4] = opened[track, O_STATE]
        rows[used, 5] = reads - opened[track, O_READS]
        used += 1
        # A read may be issued in the cycle in which it arrives, before it is seen: what was issued
        # since the last span belongs to the next one.
        opened[track, O_READS] = reads
    opened[track, O_ITEM] = item
    opened[track, O_STATE] = state
    opened[track, O_START] = now
    return used


@kernel
def reads_of(dram: Channels, channel: int) -> int:
    """Read bursts that a channel has issued."""
    return int(dram[channel, COUNTERS + RD])


@kernel
def _watch(
    fetcher: Fetcher,
    dram: Channels,
    codes: Ints,
    opened: Ints,
    rows: Ints,
    used: int,
    track: int,
    now: int,
) -> int:
    """Note for each channel the item that its oldest outstanding read belongs to."""
    beats, fetch, ports = fetcher.beats, fetcher.fetch, fetcher.ports
    for d in range(len(ports)):
        item, state = NO_ITEM, NOTHING
        if dram[d, INFLIGHT] > 0 and ports[d, D_ORDER_HEAD] != ports[d, D_ORDER_TAIL]:
            k = ports[d, D_ORDER + ports[d, D_ORDER_HEAD] % ORDER_RING]
            beat = fetch[k, F_RETURNED]
            while beats[beat % RING, B_ADDRESS + k] == PADDING:
                beat += 1
            item, state = codes[beat % RING], 0
        used = note(opened, rows, used, track + d, item, state, now, reads_of(dram, d))
    return used


@kernel
def advance_watched(
    fetcher: Fetcher,
    dram: Channels,
    org: Organisation,
    shift: int,
    rate: int,
    limit: int,
    codes: Ints,
    opened: Ints,
    rows: Ints,
    track: int,
) -> tuple[int, int]:
    """Do what ``advance`` does, cycle by cycle, and note what the channels do.

    Args:
        fetcher, dram, org, shift, rate, limit: as for ``advance``; at most ``len(rows)`` divided
            by the channels cycles ahead.
        codes: item code of each fetch beat [RING].
        opened: open spans.
        rows: room for closed spans.
        track: track of channel 0.

    Returns:
        What ``advance`` returns, and how many spans were closed.
    """
    s = fetcher.scalars
    used, finished = 0, 0
    while s[CYCLE] < limit and finished == 0:
        now = s[CYCLE]
        # Channels without work have nothing to show.
        until = limit if s[JOINED] == s[TAIL] else now + 1
        used = _watch(fetcher, dram, codes, opened, rows, used, track, now)
        finished = advance(
            s, fetcher.beats, fetcher.fetch, fetcher.ports, dram, org, shift, rate, until
        )
    return finished, used


@kernel
def close_spans(opened: Ints, rows: Ints, first: int, dram: Channels, now: int) -> int:
    """Close what the tracks from ``first`` on still show; those are the channels."""
    used = 0
    for track in range(len(opened)):
        reads = reads_of(dram, track - first) if track >= first else 0
        used = note(opened, rows, used, track, NO_ITEM, NOTHING, now, reads)
    return used


def new_rows(count: int) -> Ints:
    """Return room for closed spans."""
    return np.empty((count, N_COLUMNS), np.int64)
