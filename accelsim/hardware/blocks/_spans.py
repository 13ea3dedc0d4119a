"""Recording inside compiled loops: one open span a track, closed when what it shows changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks._crossbar import RING, Records, oldest_read
from accelsim.hardware.memories.channel import RD, Channels
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
    return int(dram[channel].counters[RD])


@kernel
def note_channels(
    addresses: Ints,
    fetch: Records,
    drams: Records,
    state: Channels,
    codes: Ints,
    opened: Ints,
    rows: Ints,
    used: int,
    track: int,
    now: int,
) -> int:
    """Say for each channel whose its oldest outstanding read is.

    Args:
        addresses, fetch, drams, state: of the fetcher and its crossbar.
        codes: item code of each fetch beat [RING].
        opened, rows, used, now: as for ``note``.
        track: of channel 0.

    Returns:
        How many spans are closed.
    """
    for d in range(len(drams)):
        item, what = NO_ITEM, NOTHING
        if state[d].inflight > 0 and drams[d].order_head != drams[d].order_tail:
            _, beat = oldest_read(addresses, fetch, drams, d)
            item, what = codes[beat % RING], 0
        used = note(opened, rows, used, track + d, item, what, now, reads_of(state, d))
    return used


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
