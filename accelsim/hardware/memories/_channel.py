"""One command-level DRAM channel, as compiled functions over one flat array.

Contract. All channels of a machine live in one array, a row each; ``channel`` selects one. In every
clock edge the owner does, in this order,

1. at most one :func:`channel_push` (after :func:`channel_can_push`), at the present tick count;
2. at most one :func:`channel_pop`;
3. exactly one :func:`channel_tick`. While ``NEXT_EVENT`` lies after the coming tick, a call would
   only count: the owner may add to ``TICK`` instead, once for any number of ticks.

A request is refused while ``inflight_limit`` requests are accepted and not yet popped, or while the
controller's queue is full. Reads complete ``read_latency`` ticks after their RD command and are
handed back one a tick in the order of completion.

Scheduling is FR-FCFS with open rows (specification section 5.4): requests that already opened a row
first, then the queue; in each, commands that are ready now first, then the oldest. A precharge that
would close the row of a request of the first class is withheld. A refresh (all banks of a
pseudo-channel) goes before the queue. :func:`_schedule` issues one command a tick and channel, and
loses the tick of a withheld precharge, as SpAtten's release does; :func:`_schedule_passing_over`
is for devices with a bus each for rows and columns, or with an ACT in two commands.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._timing import (
    COMMANDS,
    FLAT,
    FLAT_UNIT,
    H_BANK_SHIFT,
    H_BANKS,
    H_BEFORE_REFRESH,
    H_COLUMN_SHIFT,
    H_FIRST_RULE,
    H_FLAT_UNITS,
    H_GROUP_SHIFT,
    H_HALF_CLOCKS,
    H_HISTORIES,
    H_INFLIGHT,
    H_INTERLEAVE_SHIFT,
    H_NODES,
    H_PSEUDO_BANKS_SHIFT,
    H_PSEUDO_SHIFT,
    H_QUEUE,
    H_READ_LATENCY,
    H_REFRESH_INTERVAL,
    H_REFRESH_RULE,
    H_ROW_MASK,
    H_SCHEDULER,
    H_SPLIT_ACT,
    H_TWO_BUSES,
    MAX_ENTRIES,
    MAX_WINDOW,
    RULE,
    SINGLE_BUS,
    Organisation,
)
from accelsim.jit import in_place, inlined

ACT, PRE, RD, WR, PREA, REFAB = range(len(COMMANDS))
N_COMMANDS = len(COMMANDS)
ENTRIES = MAX_ENTRIES
"""Slots of the request queues."""
NEVER = np.int64(1) << 60

Channels = NDArray[np.int64]
"""State of all channels, (channels, columns). A row holds the scalars below; counters; the queue
and the class of requests whose row was opened (both oldest first, packed as below); the free slots
and what a slot remembers; rings of issued and of completed reads; then, sized by the organisation,
the open row of each bank (-1: closed), the earliest tick of each command at each node, and the
ticks of the last commands where a timing row has a window; then the log of accepted requests
(``address << 1 | write``), as long as :func:`record_requests` makes it, usually empty.

A request is packed as ``row << 32 | bank << 16 | command << 9 | seen << 8 | slot``."""

# Scalars of a row.
(
    TICK,
    NEXT_EVENT,
    NEXT_TRY,
    QUEUED,
    ACTIVE,
    PENDING_HEAD,
    PENDING_TAIL,
    DONE_HEAD,
    DONE_TAIL,
    INFLIGHT,
    REFRESH_DUE,
    REFRESH_MASK,
    LATENCY_SUM,
    FLAT_FREE,
    FREE_SLOTS,
    LOG_NEXT,
    ACT_2_DUE,
) = range(17)
COUNTERS = 17
"""First counter: commands by code, then hits, misses and conflicts."""
HITS, MISSES, CONFLICTS = N_COMMANDS, N_COMMANDS + 1, N_COMMANDS + 2
N_COUNTERS = N_COMMANDS + 3
_QUEUE = COUNTERS + N_COUNTERS
_ACTIVE_LIST = _QUEUE + ENTRIES
_FREE = _ACTIVE_LIST + ENTRIES
_ARRIVE = _FREE + ENTRIES
_IDENT = _ARRIVE + ENTRIES
_WAKE = _IDENT + ENTRIES
_PENDING_SLOT = _WAKE + ENTRIES
_PENDING_DEPART = _PENDING_SLOT + ENTRIES
_DONE = _PENDING_DEPART + ENTRIES
_OPEN_ROW = _DONE + ENTRIES
_SEEN = 1 << 8
_SLOT_MASK = _SEEN - 1


T = TypeVar("T")


class _Recording:
    """The channels built while requests are recorded, and the length of their logs."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.channels: list[Channels] = []

    def counts(self) -> int:
        """Most reads and writes of any channel."""
        columns = [COUNTERS + RD, COUNTERS + WR]
        return max((int(s[:, columns].sum(axis=1).max()) for s in self.channels), default=0)

    def logs(self) -> list[NDArray[np.int64]]:
        """The log of each channel."""
        return [row[len(row) - self.length : row[LOG_NEXT]] for s in self.channels for row in s]


