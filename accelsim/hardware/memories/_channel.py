"""One command-level DRAM channel, as compiled functions over flat arrays.

Contract. All channels of a machine live in one :class:`Channels`; ``channel`` selects one. In
every clock edge the owner does, in this order,

1. at most one :func:`channel_push` (after :func:`channel_can_push`), at the present tick count;
2. at most one :func:`channel_pop`;
3. exactly one :func:`channel_tick`.

A request is refused while ``inflight_limit`` requests are accepted and not yet popped, or while the
controller's queue is full. Reads complete ``read_latency`` ticks after their RD command and are
handed back one a tick in the order of completion.

Scheduling is FR-FCFS with open rows (specification section 5.4): requests that already opened a row
first, then the queue; in each, commands that are ready now first, then the oldest. A precharge that
would close the row of a request of the first class is withheld, and its tick is lost. One command
a tick and channel. A refresh (all banks of a pseudo-channel) goes before the queue.

``next_try`` holds the earliest tick at which any command can be ready, so that :func:`channel_tick`
costs one comparison in the ticks between.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._timing import (
    COMMANDS,
    FLAT_UNIT,
    MAX_ENTRIES,
    MAX_WINDOW,
    Organisation,
)

ACT, PRE, RD, WR, PREA, REFAB = range(len(COMMANDS))
N_COMMANDS = len(COMMANDS)
ENTRIES = MAX_ENTRIES
"""Slots of the request queues."""
NEVER = np.int64(1) << 60

# Columns of a queue entry.
BANK, ROW, ARRIVE, IDENT, FINAL, SEEN = range(6)
# Columns of ``scalars``.
(
    TICK,
    QUEUED,
    ACTIVE,
    PENDING_HEAD,
    PENDING_TAIL,
    DONE_HEAD,
    DONE_TAIL,
    INFLIGHT,
    NEXT_TRY,
    REFRESH_DUE,
    REFRESH_MASK,
    LATENCY_SUM,
    FLAT_FREE,
) = range(13)
N_SCALARS = 13
# Columns of ``counters``: commands by code, then these.
HITS, MISSES, CONFLICTS = N_COMMANDS, N_COMMANDS + 1, N_COMMANDS + 2
N_COUNTERS = N_COMMANDS + 3


class Channels(NamedTuple):
    """State of ``n`` channels; all arrays int64.

    Attributes:
        scalars: (n, N_SCALARS) tick count, queue lengths and pointers.
        queue, active: (n, ENTRIES, 6) requests waiting, and requests whose row was opened.
        open_row: (n, banks of a channel) open row, -1 when closed.
        ready: (n, nodes, commands) earliest tick of each command at each node of the hierarchy.
        history: (n, nodes, commands, MAX_WINDOW) ticks of the last commands, newest first.
        pending: (n, ENTRIES, 3) identifier, departure and arrival of issued reads.
        done: (n, ENTRIES) identifiers of completed reads not yet popped.
        counters: (n, N_COUNTERS) commands issued, row hits, misses and conflicts.
    """

    scalars: NDArray[np.int64]
    queue: NDArray[np.int64]
    active: NDArray[np.int64]
    open_row: NDArray[np.int64]
    ready: NDArray[np.int64]
    history: NDArray[np.int64]
    pending: NDArray[np.int64]
    done: NDArray[np.int64]
    counters: NDArray[np.int64]


def new_channels(channels: int, org: Organisation) -> Channels:
    """Return ``channels`` idle channels with all banks closed."""
    pseudo, groups, banks = (int(x) for x in org.shape[1:4])
    total = pseudo * groups * banks
    nodes = 1 + pseudo + pseudo * groups + total
    scalars = np.zeros((channels, N_SCALARS), np.int64)
    scalars[:, NEXT_TRY] = NEVER
    scalars[:, REFRESH_DUE] = org.shape[8] if org.shape[8] else NEVER
    return Channels(
        scalars,
        np.zeros((channels, ENTRIES, 6), np.int64),
        np.zeros((channels, ENTRIES, 6), np.int64),
        np.full((channels, total), -1, np.int64),
        np.zeros((channels, nodes, N_COMMANDS), np.int64),
        np.full((channels, nodes, N_COMMANDS, MAX_WINDOW), -1, np.int64),
        np.zeros((channels, ENTRIES, 3), np.int64),
        np.zeros((channels, ENTRIES), np.int64),
        np.zeros((channels, N_COUNTERS), np.int64),
    )


@numba.njit(cache=True, inline="always")
def channel_can_push(state: Channels, org: Organisation, channel: int) -> bool:
    """Whether the channel would accept a request in this clock edge."""
    scalars = state.scalars
    return bool(
        scalars[channel, INFLIGHT] < org.shape[6] and scalars[channel, QUEUED] < org.shape[7]
    )


@numba.njit(cache=True)
def channel_push(
    state: Channels, org: Organisation, channel: int, address: int, ident: int, write: bool
) -> None:
    """Accept a request for the channel-local byte ``address``.

    Address bits upwards: lower column, pseudo-channel, bank group, upper column, bank, row; the
    upper column is empty unless bank groups are interleaved below a row. Bank numbers in the state
    are pseudo-channel major, then bank group, then bank.
    """
    scalars = state.scalars
    shape = org.shape
    rest = address >> shape[11]
    pseudo = rest % shape[1]
    rest //= shape[1]
    group = rest % shape[2]
    rest = (rest // shape[2]) >> (shape[0] - shape[11])
    bank = rest % shape[3]
    row = (rest // shape[3]) % shape[4]
    slot = scalars[channel, QUEUED]
    entry = state.queue[channel, slot]
    entry[BANK] = (pseudo * shape[2] + group) * shape[3] + bank
    entry[ROW] = row
    entry[ARRIVE] = scalars[channel, TICK]
    entry[IDENT] = ident
    entry[FINAL] = WR if write else RD
    entry[SEEN] = 0
    scalars[channel, QUEUED] = slot + 1
    scalars[channel, INFLIGHT] += 1
    # The others' earliest ticks have not changed, so only the new request can be ready sooner.
    opened = state.open_row[channel, entry[BANK]]
    command = entry[FINAL] if opened == row else (ACT if opened < 0 else PRE)
    tick = _ready_tick(state, org, channel, entry[BANK], command)
    scalars[channel, NEXT_TRY] = min(scalars[channel, NEXT_TRY], tick)


@numba.njit(cache=True, inline="always")
def channel_pop(state: Channels, channel: int) -> int:
    """Take the oldest completed request out; its identifier, or -1 when there is none."""
    scalars = state.scalars
    head = scalars[channel, DONE_HEAD]
    if head == scalars[channel, DONE_TAIL]:
        return -1
    scalars[channel, DONE_HEAD] = head + 1
    scalars[channel, INFLIGHT] -= 1
    return int(state.done[channel, head % ENTRIES])


@numba.njit(cache=True, inline="always")
def _ready_tick(state: Channels, org: Organisation, channel: int, bank: int, command: int) -> int:
    """Earliest tick at which ``command`` may go to ``bank``."""
    ready, nodes = state.ready, org.nodes
    tick = max(ready[channel, 0, command], ready[channel, nodes[bank, 1], command])
    if command < PREA:
        group, own = nodes[bank, 2], nodes[bank, 3]
        tick = max(tick, ready[channel, group, command], ready[channel, own, command])
    return int(tick)


@numba.njit(cache=True)
def _issue(
    state: Channels, org: Organisation, channel: int, bank: int, command: int, now: int
) -> None:
    """Issue ``command`` at tick ``now``: push the earliest ticks of the commands it holds back."""
    levels = 2 if command >= PREA else 4
    ready = state.ready[channel]
    shifted = -1
    for r in range(org.first_rule[command], org.first_rule[command + 1]):
        level, before = org.rules[r, 0], org.rules[r, 1]
        if level >= levels:
            continue
        node = org.nodes[bank, level]
        since = now
        window = org.rules[r, 3]
        if window > 1:
            past = state.history[channel, node, command]
            if shifted != node:
                # Rules of one level are neighbours, so each history moves once.
                shifted = node
                for i in range(MAX_WINDOW - 1, 0, -1):
                    past[i] = past[i - 1]
                past[0] = now
            since = past[window - 1]
        if since >= 0:
            ready[node, before] = max(ready[node, before], since + org.rules[r, 2])
    state.counters[channel, command] += 1


@numba.njit(cache=True)
def _remove(entries: NDArray[np.int64], slot: int, count: int) -> None:
    for i in range(slot, count - 1):
        for c in range(6):
            entries[i, c] = entries[i + 1, c]


@numba.njit(cache=True)
def _refresh(state: Channels, org: Organisation, channel: int, now: int) -> bool:
    """Serve a due refresh; true when the tick is taken (or lost waiting for it)."""
    scalars = state.scalars
    if now >= scalars[channel, REFRESH_DUE]:
        scalars[channel, REFRESH_MASK] |= (1 << org.shape[1]) - 1
        scalars[channel, REFRESH_DUE] += org.shape[8]
    mask = scalars[channel, REFRESH_MASK]
    if mask == 0:
        return False
    pseudo = 0
    while not (mask >> pseudo) & 1:
        pseudo += 1
    per_pseudo = org.shape[2] * org.shape[3]
    first = pseudo * per_pseudo
    command = REFAB
    for bank in range(first, first + per_pseudo):
        if state.open_row[channel, bank] >= 0:
            command = PREA
    if now < _ready_tick(state, org, channel, first, command):
        return True
    if command == PREA:
        for i in range(scalars[channel, ACTIVE]):
            if state.active[channel, i, BANK] // per_pseudo == pseudo:
                return True
        for bank in range(first, first + per_pseudo):
            state.open_row[channel, bank] = -1
    else:
        scalars[channel, REFRESH_MASK] = mask & ~(1 << pseudo)
    _issue(state, org, channel, first, command, now)
    return True


@numba.njit(cache=True)
def channel_tick(state: Channels, org: Organisation, channel: int) -> None:
    """Advance the channel by one tick: hand over a finished read, issue at most one command."""
    scalars = state.scalars
    now = scalars[channel, TICK] + 1
    scalars[channel, TICK] = now
    head = scalars[channel, PENDING_HEAD]
    if head != scalars[channel, PENDING_TAIL]:
        done = state.pending[channel, head % ENTRIES]
        if done[1] <= now:
            scalars[channel, PENDING_HEAD] = head + 1
            tail = scalars[channel, DONE_TAIL]
            state.done[channel, tail % ENTRIES] = done[0]
            scalars[channel, DONE_TAIL] = tail + 1
            scalars[channel, LATENCY_SUM] += done[1] - done[2]
    if now < scalars[channel, NEXT_TRY] and now < scalars[channel, REFRESH_DUE]:
        return
    if org.shape[9]:
        _serve_flat(state, org, channel, now)
    else:
        _schedule(state, org, channel, now)


@numba.njit(cache=True)
def _serve_flat(state: Channels, org: Organisation, channel: int, now: int) -> None:
    """Flat memory: first come first served at ``bytes_per_tick``, ``flat_latency`` to the data."""
    scalars = state.scalars
    if scalars[channel, QUEUED] == 0:
        scalars[channel, NEXT_TRY] = NEVER
        return
    fraction = org.shape[10]
    free = scalars[channel, FLAT_FREE]
    if free >= (now + 1) * FLAT_UNIT:
        scalars[channel, NEXT_TRY] = free // FLAT_UNIT
        return
    scalars[channel, FLAT_FREE] = max(free, now * FLAT_UNIT) + fraction
    entry = state.queue[channel, 0]
    tail = scalars[channel, PENDING_TAIL]
    done = state.pending[channel, tail % ENTRIES]
    done[0] = entry[IDENT]
    done[1] = now - 1 + org.shape[5]
    done[2] = entry[ARRIVE]
    scalars[channel, PENDING_TAIL] = tail + 1
    state.counters[channel, entry[FINAL]] += 1
    _remove(state.queue[channel], 0, scalars[channel, QUEUED])
    scalars[channel, QUEUED] -= 1


@numba.njit(cache=True)
def _schedule(state: Channels, org: Organisation, channel: int, now: int) -> None:
    scalars = state.scalars
    active, queue = state.active[channel], state.queue[channel]
    n_active, n_queued = scalars[channel, ACTIVE], scalars[channel, QUEUED]
    wake = NEVER
    chosen, oldest = -1, NEVER
    for i in range(n_active):
        tick = _ready_tick(state, org, channel, active[i, BANK], active[i, FINAL])
        if tick <= now:
            if active[i, ARRIVE] < oldest:
                chosen, oldest = i, active[i, ARRIVE]
        else:
            wake = min(wake, tick)
    scalars[channel, NEXT_TRY] = now + 1
    if chosen >= 0:
        _finish(state, org, channel, active, chosen, now)
        _remove(active, chosen, n_active)
        scalars[channel, ACTIVE] = n_active - 1
        return
    if scalars[channel, REFRESH_DUE] != NEVER and _refresh(state, org, channel, now):
        return
    command = RD
    for i in range(n_queued):
        bank = queue[i, BANK]
        row = state.open_row[channel, bank]
        command = queue[i, FINAL] if row == queue[i, ROW] else (ACT if row < 0 else PRE)
        tick = _ready_tick(state, org, channel, bank, command)
        if tick <= now:
            chosen = i
            break
        wake = min(wake, tick)
    if chosen < 0:
        scalars[channel, NEXT_TRY] = wake
        return
    entry = queue[chosen]
    if command == PRE:
        for i in range(n_active):
            if active[i, BANK] == entry[BANK]:
                return
    if command in (ACT, PRE):
        _issue(state, org, channel, entry[BANK], command, now)
        if not entry[SEEN]:
            entry[SEEN] = 1
            state.counters[channel, MISSES if command == ACT else CONFLICTS] += 1
        if command == PRE:
            state.open_row[channel, entry[BANK]] = -1
            return
        state.open_row[channel, entry[BANK]] = entry[ROW]
        for c in range(6):
            active[n_active, c] = entry[c]
        scalars[channel, ACTIVE] = n_active + 1
    else:
        _finish(state, org, channel, queue, chosen, now)
    _remove(queue, chosen, n_queued)
    scalars[channel, QUEUED] = n_queued - 1


@numba.njit(cache=True)
def _finish(
    state: Channels,
    org: Organisation,
    channel: int,
    entries: NDArray[np.int64],
    slot: int,
    now: int,
) -> None:
    """Issue the last command of a request. Writes are posted: they complete with the command."""
    scalars = state.scalars
    entry = entries[slot]
    command = entry[FINAL]
    _issue(state, org, channel, entry[BANK], command, now)
    if not entry[SEEN]:
        state.counters[channel, HITS] += 1
    tail = scalars[channel, PENDING_TAIL]
    done = state.pending[channel, tail % ENTRIES]
    done[0] = entry[IDENT]
    done[1] = now + org.shape[5]
    done[2] = entry[ARRIVE]
    scalars[channel, PENDING_TAIL] = tail + 1
