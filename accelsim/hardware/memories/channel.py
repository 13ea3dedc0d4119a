"""One command-level DRAM channel, as compiled functions over a record a channel.

Contract. All channels of a machine live in two arrays, records and the state of their banks;
``channel`` selects one. In every clock edge the owner does, in this order,

1. at most one :func:`channel_push` (after :func:`channel_can_push`), at the present tick count;
2. at most one :func:`channel_pop`;
3. exactly one :func:`channel_tick`. While ``next_event`` lies after the coming tick, a call would
   only count: the owner may add to ``tick`` instead, once for any number of ticks.

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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories.timing import (
    COMMANDS,
    FLAT,
    FLAT_UNIT,
    MAX_ENTRIES,
    MAX_WINDOW,
    SINGLE_BUS,
    Organisation,
)
from accelsim.jit import in_place, inlined

ACT, PRE, RD, WR, PREA, REFAB = range(len(COMMANDS))
N_COMMANDS = len(COMMANDS)
ENTRIES = MAX_ENTRIES
"""Slots of the request queues."""
BLOCK = 8
"""Entries of a list of requests that are moved at once; there are as many behind its end."""
NEVER = np.int64(1) << 60
Place = np.uint64
"""An index. Numba looks whether a signed one is negative, which would count from the end; that took
some 5 % of the DRAM kernel."""

HITS, MISSES, CONFLICTS = N_COMMANDS, N_COMMANDS + 1, N_COMMANDS + 2
N_COUNTERS = N_COMMANDS + 3

_SCALARS = (
    "tick",  # the present one
    "next_event",  # tick before which nothing happens, if nothing is pushed
    "next_try",  # tick before which no command can go
    "queued",  # entries of ``queue``
    "active",  # entries of ``opened``
    "pending_head",  # reads whose data have come
    "pending_tail",  # reads that were issued
    "done_head",  # reads handed back
    "done_tail",  # reads ready to be handed back
    "inflight",  # requests accepted and not handed back
    "refresh_due",  # tick of the next refresh
    "refresh_mask",  # pseudo-channels whose refresh is due, a bit each
    "latency_sum",  # ticks from acceptance to data, all reads
    "flat_free",  # flat memory: when it is free, in FLAT_UNIT of a tick
    "free_slots",  # entries of ``free``
    "log_next",  # column of ``banks`` for the next entry of the log
    "act_2_due",  # last tick for the second half of an ACT, or NEVER
    "opened_wake",  # tick before which no request of ``opened`` can go
    "column_wake",  # before which no column command of ``queue`` can
    "row_wake",  # before which no row command can, but those of ``withheld``
    "withheld",  # banks whose precharge waits for requests of ``opened``, a bit each (modulo 64)
)
CHANNEL = np.dtype(
    [(name, np.int64) for name in _SCALARS]
    + [
        ("counters", np.int64, N_COUNTERS),  # commands by code, then hits, misses, conflicts
        ("queue", np.int64, ENTRIES + BLOCK),  # requests, oldest first
        ("opened", np.int64, ENTRIES + BLOCK),  # requests whose row was opened for them, by ACT
        ("free", np.int64, ENTRIES),  # free slots
        ("arrive", np.int64, ENTRIES),  # of a slot: tick of acceptance
        ("ident", np.int64, ENTRIES),  # of a slot: what the owner calls it
        ("wake", np.int64, ENTRIES),  # of a slot: earliest tick of its next command
        ("pending_slot", np.int64, ENTRIES),  # ring of issued reads: slot
        ("pending_depart", np.int64, ENTRIES),  # and tick of the data
        ("done", np.int64, ENTRIES),  # ring of completed reads: identifier
    ]
)
"""One channel. A request in ``queue`` and ``opened`` is packed, as both are shifted and searched:
``row << 32 | bank << 16 | next << 12 | command << 9 | seen << 8 | slot``, where ``next`` is the
command that it needs next while it is in ``queue``: its own, or ACT or PRE of its bank."""

Channels = NDArray[np.void]
"""Records of all channels, one :data:`CHANNEL` each."""
Banks = NDArray[np.int64]
"""What the organisation sizes, [channels, columns]: the open row of each bank (-1: closed); from
column ``first_tick`` the earliest tick of each command at each node; from ``first_history`` the
ticks of the last commands where a timing row has a window; from ``first_opened`` for each bank
whether a request of ``opened`` waits for it, from ``first_waiting`` how many of ``queue`` do; from
``columns`` the log of accepted requests (``address << 1 | write``), as long as
:func:`record_requests` makes it, usually empty."""
Row = NDArray[np.int64]
"""Of :data:`Banks`. The functions behind the public ones take one channel: its record ``c``, its
row of ``banks``, and the record of its organisation, so that a call passes little."""

_NEXT_SHIFT = 12
_COMMAND_MASK = 7
_NEXT = _COMMAND_MASK << _NEXT_SHIFT
_SEEN = 1 << 8
_SLOT_MASK = _SEEN - 1


T = TypeVar("T")


class _Recording:
    """The channels built while requests are recorded, and the length of their logs."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.channels: list[tuple[Channels, Banks]] = []

    def counts(self) -> int:
        """Most reads and writes of any channel."""
        return max(
            (int(state["counters"][:, [RD, WR]].sum(axis=1).max()) for state, _ in self.channels),
            default=0,
        )

    def logs(self) -> list[NDArray[np.int64]]:
        """The log of each channel."""
        return [
            row[len(row) - self.length : end]
            for state, banks in self.channels
            for row, end in zip(banks, state["log_next"], strict=True)
        ]


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