_recording: ContextVar[_Recording | None] = ContextVar("recording", default=None)


def record_requests(run: Callable[[], T]) -> tuple[T, list[NDArray[np.int64]]]:
    """Run a simulation, and also return what each of its channels was asked for.

    It runs twice: compiled code cannot lengthen a log, so the first run counts.

    Args:
        run: builds its channels and simulates; must do the same each time.

    Returns:
        What ``run`` returns, and for each channel the accepted requests in order: channel-local
        byte address << 1 | 1 for a write.
    """
    counting = _Recording(0)
    token = _recording.set(counting)
    try:
        run()
        recording = _Recording(counting.counts())
        _recording.set(recording)
        result = run()
    finally:
        _recording.reset(token)
    return result, recording.logs()


def new_channels(channels: int, org: Organisation) -> Channels:
    """Return ``channels`` idle channels with all banks closed."""
    banks = int(org[H_BANKS])
    history = int(org[H_HISTORIES]) * MAX_WINDOW
    first_history = _OPEN_ROW + banks + N_COMMANDS * int(org[H_NODES])
    width = first_history + history
    recording = _recording.get()
    state = np.zeros((channels, width + (recording.length if recording else 0)), np.int64)
    if recording:
        recording.channels.append(state)
    state[:, LOG_NEXT] = width
    state[:, NEXT_TRY] = state[:, ACT_2_DUE] = NEVER
    state[:, REFRESH_DUE] = int(org[H_REFRESH_INTERVAL]) or NEVER
    state[:, NEXT_EVENT] = state[:, REFRESH_DUE]
    state[:, _FREE : _FREE + ENTRIES] = np.arange(ENTRIES)
    state[:, FREE_SLOTS] = ENTRIES
    state[:, _OPEN_ROW : _OPEN_ROW + banks] = -1
    state[:, first_history:width] = -1
    return state


def is_recording(state: Channels) -> bool:
    """Whether the channels keep a log of their requests."""
    return bool(state[0, LOG_NEXT] < state.shape[1])


def counters(state: Channels) -> NDArray[np.int64]:
    """Commands by code, then hits, misses and conflicts; summed over the channels."""
    return np.asarray(state[:, COUNTERS : COUNTERS + N_COUNTERS].sum(axis=0), np.int64)


@inlined
def channel_can_push(state: Channels, org: Organisation, channel: int) -> bool:
    """Whether the channel would accept a request in this clock edge."""
    return bool(
        state[channel, INFLIGHT] < org[H_INFLIGHT] and state[channel, QUEUED] < org[H_QUEUE]
    )


