"""States of channels that differ only in when and in which rows: compared, and moved.

Nothing in a channel depends on the number of a tick or of a row, only on differences. So what it
does from one state it does from every other that is equal after subtracting the present tick and
some row; and the state it comes to can be moved there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._channel import (
    _ACTIVE_LIST,
    _ARRIVE,
    _DONE,
    _IDENT,
    _OPEN_ROW,
    _PENDING_DEPART,
    _PENDING_SLOT,
    _QUEUE,
    _SLOT_MASK,
    _WAKE,
    ACT_2_DUE,
    ACTIVE,
    COUNTERS,
    DONE_HEAD,
    DONE_TAIL,
    ENTRIES,
    FLAT_FREE,
    INFLIGHT,
    LATENCY_SUM,
    N_COMMANDS,
    N_COUNTERS,
    NEVER,
    NEXT_EVENT,
    NEXT_TRY,
    PENDING_HEAD,
    PENDING_TAIL,
    QUEUED,
    REFRESH_DUE,
    REFRESH_MASK,
    TICK,
    Channels,
)
from accelsim.hardware.memories._timing import (
    FLAT_UNIT,
    H_BANK_SHIFT,
    H_BANKS,
    H_COLUMN_SHIFT,
    H_FIRST_RULE,
    H_GROUP_SHIFT,
    H_HALF_CLOCKS,
    H_HISTORIES,
    H_NODES,
    H_PSEUDO_SHIFT,
    H_ROW_MASK,
    MAX_WINDOW,
    RULE,
    Organisation,
)
from accelsim.jit import in_place, inlined

_ROW_SHIFT = 32
_ROW_BELOW = 0xFFFFFFFF
_NEITHER_ROW_NOR_SLOT = _ROW_BELOW - _SLOT_MASK


def row_bits(org: Organisation) -> int:
    """Address bits of a channel below the row number."""
    columns = (H_PSEUDO_SHIFT, H_GROUP_SHIFT, H_COLUMN_SHIFT, H_BANK_SHIFT)
    return int(sum(org[column] for column in columns))


def longest_rule(org: Organisation) -> int:
    """Ticks after which no command is held back by an earlier one."""
    rules = org[org[H_FIRST_RULE] :].reshape(-1, RULE)
    return int(rules[:, 3].max(initial=0))


@inlined
def _relative_entry(
    state: Channels, channel: int, entry: int, row: int, mask: int, out: NDArray[np.int64], at: int
) -> int:
    slot = entry & _SLOT_MASK
    out[at] = ((entry >> _ROW_SHIFT) - row & mask) << _ROW_SHIFT | entry & _NEITHER_ROW_NOR_SLOT
    out[at + 1] = state[channel, _ARRIVE + slot] - state[channel, TICK]
    out[at + 2] = state[channel, _IDENT + slot]
    return at + 3


@in_place
def relative_channels(
    state: Channels,
    org: Organisation,
    tick: int,
    row: int,
    longest: int,
    out: NDArray[np.int64],
) -> int:
    """Write what the channels' future depends on, relative to a tick and a row.

    Counters are not in it, nor what only saves work (when to look again).

    Args:
        state: channels.
        org: of one channel.
        tick: present tick, as the owner counts.
        row: base of the row numbers.
        longest: of :func:`longest_rule`.
        out: int64, as many as ``state`` has in all are enough.

    Returns:
        The numbers written.
    """
    mask, banks = org[H_ROW_MASK], org[H_BANKS]
    first_tick = _OPEN_ROW + banks
    first_history = first_tick + N_COMMANDS * org[H_NODES]
    end = first_history + org[H_HISTORIES] * MAX_WINDOW
    at = 0
    for d in range(len(state)):
        now = state[d, TICK]
        out[at] = now - tick
        out[at + 1] = state[d, QUEUED]
        out[at + 2] = state[d, ACTIVE]
        out[at + 3] = state[d, PENDING_TAIL] - state[d, PENDING_HEAD]
        out[at + 4] = state[d, DONE_TAIL] - state[d, DONE_HEAD]
        out[at + 5] = state[d, INFLIGHT]
        out[at + 6] = state[d, REFRESH_MASK]
        out[at + 7] = NEVER if state[d, REFRESH_DUE] == NEVER else state[d, REFRESH_DUE] - now
        out[at + 8] = max(state[d, FLAT_FREE] - now * FLAT_UNIT, 0)
        out[at + 9] = NEVER if state[d, ACT_2_DUE] == NEVER else state[d, ACT_2_DUE] - now
        out[at + 10] = now & org[H_HALF_CLOCKS]
        at += 11
        for i in range(state[d, QUEUED]):
            at = _relative_entry(state, d, state[d, _QUEUE + i], row, mask, out, at)
        for i in range(state[d, ACTIVE]):
            at = _relative_entry(state, d, state[d, _ACTIVE_LIST + i], row, mask, out, at)
        for i in range(state[d, PENDING_HEAD], state[d, PENDING_TAIL]):
            slot = state[d, _PENDING_SLOT + i % ENTRIES]
            out[at] = state[d, _PENDING_DEPART + i % ENTRIES] - now
            out[at + 1] = state[d, _ARRIVE + slot] - now
            out[at + 2] = state[d, _IDENT + slot]
            at += 3
        for i in range(state[d, DONE_HEAD], state[d, DONE_TAIL]):
            out[at] = state[d, _DONE + i % ENTRIES]
            at += 1
        for i in range(_OPEN_ROW, first_tick):
            out[at] = state[d, i] if state[d, i] < 0 else (state[d, i] - row & mask)
            at += 1
        for i in range(first_tick, first_history):
            out[at] = max(state[d, i] - now, 0)
            at += 1
        for i in range(first_history, end):
            out[at] = -longest if state[d, i] < 0 else max(state[d, i] - now, -longest)
            at += 1
    return at


@in_place
def move_channels(
    saved: Channels,
    counted: NDArray[np.int64],
    state: Channels,
    org: Organisation,
    ticks: int,
    rows: int,
) -> None:
    """Put the channels into a saved state, ``ticks`` later and ``rows`` rows further.

    Args:
        saved: a copy of the channels.
        counted: what :func:`counts` rose by until then [channels, N_COUNTS]; added to the present.
        state: overwritten.
        org: of one channel.
        ticks: from the saved state to the one put in its place.
        rows: as well.
    """
    mask, banks = org[H_ROW_MASK], org[H_BANKS]
    first_tick = _OPEN_ROW + banks
    first_history = first_tick + N_COMMANDS * org[H_NODES]
    end = first_history + org[H_HISTORIES] * MAX_WINDOW
    for d in range(len(state)):
        latency = state[d, LATENCY_SUM] + counted[d, N_COUNTERS]
        for i in range(COUNTERS):
            state[d, i] = saved[d, i]
        state[d, LATENCY_SUM] = latency
        for i in range(N_COUNTERS):
            state[d, COUNTERS + i] += counted[d, i]
        for i in range(COUNTERS + N_COUNTERS, end):
            state[d, i] = saved[d, i]
        state[d, TICK] += ticks
        state[d, FLAT_FREE] += ticks * FLAT_UNIT
        for i in (NEXT_EVENT, NEXT_TRY, REFRESH_DUE, ACT_2_DUE):
            state[d, i] += ticks if state[d, i] < NEVER else 0
        for first, count in ((_QUEUE, state[d, QUEUED]), (_ACTIVE_LIST, state[d, ACTIVE])):
            for i in range(first, first + count):
                row = (state[d, i] >> _ROW_SHIFT) + rows & mask
                state[d, i] = row << _ROW_SHIFT | state[d, i] & _ROW_BELOW
        for i in range(ENTRIES):
            state[d, _ARRIVE + i] += ticks
            state[d, _WAKE + i] += ticks
            state[d, _PENDING_DEPART + i] += ticks
        for i in range(_OPEN_ROW, first_tick):
            state[d, i] = state[d, i] if state[d, i] < 0 else (state[d, i] + rows & mask)
        for i in range(first_tick, first_history):
            state[d, i] += ticks
        for i in range(first_history, end):
            state[d, i] += ticks if state[d, i] >= 0 else 0


def counts(state: Channels) -> NDArray[np.int64]:
    """Counters of each channel, and its sum of latencies: int64 [channels, N_COUNTS]."""
    columns = [*range(COUNTERS, COUNTERS + N_COUNTERS), LATENCY_SUM]
    return np.asarray(state[:, columns])