def new_channels(channels: int, org: Organisation) -> tuple[Channels, Banks]:
    """Return ``channels`` idle channels with all banks closed."""
    columns = int(org[0]["columns"])
    recording = _recording.get()
    state = np.zeros(channels, CHANNEL)
    banks = np.zeros((channels, columns + (recording.length if recording else 0)), np.int64)
    if recording:
        recording.channels.append((state, banks))
    state["log_next"] = columns
    for name in ("next_try", "act_2_due", "opened_wake", "column_wake", "row_wake"):
        state[name] = NEVER
    state["refresh_due"] = int(org[0]["refresh_interval"]) or NEVER
    state["next_event"] = state["refresh_due"]
    state["free"] = np.arange(ENTRIES)
    state["free_slots"] = ENTRIES
    banks[:, : int(org[0]["first_tick"])] = -1
    banks[:, int(org[0]["first_history"]) : int(org[0]["first_opened"])] = -1
    return state, banks


def is_recording(state: Channels, banks: Banks) -> bool:
    """Whether the channels keep a log of their requests."""
    return bool(state[0]["log_next"] < banks.shape[1])


def counters(state: Channels) -> NDArray[np.int64]:
    """Commands by code, then hits, misses and conflicts; summed over the channels."""
    return np.asarray(state["counters"].sum(axis=0), np.int64)


@inlined
def channel_can_push(state: Channels, org: Organisation, channel: int) -> bool:
    """Whether the channel would accept a request in this clock edge."""
    return bool(
        state[channel].inflight < org[0].inflight_limit
        and state[channel].queued < org[0].queue_entries
    )


@inlined
def channel_push(
    state: Channels,
    banks: Banks,
    org: Organisation,
    channel: int,
    address: int,
    ident: int,
    write: bool,
) -> None:
    """Accept a request for the channel-local byte ``address``.

    Address bits upwards: lower column, pseudo-channel, bank group, upper column, bank, row; the
    upper column is empty unless bank groups are interleaved below a row. Bank numbers in the state
    are pseudo-channel major, then bank group, then bank.
    """
    _push(state[channel], banks[channel], org[0], address, ident, write)