@inlined
def channel_push(
    state: Channels, org: Organisation, channel: int, address: int, ident: int, write: bool
) -> None:
    """Accept a request for the channel-local byte ``address``.

    Address bits upwards: lower column, pseudo-channel, bank group, upper column, bank, row; the
    upper column is empty unless bank groups are interleaved below a row. Bank numbers in the state
    are pseudo-channel major, then bank group, then bank.
    """
    pseudo_shift, group_shift, bank_shift = (
        org[H_PSEUDO_SHIFT],
        org[H_GROUP_SHIFT],
        org[H_BANK_SHIFT],
    )
    rest = address >> org[H_INTERLEAVE_SHIFT]
    bank = rest & ((1 << pseudo_shift) - 1)
    rest >>= pseudo_shift
    bank = (bank << group_shift) | (rest & ((1 << group_shift) - 1))
    rest >>= group_shift + org[H_COLUMN_SHIFT] - org[H_INTERLEAVE_SHIFT]
    bank = (bank << bank_shift) | (rest & ((1 << bank_shift) - 1))
    row = (rest >> bank_shift) & org[H_ROW_MASK]
    final = WR if write else RD
    free = state[channel, FREE_SLOTS] - 1
    slot = state[channel, _FREE + free]
    state[channel, FREE_SLOTS] = free
    state[channel, _ARRIVE + slot] = state[channel, TICK]
    state[channel, _IDENT + slot] = ident
    queued = state[channel, QUEUED]
    state[channel, _QUEUE + queued] = row << 32 | bank << 16 | final << 9 | slot
    state[channel, QUEUED] = queued + 1
    state[channel, INFLIGHT] += 1
    log = state[channel, LOG_NEXT]
    if log < state.shape[1]:
        state[channel, log] = address << 1 | write
        state[channel, LOG_NEXT] = log + 1
    # The others' earliest ticks have not changed, so only the new request can be ready sooner.
    command = _next_command(state, channel, bank, state[channel, _QUEUE + queued])
    tick = 0 if org[H_SCHEDULER] == FLAT else _earliest(state, org, channel, command, bank)
    state[channel, _WAKE + slot] = tick
    if tick < state[channel, NEXT_TRY]:
        state[channel, NEXT_TRY] = tick
        state[channel, NEXT_EVENT] = min(state[channel, NEXT_EVENT], tick)


@inlined
def channel_pop(state: Channels, channel: int) -> int:
    """Take the oldest completed request out; its identifier, or -1 when there is none."""
    head = state[channel, DONE_HEAD]
    if head == state[channel, DONE_TAIL]:
        return -1
    state[channel, DONE_HEAD] = head + 1
    state[channel, INFLIGHT] -= 1
    return int(state[channel, _DONE + head % ENTRIES])


@inlined
def channel_next_response(state: Channels, org: Organisation, channel: int) -> int:
    """Tick before which no further request completes, if none is pushed; ``NEVER`` if idle."""
    head = state[channel, PENDING_HEAD]
    if head != state[channel, PENDING_TAIL]:
        return int(state[channel, _PENDING_DEPART + head % ENTRIES])
    if state[channel, QUEUED] + state[channel, ACTIVE] == 0:
        return int(NEVER)
    return int(state[channel, NEXT_EVENT] + org[H_READ_LATENCY] - 1)


@inlined
def channel_tick(state: Channels, org: Organisation, channel: int) -> None:
    """Advance the channel by one tick: hand over a finished read, issue at most one command."""
    now = state[channel, TICK] + 1
    state[channel, TICK] = now
    if now < state[channel, NEXT_EVENT]:
        return
    head = state[channel, PENDING_HEAD]
    if head != state[channel, PENDING_TAIL]:
        at = head % ENTRIES
        depart = state[channel, _PENDING_DEPART + at]
        if depart <= now:
            head += 1
            state[channel, PENDING_HEAD] = head
            tail = state[channel, DONE_TAIL]
            slot = state[channel, _PENDING_SLOT + at]
            state[channel, _DONE + tail % ENTRIES] = state[channel, _IDENT + slot]
            state[channel, DONE_TAIL] = tail + 1
            state[channel, LATENCY_SUM] += depart - state[channel, _ARRIVE + slot]
            free = state[channel, FREE_SLOTS]
            state[channel, _FREE + free] = slot
            state[channel, FREE_SLOTS] = free + 1
    if now >= state[channel, NEXT_TRY] or now >= state[channel, REFRESH_DUE]:
        if org[H_SCHEDULER] == SINGLE_BUS:
            _schedule(state, org, channel, now)
        else:
            _schedule_otherwise(state, org, channel, now)
    event = min(state[channel, NEXT_TRY], state[channel, REFRESH_DUE])
    if head != state[channel, PENDING_TAIL]:
        event = min(event, state[channel, _PENDING_DEPART + head % ENTRIES])
    state[channel, NEXT_EVENT] = event


