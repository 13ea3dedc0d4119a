"""States of channels that differ only in when and in which rows: compared, and moved.

A channel is invariant under a shift of tick and row, so a stored successor state can be shifted.
Every field of a channel is copied when it is moved, and compared unless it is named below.
"""

from __future__ import annotations

import numpy as np
from numba import literal_unroll
from numpy.typing import NDArray

from accelsim.hardware.memories.channel import (
    _SLOT_MASK,
    CHANNEL,
    ENTRIES,
    N_COUNTERS,
    NEVER,
    Banks,
    Channels,
)
from accelsim.hardware.memories.timing import FLAT_UNIT, Organisation
from accelsim.jit import in_place, inlined

DUE = ("refresh_due", "act_2_due")
"""Ticks to come, or NEVER: compared relative to the present one."""
RETRIED = ("next_event", "next_try", "opened_wake", "column_wake", "row_wake")
"""Ticks as well, which only say when to look again: not compared."""
IN_RINGS = ("pending_head", "pending_tail", "done_head", "done_tail")
"""Compared by how many entries lie between, as are the entries themselves."""
IN_ENTRIES = (
    "queue",
    "opened",
    "arrive",
    "ident",
    "pending_slot",
    "pending_depart",
    "done",
)
"""Compared entry by entry, for the requests in flight, whichever slot they have."""
BY_HAND = ("tick", "flat_free")
"""Compared in a way of their own."""
NOT_COMPARED = (
    "wake",  # saves work only
    "withheld",
    "free",  # slots are interchangeable
    "free_slots",
    "log_next",  # nothing is looked up while requests are recorded
)
COUNTED = ("latency_sum", "counters")
"""Neither compared nor copied: they go on from where they are."""
AS_THEY_ARE = tuple(
    name
    for name in CHANNEL.names or ()
    if name not in (*DUE, *RETRIED, *IN_RINGS, *IN_ENTRIES, *BY_HAND, *NOT_COMPARED, *COUNTED)
)
"""All other fields; numbers, which are compared as they are."""

_MOVED = DUE + RETRIED
_MOVED_SLOTS = ("arrive", "wake", "pending_depart")
_ROW_SHIFT = 32
_ROW_BELOW = 0xFFFFFFFF
_NEITHER_ROW_NOR_SLOT = _ROW_BELOW - _SLOT_MASK


def row_bits(org: Organisation) -> int:
    """Address bits of a channel below the row number."""
    fields = ("pseudo_shift", "group_shift", "column_shift", "bank_shift")
    return int(sum(org[0][field] for field in fields))


def longest_rule(org: Organisation) -> int:
    """Ticks after which no command is held back by an earlier one."""
    return int(org[0]["rules"]["ticks"].max())