@inlined
def _push(c: Any, banks: Row, org: Any, address: int, ident: int, write: bool) -> None:
    """Do what :func:`channel_push` does."""
    pseudo_shift, group_shift, bank_shift = org.pseudo_shift, org.group_shift, org.bank_shift
    rest = address >> org.interleave_shift
    bank = rest & ((1 << pseudo_shift) - 1)
    rest >>= pseudo_shift
    bank = (bank << group_shift) | (rest & ((1 << group_shift) - 1))
    rest >>= group_shift + org.column_shift - org.interleave_shift
    bank = (bank << bank_shift) | (rest & ((1 << bank_shift) - 1))
    row = (rest >> bank_shift) & org.row_mask
    final = WR if write else RD
    free = c.free_slots - 1
    slot = Place(c.free[Place(free)])
    c.free_slots = free
    c.arrive[slot] = c.tick
    c.ident[slot] = ident
    queued = c.queued
    entry = row << 32 | bank << 16 | final << 9 | np.int64(slot)
    command = _next_command(banks, bank, entry)
    c.queue[Place(queued)] = entry | command << _NEXT_SHIFT
    c.queued = queued + 1
    banks[Place(org.first_waiting + bank)] += 1
    c.inflight += 1
    log = c.log_next
    if log < len(banks):
        banks[log] = address << 1 | write
        c.log_next = log + 1
    # The others' earliest ticks have not changed, so only the new request can be ready sooner.
    tick = np.int64(0)
    if org.scheduler != FLAT:
        tick = np.int64(_wake(c, banks, org, int(slot), command, bank))
    if tick < c.next_try:
        c.next_try = tick
        c.next_event = min(c.next_event, tick)


@inlined
def channel_pop(state: Channels, channel: int) -> int:
    """Take the oldest completed request out; its identifier, or -1 when there is none."""
    head = state[channel].done_head
    if head == state[channel].done_tail:
        return -1
    state[channel].done_head = head + 1
    state[channel].inflight -= 1
    return int(state[channel].done[head % ENTRIES])


@inlined
def channel_next_response(state: Channels, org: Organisation, channel: int) -> int:
    """Tick before which no further request completes, if none is pushed; ``NEVER`` if idle."""
    head = state[channel].pending_head
    if head != state[channel].pending_tail:
        return int(state[channel].pending_depart[head % ENTRIES])
    if state[channel].queued + state[channel].active == 0:
        return int(NEVER)
    return int(state[channel].next_event + org[0].read_latency - 1)


@inlined
def channel_tick(state: Channels, banks: Banks, org: Organisation, channel: int) -> None:
    """Advance the channel by one tick: hand over a finished read, issue at most one command."""
    _tick(state[channel], banks[channel], org[0])


@inlined
def _tick(c: Any, banks: Row, org: Any) -> None:
    """Do what :func:`channel_tick` does."""
    now = c.tick + 1
    c.tick = now
    if now < c.next_event:
        return
    head = c.pending_head
    if head != c.pending_tail:
        at = head % ENTRIES
        depart = c.pending_depart[at]
        if depart <= now:
            head += 1
            c.pending_head = head
            tail = c.done_tail
            slot = Place(c.pending_slot[at])
            c.done[tail % ENTRIES] = c.ident[slot]
            c.done_tail = tail + 1
            c.latency_sum += depart - c.arrive[slot]
            free = c.free_slots
            c.free[Place(free)] = slot
            c.free_slots = free + 1
    if now >= c.next_try or now >= c.refresh_due:
        if org.scheduler == SINGLE_BUS:
            _schedule(c, banks, org, now)
        else:
            _schedule_otherwise(c, banks, org, now)
    event = min(c.next_try, c.refresh_due)
    if head != c.pending_tail:
        event = min(event, c.pending_depart[head % ENTRIES])
    c.next_event = event


@inlined
def _earliest(banks: Row, org: Any, command: int, bank: int) -> int:
    """First tick in which ``command`` may go to ``bank``.

    Commands to all banks of a pseudo-channel are asked for at its first bank.
    """
    at = org.first_tick + command * org.nodes
    pseudo = org.banks + (bank >> org.pseudo_banks_shift)
    return int(max(banks[Place(at + bank)], banks[Place(at + pseudo)]))


@inlined
def _issue(
    c: Any,
    banks: Row,
    org: Any,
    bank: int,
    command: int,
    now: int,
) -> None:
    """Issue ``command`` at tick ``now``: push the earliest ticks of the commands it holds back."""
    of = Place(command)
    shifted = np.int64(-1)
    end = org.first_rule[Place(command + 1)]
    if now + org.before_refresh < c.refresh_due and not c.refresh_mask:
        # What holds a refresh back has passed when the next one comes.
        end = org.refresh_rule[of]
    plain = org.plain_rule[of]
    for i in range(org.first_rule[of], plain):
        rule = org.rules[Place(i)]
        past = org.first_history
        past += (rule.history + (bank >> rule.history_shift)) * MAX_WINDOW
        if shifted != past:
            # Rules are sorted by level, so each history moves once.
            shifted = past
            for older in range(past + MAX_WINDOW - 1, past, -1):
                banks[Place(older)] = banks[Place(older - 1)]
            banks[Place(past)] = now
        since = banks[Place(past + rule.window - 1)]
        if since >= 0:
            _hold_back(banks, org, rule, bank, since)
    for i in range(plain, end):
        _hold_back(banks, org, org.rules[Place(i)], bank, now)
    c.counters[of] += 1