@inlined
def _earliest(state: Channels, org: Organisation, channel: int, command: int, bank: int) -> int:
    """First tick in which ``command`` may go to ``bank``.

    Commands to all banks of a pseudo-channel are asked for at its first bank.
    """
    banks = org[H_BANKS]
    at = _OPEN_ROW + banks + command * org[H_NODES]
    pseudo = bank >> org[H_PSEUDO_BANKS_SHIFT]
    return int(max(state[channel, at + bank], state[channel, at + banks + pseudo]))


@inlined
def _issue(
    state: Channels, org: Organisation, channel: int, bank: int, command: int, now: int
) -> None:
    """Issue ``command`` at tick ``now``: push the earliest ticks of the commands it holds back."""
    earliest = _OPEN_ROW + org[H_BANKS]
    histories = earliest + N_COMMANDS * org[H_NODES]
    shifted = np.int64(-1)
    end = org[H_FIRST_RULE + command + 1]
    if (
        now + org[H_BEFORE_REFRESH] < state[channel, REFRESH_DUE]
        and not state[channel, REFRESH_MASK]
    ):
        # What holds a refresh back has passed when the next one comes.
        end = org[H_REFRESH_RULE + command]
    for rule in range(org[H_FIRST_RULE + command], end, RULE):
        since = now
        if org[rule + 4] > 1:
            past = histories + (org[rule + 5] + (bank >> org[rule + 6])) * MAX_WINDOW
            if shifted != past:
                # Rules are sorted by level, so each history moves once.
                shifted = past
                for i in range(past + MAX_WINDOW - 1, past, -1):
                    state[channel, i] = state[channel, i - 1]
                state[channel, past] = now
            since = state[channel, past + org[rule + 4] - 1]
            if since < 0:
                continue
        span = org[rule + 2]
        first = earliest + org[rule] + (bank >> org[rule + 1] & -span)
        for at in range(first, first + span):
            state[channel, at] = max(state[channel, at], since + org[rule + 3])
    state[channel, COUNTERS + command] += 1


@inlined
def _remove(state: Channels, channel: int, first: int, place: int, count: int) -> None:
    """Close the gap at ``place`` in the list of slots that starts at column ``first``."""
    for i in range(first + place, first + count - 1):
        state[channel, i] = state[channel, i + 1]


@inlined
def _refresh(state: Channels, org: Organisation, channel: int, now: int) -> bool:
    """Serve a due refresh; true when the tick is taken (or lost waiting for it)."""
    if now >= state[channel, REFRESH_DUE]:
        state[channel, REFRESH_MASK] |= (1 << (1 << org[H_PSEUDO_SHIFT])) - 1
        state[channel, REFRESH_DUE] += org[H_REFRESH_INTERVAL]
    mask = state[channel, REFRESH_MASK]
    if mask == 0:
        return False
    pseudo = 0
    while not (mask >> pseudo) & 1:
        pseudo += 1
    shift = org[H_PSEUDO_BANKS_SHIFT]
    first, last = pseudo << shift, (pseudo + 1) << shift
    command = REFAB
    for bank in range(first, last):
        if state[channel, _OPEN_ROW + bank] >= 0:
            command = PREA
    if now < _earliest(state, org, channel, command, first):
        return True
    if command == REFAB and org[H_HALF_CLOCKS] and not now & 1:
        return True
    if command == PREA:
        for i in range(state[channel, ACTIVE]):
            if (state[channel, _ACTIVE_LIST + i] >> 16 & 0xFFFF) >> shift == pseudo:
                return True
        for bank in range(first, last):
            state[channel, _OPEN_ROW + bank] = -1
        _rouse(state, channel, first, last)
    else:
        state[channel, REFRESH_MASK] = mask & ~(1 << pseudo)
    _issue(state, org, channel, first, command, now)
    return True


@in_place
def _schedule_otherwise(state: Channels, org: Organisation, channel: int, now: int) -> None:
    """Schedule a channel of another kind than most."""
    if org[H_SCHEDULER] == FLAT:
        _serve_flat(state, org, channel, now)
    else:
        _schedule_passing_over(state, org, channel, now)