def room_for(state: Channels, banks: Banks) -> int:
    """Most numbers that :func:`relative_channels` writes."""
    return len(state) * (CHANNEL.itemsize // 8 + 2 * ENTRIES) + banks.size


@inlined
def _relative_entry(
    state: Channels, channel: int, entry: int, row: int, mask: int, out: NDArray[np.int64], at: int
) -> int:
    slot = entry & _SLOT_MASK
    out[at] = ((entry >> _ROW_SHIFT) - row & mask) << _ROW_SHIFT | entry & _NEITHER_ROW_NOR_SLOT
    out[at + 1] = state[channel].arrive[slot] - state[channel].tick
    out[at + 2] = state[channel].ident[slot]
    return at + 3


@in_place
def relative_channels(
    state: Channels,
    banks: Banks,
    org: Organisation,
    tick: int,
    row: int,
    longest: int,
    out: NDArray[np.int64],
) -> int:
    """Write what the channels' future depends on, relative to a tick and a row.

    Args:
        state, banks: channels.
        org: of one channel.
        tick: present tick, as the owner counts.
        row: base of the row numbers.
        longest: of :func:`longest_rule`.
        out: int64, as many as :func:`room_for` says.

    Returns:
        The numbers written.
    """
    mask = org[0].row_mask
    at = 0
    for d in range(len(state)):
        now = state[d].tick
        out[at] = now - tick
        out[at + 1] = now & org[0].half_clocks
        out[at + 2] = max(state[d].flat_free - now * FLAT_UNIT, 0)
        out[at + 3] = state[d].pending_tail - state[d].pending_head
        out[at + 4] = state[d].done_tail - state[d].done_head
        at += 5
        for name in literal_unroll(AS_THEY_ARE):
            out[at] = state[d][name]
            at += 1
        for name in literal_unroll(DUE):
            out[at] = NEVER if state[d][name] == NEVER else state[d][name] - now
            at += 1
        for i in range(state[d].queued):
            at = _relative_entry(state, d, state[d].queue[i], row, mask, out, at)
        for i in range(state[d].active):
            at = _relative_entry(state, d, state[d].opened[i], row, mask, out, at)
        for i in range(state[d].pending_head, state[d].pending_tail):
            slot = state[d].pending_slot[i % ENTRIES]
            out[at] = state[d].pending_depart[i % ENTRIES] - now
            out[at + 1] = state[d].arrive[slot] - now
            out[at + 2] = state[d].ident[slot]
            at += 3
        for i in range(state[d].done_head, state[d].done_tail):
            out[at] = state[d].done[i % ENTRIES]
            at += 1
        for i in range(org[0].first_tick):
            out[at] = banks[d, i] if banks[d, i] < 0 else (banks[d, i] - row & mask)
            at += 1
        for i in range(org[0].first_tick, org[0].first_history):
            out[at] = max(banks[d, i] - now, 0)
            at += 1
        # What waits for which bank follows from queue and opened.
        for i in range(org[0].first_history, org[0].first_opened):
            out[at] = -longest if banks[d, i] < 0 else max(banks[d, i] - now, -longest)
            at += 1
    return at


@in_place
def move_channels(
    saved: Channels,
    saved_banks: Banks,
    counted: NDArray[np.int64],
    state: Channels,
    banks: Banks,
    org: Organisation,
    ticks: int,
    rows: int,
) -> None:
    """Put the channels into a saved state, ``ticks`` later and ``rows`` rows further.

    Args:
        saved, saved_banks: a copy of the channels.
        counted: what :func:`counts` rose by until then; added to the present.
        state, banks: overwritten.
        org: of one channel.
        ticks: from the saved state to the one put in its place.
        rows: as well.
    """
    mask = org[0].row_mask
    for d in range(len(state)):
        # The counters of the copy are of no use but this.
        for i in range(N_COUNTERS):
            saved[d].counters[i] = state[d].counters[i] + counted[d, i]
        saved[d].latency_sum = state[d].latency_sum + counted[d, N_COUNTERS]
        state[d] = saved[d]
        state[d].tick += ticks
        state[d].flat_free += ticks * FLAT_UNIT
        for name in literal_unroll(_MOVED):
            state[d][name] += ticks if state[d][name] < NEVER else 0
        for i in range(state[d].queued):
            state[d].queue[i] = _further(state[d].queue[i], rows, mask)
        for i in range(state[d].active):
            state[d].opened[i] = _further(state[d].opened[i], rows, mask)
        for i in range(ENTRIES):
            for name in literal_unroll(_MOVED_SLOTS):
                state[d][name][i] += ticks
        for i in range(org[0].first_tick):
            row = saved_banks[d, i]
            banks[d, i] = row if row < 0 else (row + rows & mask)
        for i in range(org[0].first_tick, org[0].first_history):
            banks[d, i] = saved_banks[d, i] + ticks
        for i in range(org[0].first_history, org[0].first_opened):
            tick = saved_banks[d, i]
            banks[d, i] = tick + (ticks if tick >= 0 else 0)
        for i in range(org[0].first_opened, org[0].columns):
            banks[d, i] = saved_banks[d, i]


@inlined
def _further(entry: int, rows: int, mask: int) -> int:
    """A request ``rows`` further."""
    return ((entry >> _ROW_SHIFT) + rows & mask) << _ROW_SHIFT | entry & _ROW_BELOW


def counts(state: Channels) -> NDArray[np.int64]:
    """Counters of each channel, and its sum of latencies: int64 [channels, N_COUNTERS + 1]."""
    return np.column_stack([state["counters"], state["latency_sum"]])