@inlined
def _hold_back(banks: Row, org: Any, rule: Any, bank: int, since: int) -> None:
    """Apply a rule to a command that was issued at tick ``since``."""
    at = Place(org.first_tick + rule.node + (bank >> rule.node_shift & rule.same))
    banks[at] = max(banks[at], since + rule.ticks)


@inlined
def _remove(entries: NDArray[np.int64], place: int, count: int) -> None:
    """Close the gap at ``place`` in a list of ``count`` requests.

    Most lists are short: whole blocks take one round nearly always, and how many rounds there are
    is what a processor guesses wrong.
    """
    for first in range(place, count - 1, BLOCK):
        for i in range(first, first + BLOCK):
            entries[Place(i)] = entries[Place(i + 1)]


@inlined
def _refresh(c: Any, banks: Row, org: Any, now: int) -> bool:
    """Serve a due refresh; true when the tick is taken (or lost waiting for it)."""
    if now >= c.refresh_due:
        c.refresh_mask |= (1 << (1 << org.pseudo_shift)) - 1
        c.refresh_due += org.refresh_interval
    mask = c.refresh_mask
    if mask == 0:
        return False
    pseudo = 0
    while not (mask >> pseudo) & 1:
        pseudo += 1
    shift = org.pseudo_banks_shift
    first, last = pseudo << shift, (pseudo + 1) << shift
    command = REFAB
    for bank in range(first, last):
        if banks[bank] >= 0:
            command = PREA
    if now < _earliest(banks, org, command, first):
        return True
    if command == REFAB and org.half_clocks and not now & 1:
        return True
    if command == PREA:
        for i in range(c.active):
            if (c.opened[i] >> 16 & 0xFFFF) >> shift == pseudo:
                return True
        for bank in range(first, last):
            banks[bank] = -1
    else:
        c.refresh_mask = mask & ~(1 << pseudo)
    _issue(c, banks, org, first, command, now)
    if command == PREA:
        _rouse(c, banks, org, first, last)
    return True


@in_place
def _schedule_otherwise(c: Any, banks: Row, org: Any, now: int) -> None:
    """Schedule a channel of another kind than most."""
    if org.scheduler == FLAT:
        _serve_flat(c, banks, org, now)
    else:
        _schedule_passing_over(c, banks, org, now)


@inlined
def _serve_flat(c: Any, banks: Row, org: Any, now: int) -> None:
    """Flat memory: first come first served at ``bytes_per_tick``, ``flat_latency`` to the data."""
    queued = c.queued
    if queued == 0:
        c.next_try = NEVER
        return
    free = c.flat_free
    if free >= (now + 1) * FLAT_UNIT:
        c.next_try = free // FLAT_UNIT
        return
    c.flat_free = max(free, now * FLAT_UNIT) + org.flat_units
    entry = c.queue[0]
    c.counters[entry >> 9 & _COMMAND_MASK] += 1
    _depart(c, entry, now - 1 + org.read_latency)
    _take_out(c, banks, org, 0, entry >> 16 & 0xFFFF)
    c.next_try = now + 1


@inlined
def _depart(c: Any, entry: int, tick: int) -> None:
    """Let the data of a request arrive at ``tick``."""
    tail = c.pending_tail
    c.pending_slot[tail % ENTRIES] = entry & _SLOT_MASK
    c.pending_depart[tail % ENTRIES] = tick
    c.pending_tail = tail + 1