@inlined
def _serve_flat(state: Channels, org: Organisation, channel: int, now: int) -> None:
    """Flat memory: first come first served at ``bytes_per_tick``, ``flat_latency`` to the data."""
    queued = state[channel, QUEUED]
    if queued == 0:
        state[channel, NEXT_TRY] = NEVER
        return
    free = state[channel, FLAT_FREE]
    if free >= (now + 1) * FLAT_UNIT:
        state[channel, NEXT_TRY] = free // FLAT_UNIT
        return
    state[channel, FLAT_FREE] = max(free, now * FLAT_UNIT) + org[H_FLAT_UNITS]
    entry = state[channel, _QUEUE]
    state[channel, COUNTERS + (entry >> 9 & 0x7F)] += 1
    _depart(state, channel, entry, now - 1 + org[H_READ_LATENCY])
    _remove(state, channel, _QUEUE, 0, queued)
    state[channel, QUEUED] = queued - 1
    state[channel, NEXT_TRY] = now + 1


@inlined
def _depart(state: Channels, channel: int, entry: int, tick: int) -> None:
    """Let the data of a request arrive at ``tick``."""
    tail = state[channel, PENDING_TAIL]
    state[channel, _PENDING_SLOT + tail % ENTRIES] = entry & _SLOT_MASK
    state[channel, _PENDING_DEPART + tail % ENTRIES] = tick
    state[channel, PENDING_TAIL] = tail + 1


@inlined
def _schedule(state: Channels, org: Organisation, channel: int, now: int) -> None:
    """Issue the command of one request, or note when to try again.

    A request's tick in ``_WAKE`` is the earliest for its next command as it was last computed. Time
    constraints only move later until the request's bank is opened or closed, so a request is not
    looked at before.
    """
    n_active, n_queued = state[channel, ACTIVE], state[channel, QUEUED]
    wake = NEVER
    chosen, oldest = -1, NEVER
    for i in range(n_active):
        entry = state[channel, _ACTIVE_LIST + i]
        slot = entry & _SLOT_MASK
        tick = state[channel, _WAKE + slot]
        if tick <= now:
            tick = np.int64(_earliest(state, org, channel, entry >> 9 & 0x7F, entry >> 16 & 0xFFFF))
            state[channel, _WAKE + slot] = tick
        if tick > now:
            wake = min(wake, tick)
        elif state[channel, _ARRIVE + slot] < oldest:
            chosen, oldest = i, state[channel, _ARRIVE + slot]
    state[channel, NEXT_TRY] = now + 1
    if chosen >= 0:
        _finish(state, org, channel, state[channel, _ACTIVE_LIST + chosen], now)
        _remove(state, channel, _ACTIVE_LIST, chosen, n_active)
        state[channel, ACTIVE] = n_active - 1
        return
    if state[channel, REFRESH_DUE] != NEVER and _refresh(state, org, channel, now):
        return
    command, bank, entry = np.int64(RD), np.int64(0), np.int64(0)
    for i in range(n_queued):
        entry = state[channel, _QUEUE + i]
        slot = entry & _SLOT_MASK
        tick = state[channel, _WAKE + slot]
        if tick <= now:
            bank = entry >> 16 & 0xFFFF
            command = np.int64(_next_command(state, channel, int(bank), int(entry)))
            tick = np.int64(_earliest(state, org, channel, int(command), int(bank)))
            state[channel, _WAKE + slot] = tick
            if tick <= now:
                chosen = i
                break
        wake = min(wake, tick)
    if chosen < 0:
        state[channel, NEXT_TRY] = wake
        return
    if command in (ACT, PRE):
        _open_or_close(state, org, channel, chosen, int(command), now)
        return
    _finish(state, org, channel, entry, now)
    _remove(state, channel, _QUEUE, chosen, n_queued)
    state[channel, QUEUED] = n_queued - 1


@inlined
def _next_command(state: Channels, channel: int, bank: int, entry: int) -> int:
    """What a request needs next: its own command, or ACT or PRE of its bank."""
    opened = state[channel, _OPEN_ROW + bank]
    if opened == entry >> 32:
        return int(entry >> 9 & 0x7F)
    return ACT if opened < 0 else PRE


@inlined
def _rouse(state: Channels, channel: int, first: int, last: int) -> None:
    """Look again at the queued requests of banks ``first`` to ``last`` - 1: their rows changed."""
    for i in range(state[channel, QUEUED]):
        entry = state[channel, _QUEUE + i]
        if first <= entry >> 16 & 0xFFFF < last:
            state[channel, _WAKE + (entry & _SLOT_MASK)] = 0


@inlined
def _open_or_close(
    state: Channels, org: Organisation, channel: int, place: int, command: int, now: int
) -> None:
    """Issue ACT or PRE for the request at ``place`` of the queue; ACT moves it to the active."""
    entry = state[channel, _QUEUE + place]
    bank = entry >> 16 & 0xFFFF
    n_active, n_queued = state[channel, ACTIVE], state[channel, QUEUED]
    if command == PRE and _row_in_use(state, channel, bank):
        return
    _issue(state, org, channel, bank, command, now)
    if not entry & _SEEN:
        entry |= _SEEN
        state[channel, _QUEUE + place] = entry
        state[channel, COUNTERS + (MISSES if command == ACT else CONFLICTS)] += 1
    if command == PRE:
        state[channel, _OPEN_ROW + bank] = -1
    else:
        state[channel, _OPEN_ROW + bank] = entry >> 32
        state[channel, _ACTIVE_LIST + n_active] = entry
        state[channel, _WAKE + (entry & _SLOT_MASK)] = 0
        state[channel, ACTIVE] = n_active + 1
        _remove(state, channel, _QUEUE, place, n_queued)
        state[channel, QUEUED] = n_queued - 1
    _rouse(state, channel, bank, bank + 1)


@inlined
def _finish(state: Channels, org: Organisation, channel: int, entry: int, now: int) -> None:
    """Issue the last command of a request. Writes are posted: they complete with the command."""
    _issue(state, org, channel, entry >> 16 & 0xFFFF, entry >> 9 & 0x7F, now)
    if not entry & _SEEN:
        state[channel, COUNTERS + HITS] += 1
    _depart(state, channel, entry, now + org[H_READ_LATENCY])


@in_place
def _schedule_passing_over(state: Channels, org: Organisation, channel: int, now: int) -> None:
    """Issue what may go on one or both command buses, or note when to try again.

    As :func:`_schedule`, but a precharge that has to be withheld is passed over instead of taking
    the tick. Where rows and columns have a bus each, a column command goes first. The second half
    of an ACT goes first of all in the tick in which it is due, before that when nothing else does.
    """
    state[channel, NEXT_TRY] = now + 1
    if state[channel, ACT_2_DUE] <= now:
        state[channel, ACT_2_DUE] = NEVER
        return
    n_active = state[channel, ACTIVE]
    wake = NEVER
    chosen, oldest = -1, NEVER
    for i in range(n_active):
        entry = state[channel, _ACTIVE_LIST + i]
        slot = entry & _SLOT_MASK
        tick = state[channel, _WAKE + slot]
        if tick <= now:
            tick = _earliest_edge(state, org, channel, entry >> 9 & 0x7F, entry >> 16 & 0xFFFF, now)
            state[channel, _WAKE + slot] = tick
        if tick > now:
            wake = min(wake, tick)
        elif state[channel, _ARRIVE + slot] < oldest:
            chosen, oldest = i, state[channel, _ARRIVE + slot]
    if chosen >= 0:
        _finish(state, org, channel, state[channel, _ACTIVE_LIST + chosen], now)
        _remove(state, channel, _ACTIVE_LIST, chosen, n_active)
        state[channel, ACTIVE] = n_active - 1
        if not org[H_TWO_BUSES]:
            return
    if state[channel, REFRESH_MASK] or now >= state[channel, REFRESH_DUE]:
        if state[channel, ACT_2_DUE] != NEVER:
            # Closing all banks waits for the bank that is being opened.
            state[channel, ACT_2_DUE] = NEVER
        else:
            _refresh(state, org, channel, now)
        return
    two = org[H_TWO_BUSES] != 0
    column, row, queue_wake = _first_ready(state, org, channel, chosen < 0, two, now)
    if column >= 0:
        _serve(state, org, channel, column, now)
        row -= int(row > column)
        if row >= 0 and not _is_ready(state, org, channel, row, now):
            # The read holds back the precharge of its own bank.
            _, row, _ = _first_ready(state, org, channel, False, two, now)
    if row >= 0:
        _serve(state, org, channel, row, now)
    elif chosen < 0 and column < 0:
        if state[channel, ACT_2_DUE] != NEVER:
            state[channel, ACT_2_DUE] = NEVER
        else:
            state[channel, NEXT_TRY] = min(int(wake), queue_wake)