@inlined
def _schedule(c: Any, banks: Row, org: Any, now: int) -> None:
    """Issue the command of one request, or note when to try again.

    A request's tick in ``wake`` is the earliest for its next command as it was last computed. Time
    constraints only move later until the request's bank is opened or closed, so a request is not
    looked at before.
    """
    n_active, n_queued = c.active, c.queued
    wake = NEVER
    chosen, oldest = -1, NEVER
    for i in range(n_active):
        entry = c.opened[i]
        slot = entry & _SLOT_MASK
        tick = c.wake[slot]
        if tick <= now:
            tick = np.int64(_earliest(banks, org, entry >> 9 & _COMMAND_MASK, entry >> 16 & 0xFFFF))
            c.wake[slot] = tick
        if tick > now:
            wake = min(wake, tick)
        elif c.arrive[slot] < oldest:
            chosen, oldest = i, c.arrive[slot]
    c.next_try = now + 1
    if chosen >= 0:
        _finish_opened(c, banks, org, chosen, now)
        return
    if c.refresh_due != NEVER and _refresh(c, banks, org, now):
        return
    command, bank, entry = np.int64(RD), np.int64(0), np.int64(0)
    for i in range(n_queued):
        entry = c.queue[i]
        slot = entry & _SLOT_MASK
        tick = c.wake[slot]
        if tick <= now:
            bank = entry >> 16 & 0xFFFF
            command = entry >> _NEXT_SHIFT & _COMMAND_MASK
            tick = np.int64(_earliest(banks, org, int(command), int(bank)))
            c.wake[slot] = tick
            if tick <= now:
                chosen = i
                break
        wake = min(wake, tick)
    if chosen < 0:
        c.next_try = wake
        return
    if command in (ACT, PRE):
        _open_or_close(c, banks, org, chosen, int(command), now)
        return
    _finish_queued(c, banks, org, chosen, now)


@inlined
def _wake(c: Any, banks: Row, org: Any, slot: int, command: int, bank: int) -> int:
    """Note the first tick in which the next command of a queued request may go."""
    tick = np.int64(_earliest(banks, org, command, bank))
    c.wake[Place(slot)] = tick
    if command in (ACT, PRE):
        c.row_wake = min(c.row_wake, tick)
    else:
        c.column_wake = min(c.column_wake, tick)
    return int(tick)


@inlined
def _next_command(banks: Row, bank: int, entry: int) -> int:
    """What a request needs next: its own command, or ACT or PRE of its bank."""
    row = banks[Place(bank)]
    if row == entry >> 32:
        return int(entry >> 9 & _COMMAND_MASK)
    return ACT if row < 0 else PRE


@inlined
def _rouse(c: Any, banks: Row, org: Any, first: int, last: int) -> None:
    """Look again at the queued requests of banks ``first`` to ``last`` - 1: their rows changed."""
    for i in range(c.queued):
        if first <= c.queue[i] >> 16 & 0xFFFF < last:
            _look_again(c, banks, org, i)


@inlined
def _look_again(c: Any, banks: Row, org: Any, place: int) -> None:
    """Note what the request at ``place`` of the queue needs next, and from which tick on."""
    entry = c.queue[Place(place)]
    bank = entry >> 16 & 0xFFFF
    command = _next_command(banks, int(bank), int(entry))
    c.queue[Place(place)] = entry & ~_NEXT | command << _NEXT_SHIFT
    _wake(c, banks, org, entry & _SLOT_MASK, command, bank)


@inlined
def _open_or_close(
    c: Any,
    banks: Row,
    org: Any,
    place: int,
    command: int,
    now: int,
) -> None:
    """Issue ACT or PRE for the request at ``place`` of the queue; ACT moves it to the active."""
    entry = c.queue[Place(place)]
    bank = entry >> 16 & 0xFFFF
    n_active = c.active
    if command == PRE and banks[Place(org.first_opened + bank)]:
        return
    _issue(c, banks, org, bank, command, now)
    if not entry & _SEEN:
        entry |= _SEEN
        c.queue[Place(place)] = entry
        c.counters[MISSES if command == ACT else CONFLICTS] += 1
    if command == PRE:
        banks[bank] = -1
    else:
        banks[bank] = entry >> 32
        c.opened[Place(n_active)] = entry
        banks[Place(org.first_opened + bank)] = 1
        tick = np.int64(_earliest(banks, org, entry >> 9 & _COMMAND_MASK, bank))
        c.wake[entry & _SLOT_MASK] = tick
        c.opened_wake = min(c.opened_wake, tick)
        c.active = n_active + 1
        _take_out(c, banks, org, place, bank)
    # Most banks have one request at most.
    waiting = banks[Place(org.first_waiting + bank)]
    if command == PRE and waiting == 1:
        _look_again(c, banks, org, place)
    elif waiting:
        _rouse(c, banks, org, bank, bank + 1)


@inlined
def _take_out(c: Any, banks: Row, org: Any, place: int, bank: int) -> None:
    """Take the request at ``place`` out of the queue."""
    n_queued = c.queued
    _remove(c.queue, place, n_queued)
    c.queued = n_queued - 1
    banks[Place(org.first_waiting + bank)] -= 1


@inlined
def _finish(c: Any, banks: Row, org: Any, entry: int, now: int) -> None:
    """Issue the last command of a request. Writes are posted: they complete with the command."""
    _issue(c, banks, org, entry >> 16 & 0xFFFF, entry >> 9 & _COMMAND_MASK, now)
    if not entry & _SEEN:
        c.counters[HITS] += 1
    _depart(c, entry, now + org.read_latency)


@inlined
def _schedule_passing_over(c: Any, banks: Row, org: Any, now: int) -> None:
    """Issue what may go on one or both command buses, or note when to try again.

    As :func:`_schedule`, but a precharge that has to be withheld is passed over instead of taking
    the tick. Where rows and columns have a bus each, a column command goes first. The second half
    of an ACT goes first of all in the tick in which it is due, before that when nothing else does.

    Requests are of three kinds: those of ``opened``, and those of the queue whose next command is
    one of a column or of a row. A kind is not looked at before its tick.
    """
    c.next_try = now + 1
    if c.act_2_due <= now:
        c.act_2_due = NEVER
        return
    issued = False
    if c.opened_wake <= now:
        issued = _serve_opened(c, banks, org, now)
        if issued and not org.two_buses:
            return
    if c.refresh_mask or now >= c.refresh_due:
        if c.act_2_due != NEVER:
            # Closing all banks waits for the bank that is being opened.
            c.act_2_due = NEVER
        else:
            _refresh(c, banks, org, now)
        return
    row = -1
    while c.row_wake <= now or (not issued and c.column_wake <= now):
        column, row = -1, -1
        if not issued and c.column_wake <= now:
            column = _first_column(c, banks, org, now)
        if c.row_wake <= now:
            row = _first_row(c, banks, org, now)
        if not org.two_buses and 0 <= row < column:
            # The older one has the bus.
            column = -1
        if column < 0:
            break
        _finish_queued(c, banks, org, column, now)
        issued = True
        row = row - int(row > column) if org.two_buses else -1
        if row < 0 or _is_ready(c, banks, org, row, now):
            break
        # The read holds back the precharge of its own bank.
        c.row_wake = now
    if row >= 0:
        _open_or_close_passing_over(c, banks, org, row, now)
        issued = True
    if c.act_2_due != NEVER:
        if not issued:
            c.act_2_due = NEVER
        return
    if c.row_wake <= now + 1:
        c.row_wake = _floor(banks, org, ACT, PRE, now + 1)
    c.next_try = max(now + 1, min(min(c.opened_wake, c.column_wake), c.row_wake))


@inlined
def _floor(banks: Row, org: Any, one: int, other: int, soon: int) -> int:
    """Tick before which neither of two commands can go to any bank; any, if that is not after
    ``soon``."""
    tick = NEVER
    node = org.first_tick + org.banks
    last = org.first_tick + org.nodes
    while node < last and tick > soon:
        tick = min(tick, banks[Place(node + one * org.nodes)])
        tick = min(tick, banks[Place(node + other * org.nodes)])
        node += 1
    return int(tick)


@inlined
def _serve_opened(c: Any, banks: Row, org: Any, now: int) -> bool:
    """Issue the command of the oldest request whose row was opened for it, if one may go."""
    n_active = c.active
    wake = NEVER
    chosen, oldest, ready = -1, NEVER, 0
    for i in range(n_active):
        entry = c.opened[i]
        slot = entry & _SLOT_MASK
        tick = c.wake[slot]
        if tick <= now:
            tick = _earliest_edge(banks, org, entry >> 9 & _COMMAND_MASK, entry >> 16 & 0xFFFF, now)
            c.wake[slot] = tick
        if tick > now:
            wake = min(wake, tick)
            continue
        ready += 1
        if c.arrive[slot] < oldest:
            chosen, oldest = i, c.arrive[slot]
    if chosen >= 0:
        bank = c.opened[Place(chosen)] >> 16 & 0xFFFF
        _finish_opened(c, banks, org, chosen, now)
        if c.withheld >> (bank & 63) & 1:
            c.withheld &= ~(np.int64(1) << (bank & 63))
            c.row_wake = min(c.row_wake, np.int64(_earliest(banks, org, PRE, bank)))
    c.opened_wake = wake if ready < 2 else now + 1
    return bool(chosen >= 0)