@in_place
def _first_ready(
    state: Channels, org: Organisation, channel: int, columns: bool, two: bool, now: int
) -> tuple[int, int, int]:
    """Search the queue for the first requests whose next command may go now.

    Returns:
        The place of the first with a column command (-1 if none is or ``columns`` is false), of the
        first with a row command, and, if there is neither, the tick before which none is. With
        one bus (``two`` false) the search ends at the first of either kind.
    """
    column, row = -1, -1
    wake = NEVER
    for i in range(state[channel, QUEUED]):
        entry = state[channel, _QUEUE + i]
        slot = entry & _SLOT_MASK
        tick = state[channel, _WAKE + slot]
        if tick > now:
            wake = min(wake, tick)
            continue
        bank = entry >> 16 & 0xFFFF
        command = _next_command(state, channel, int(bank), int(entry))
        is_row = command in (ACT, PRE)
        if row >= 0 if is_row else (column >= 0 or not columns):
            continue
        tick = np.int64(_earliest_edge(state, org, channel, int(command), int(bank), now))
        state[channel, _WAKE + slot] = tick
        if tick > now:
            wake = min(wake, tick)
            continue
        if command == PRE and _row_in_use(state, channel, bank):
            continue
        if command == ACT and state[channel, ACT_2_DUE] != NEVER:
            continue
        if is_row:
            row = i
        else:
            column = i
        if not two or (row >= 0 and (column >= 0 or not columns)):
            break
    return column, row, int(wake)


@inlined
def _is_ready(state: Channels, org: Organisation, channel: int, place: int, now: int) -> bool:
    """Whether the next command of the request at ``place`` of the queue may go now."""
    entry = state[channel, _QUEUE + place]
    bank = entry >> 16 & 0xFFFF
    command = _next_command(state, channel, int(bank), int(entry))
    return _earliest_edge(state, org, channel, int(command), int(bank), now) <= now


@in_place
def _serve(state: Channels, org: Organisation, channel: int, place: int, now: int) -> None:
    """Issue the next command of the request at ``place`` of the queue."""
    entry = state[channel, _QUEUE + place]
    command = _next_command(state, channel, int(entry >> 16 & 0xFFFF), int(entry))
    if command in (ACT, PRE):
        if command == ACT and org[H_SPLIT_ACT]:
            state[channel, ACT_2_DUE] = now + org[H_SPLIT_ACT]
        _open_or_close(state, org, channel, place, command, now)
        return
    _finish(state, org, channel, entry, now)
    n_queued = state[channel, QUEUED]
    _remove(state, channel, _QUEUE, place, n_queued)
    state[channel, QUEUED] = n_queued - 1


@inlined
def _earliest_edge(
    state: Channels, org: Organisation, channel: int, command: int, bank: int, now: int
) -> int:
    """First tick in which ``command`` may go, of half clocks too; at most ``now`` if it is now."""
    tick = _earliest(state, org, channel, command, bank)
    if org[H_HALF_CLOCKS] and command != PRE:
        return int(max(tick, now)) | 1
    return tick


@inlined
def _row_in_use(state: Channels, channel: int, bank: int) -> bool:
    """Whether a request that opened the bank's row still waits for its own command."""
    for i in range(state[channel, ACTIVE]):
        if state[channel, _ACTIVE_LIST + i] >> 16 & 0xFFFF == bank:
            return True
    return False