@inlined
def _first_column(c: Any, banks: Row, org: Any, now: int) -> int:
    """Place in the queue of the first request whose column command may go now, -1 if none may."""
    wake = NEVER
    for i in range(c.queued):
        entry = c.queue[i]
        command = entry >> _NEXT_SHIFT & _COMMAND_MASK
        if command <= PRE:  # or ACT
            continue
        slot = entry & _SLOT_MASK
        tick = c.wake[slot]
        if tick <= now:
            tick = _earliest_edge(banks, org, int(command), entry >> 16 & 0xFFFF, now)
            c.wake[slot] = tick
        if tick <= now:
            c.column_wake = now + 1
            return int(i)
        wake = min(wake, tick)
    c.column_wake = wake
    return -1


@inlined
def _first_row(c: Any, banks: Row, org: Any, now: int) -> int:
    """Place in the queue of the first request whose row command may go now, -1 if none may."""
    wake = NEVER
    for i in range(c.queued):
        entry = c.queue[i]
        command = entry >> _NEXT_SHIFT & _COMMAND_MASK
        if command > PRE:  # nor ACT
            continue
        bank, slot = entry >> 16 & 0xFFFF, entry & _SLOT_MASK
        tick = c.wake[slot]
        if tick <= now:
            tick = _earliest_edge(banks, org, int(command), bank, now)
            c.wake[slot] = tick
        if tick > now:
            wake = min(wake, tick)
        elif command == PRE and banks[Place(org.first_opened + bank)]:
            c.withheld |= np.int64(1) << (bank & 63)
        elif command == ACT and c.act_2_due != NEVER:
            wake = np.int64(now + 1)
        else:
            c.row_wake = now + 1
            return int(i)
    c.row_wake = wake
    return -1


@inlined
def _is_ready(c: Any, banks: Row, org: Any, place: int, now: int) -> bool:
    """Whether the next command of the request at ``place`` of the queue may go now."""
    entry = c.queue[Place(place)]
    bank, command = entry >> 16 & 0xFFFF, entry >> _NEXT_SHIFT & _COMMAND_MASK
    return _earliest_edge(banks, org, int(command), int(bank), now) <= now


@inlined
def _open_or_close_passing_over(c: Any, banks: Row, org: Any, place: int, now: int) -> None:
    """Issue ACT or PRE for the request at ``place`` of the queue, as one of two halves or whole."""
    entry = c.queue[Place(place)]
    command = entry >> _NEXT_SHIFT & _COMMAND_MASK
    if command == ACT and org.split_act:
        c.act_2_due = now + org.split_act
    _open_or_close(c, banks, org, place, int(command), now)


@inlined
def _finish_queued(c: Any, banks: Row, org: Any, place: int, now: int) -> None:
    """Issue the last command of the request at ``place`` of the queue."""
    entry = c.queue[Place(place)]
    _finish(c, banks, org, entry, now)
    _take_out(c, banks, org, place, entry >> 16 & 0xFFFF)


@inlined
def _finish_opened(c: Any, banks: Row, org: Any, place: int, now: int) -> None:
    """Issue the last command of the request at ``place`` of those whose row was opened for them."""
    entry = c.opened[Place(place)]
    _finish(c, banks, org, entry, now)
    n_active = c.active
    _remove(c.opened, place, n_active)
    c.active = n_active - 1
    banks[Place(org.first_opened + (entry >> 16 & 0xFFFF))] = 0


@inlined
def _earliest_edge(
    banks: Row,
    org: Any,
    command: int,
    bank: int,
    now: int,
) -> int:
    """First tick in which ``command`` may go, of half clocks too; at most ``now`` if it is now."""
    tick = _earliest(banks, org, command, bank)
    if org.half_clocks and command != PRE:
        return int(max(tick, now)) | 1
    return tick
