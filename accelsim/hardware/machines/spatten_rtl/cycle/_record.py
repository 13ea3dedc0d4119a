"""A recorded run: after every cycle, what each block did is read off the registers.

The blocks know nothing of it: the clock is stopped after each cycle, and the registers before and
after say who moved and who waits for whom.
"""

from __future__ import annotations

import numpy as np
from numba import literal_unroll

from accelsim.errors import SimulationError
from accelsim.hardware.blocks._spans import (
    NOTHING,
    close_spans,
    new_rows,
    note,
    open_spans,
    reads_of,
)
from accelsim.hardware.machines.spatten_rtl.cycle._clock import run
from accelsim.hardware.machines.spatten_rtl.cycle._diagnosis import describe_stall
from accelsim.hardware.machines.spatten_rtl.cycle._state import (
    BEATS_IN_FLIGHT,
    CONTEXT_RING,
    DECISION,
    FETCH_TAKEN,
    ID_RING,
    LAST_TAKEN,
    READ_TAKEN,
    SHIFT,
    TOPK,
    WRITE_TAKEN,
    Ints,
    Machine,
    Records,
)
from accelsim.hardware.machines.spatten_rtl.cycle._state import SCORES as SCORE_QUEUE
from accelsim.hardware.machines.spatten_rtl.facts import HANDLES
from accelsim.hardware.timeline import (
    BUSY,
    END,
    NO_ITEM,
    SCORES,
    START,
    STATE,
    TRACK,
    VALUES,
    Recorder,
)
from accelsim.jit import kernel

MODULES = (
    "allocator",
    "key_fork",
    "fetcher",
    "qk_unit",
    "decision",
    "topk",
    "value_fork",
    "pv_unit",
)
ALLOCATOR, KEY_FORK, FETCHER, QK_UNIT, DECIDER, TOPK_ENGINE, VALUE_FORKER, PV_UNIT = range(8)
STATES = (
    BUSY,
    "start_up",
    "buffer_full",
    "key_fork_busy",
    "inflight_full",
    "no_request",
    "fetcher_busy",
    "awaiting_dot_product",
    "awaiting_dram",
    "awaiting_indexes",
    "awaiting_keys",
    "no_keys",
    "decision_full",
    "ordering_full",
    "row_incomplete",
    "no_scores",
    "value_side_busy",
    "one_value_matrix",
    "score_queue_full",
    "value_buffer_full",
    "no_probabilities",
    "awaiting_values",
)
(
    WORKS,
    START_UP,
    BUFFER_FULL,
    KEY_FORK_BUSY,
    INFLIGHT_FULL,
    NO_REQUEST,
    FETCHER_BUSY,
    AWAITING_DOT_PRODUCT,
    AWAITING_DRAM,
    AWAITING_INDEXES,
    AWAITING_KEYS,
    NO_KEYS,
    DECISION_FULL,
    ORDERING_FULL,
    ROW_INCOMPLETE,
    NO_SCORES,
    VALUE_SIDE_BUSY,
    ONE_VALUE_MATRIX,
    SCORE_QUEUE_FULL,
    VALUE_BUFFER_FULL,
    NO_PROBABILITIES,
    AWAITING_VALUES,
) = range(len(STATES))
_CHUNK_CYCLES = 2048
"""Cycles between two looks at the buffer of closed spans."""


@kernel
def _popped(s: Records, b: Records, queue: int) -> bool:
    return bool(s[0].queues[queue].head != b[0].queues[queue].head)


@kernel
def _pushed(s: Records, b: Records, queue: int) -> bool:
    return bool(s[0].queues[queue].tail != b[0].queues[queue].tail)


@kernel
def _key_code(item: int) -> int:
    """Code of ``2 * request + lsb_pass``."""
    return (item >> 1) << 2 | (item & 1)


@kernel
def _queued(s: Records, ring: Records, queue: int, position: int) -> int:
    """The entry of a queue at a position that it has, or has had until this cycle."""
    q = s[0].queues[queue]
    return int(ring[q.first + position % q.depth].value)


@kernel
def _allocator(s: Records, b: Records) -> tuple[int, int]:
    if s[0].source != b[0].source:
        return b[0].source << 2, WORKS
    waiting = b[0].allocated
    if waiting >= 0:
        if s[0].allocated < 0:
            return waiting << 2, WORKS
        return waiting << 2, KEY_FORK_BUSY if s[0].fork >= 0 else INFLIGHT_FULL
    if b[0].source == s[0].count:
        return NO_ITEM, NOTHING
    return b[0].source << 2, START_UP if b[0].now < HANDLES else BUFFER_FULL


@kernel
def _key_fork(s: Records, b: Records) -> tuple[int, int]:
    item = b[0].fork
    if item < 0:
        return NO_ITEM, NO_REQUEST
    if (
        s[0].fork != b[0].fork
        or s[0].fork_row != b[0].fork_row
        or s[0].fork_taken != b[0].fork_taken
    ):
        return _key_code(item), WORKS
    fetched = b[0].fork_taken & FETCH_TAKEN
    return _key_code(item), AWAITING_DOT_PRODUCT if fetched else FETCHER_BUSY


_FETCHER_MOVES = ("beats_pushed", "beats_joined", "pops_done", "context_head", "next_beat")


@kernel
def _fetcher(s: Records, b: Records) -> tuple[int, int]:
    head = b[0].context_head
    if head == s[0].context_tail:
        return NO_ITEM, NO_REQUEST
    item = s[0].contexts[head % CONTEXT_RING] >> SHIFT
    for register in literal_unroll(_FETCHER_MOVES):
        if s[0][register] != b[0][register]:
            return item, WORKS
    return item, AWAITING_DRAM if s[0].beats_pushed != s[0].beats_joined else AWAITING_INDEXES


@kernel
def _qk_unit(s: Records, b: Records) -> tuple[int, int]:
    item = NO_ITEM if b[0].fork < 0 else _key_code(b[0].fork)
    if s[0].dot_lines != b[0].dot_lines:
        return item, WORKS
    if s[0].dot_clock == b[0].dot_clock:
        return item, DECISION_FULL
    if b[0].fork >= 0 and not b[0].fork_taken & LAST_TAKEN:
        return item, AWAITING_KEYS
    return NO_ITEM, NO_KEYS


@kernel
def _decision(s: Records, b: Records, ring: Records) -> tuple[int, int]:
    head, tail = b[0].queues[DECISION].head, b[0].queues[DECISION].tail
    if _popped(s, b, DECISION):
        return _key_code(_queued(s, ring, DECISION, head) >> SHIFT), WORKS
    if _pushed(s, b, DECISION):
        return _key_code(_queued(s, ring, DECISION, tail) >> SHIFT), WORKS
    if b[0].decided >= 0:
        held = s[0].decided == b[0].decided
        return _key_code(b[0].decided >> SHIFT), ORDERING_FULL if held else WORKS
    if head != tail:
        return _key_code(_queued(s, ring, DECISION, head) >> SHIFT), ROW_INCOMPLETE
    return NO_ITEM, NO_SCORES


@kernel
def _topk(s: Records, b: Records, ring: Records, requests: Records) -> tuple[int, int]:
    head = b[0].queues[TOPK].head
    if head == b[0].queues[TOPK].tail:
        return NO_ITEM, NO_SCORES
    request = _queued(s, ring, TOPK, head) >> (SHIFT + 1)
    since = s[0].topk_since
    searching = since < 0 or b[0].now < since + requests[request].topk_wait
    works = searching or _popped(s, b, TOPK)
    return request << 2 | SCORES, WORKS if works else VALUE_SIDE_BUSY


@kernel
def _value_fork(s: Records, b: Records, requests: Records) -> tuple[int, int]:
    beat = b[0].value_fork
    if beat >= 0:
        item, taken = (beat >> (SHIFT + 1)) << 2 | VALUES, b[0].value_taken
        if s[0].value_fork != b[0].value_fork or s[0].value_taken != b[0].value_taken:
            return item, WORKS
        if not taken & WRITE_TAKEN or not taken & READ_TAKEN:
            return item, ONE_VALUE_MATRIX
        return item, FETCHER_BUSY if not taken & FETCH_TAKEN else SCORE_QUEUE_FULL
    beat = b[0].reload_2
    if (
        beat >= 0
        and s[0].reload_2 == b[0].reload_2
        and s[0].value_fork < 0
        and s[0].topk_inside == 0
    ):
        request = beat >> (SHIFT + 1)
        if requests[request].values >= requests[request].keys:
            return request << 2 | VALUES, VALUE_BUFFER_FULL
    return NO_ITEM, NO_PROBABILITIES


@kernel
def _pv_unit(s: Records, b: Records, ring: Records) -> tuple[int, int]:
    head = b[0].queues[SCORE_QUEUE].head
    if head == b[0].queues[SCORE_QUEUE].tail:
        return NO_ITEM, NO_PROBABILITIES
    item = (_queued(s, ring, SCORE_QUEUE, head) >> (SHIFT + 1)) << 2 | VALUES
    return item, WORKS if _popped(s, b, SCORE_QUEUE) else AWAITING_VALUES


@kernel
def _watch(m: Machine, b: Records, codes: Ints, opened: Ints, rows: Ints, used: int) -> int:
    """Note what every module did in the cycle ``b[0].now``, and what the channels owe."""
    s, ring, now = m.s, m.ring, b[0].now
    item, state = _allocator(s, b)
    used = note(opened, rows, used, ALLOCATOR, item, state, now, 0)
    item, state = _key_fork(s, b)
    used = note(opened, rows, used, KEY_FORK, item, state, now, 0)
    item, state = _fetcher(s, b)
    used = note(opened, rows, used, FETCHER, item, state, now, 0)
    item, state = _qk_unit(s, b)
    used = note(opened, rows, used, QK_UNIT, item, state, now, 0)
    item, state = _decision(s, b, ring)
    used = note(opened, rows, used, DECIDER, item, state, now, 0)
    item, state = _topk(s, b, ring, m.requests)
    used = note(opened, rows, used, TOPK_ENGINE, item, state, now, 0)
    item, state = _value_fork(s, b, m.requests)
    used = note(opened, rows, used, VALUE_FORKER, item, state, now, 0)
    item, state = _pv_unit(s, b, ring)
    used = note(opened, rows, used, PV_UNIT, item, state, now, 0)
    for d in range(s[0].channels):
        item, state = NO_ITEM, NOTHING
        if m.dram[d].inflight > 0 and m.port[d].id_head != m.port[d].id_tail:
            k = m.port[d].ids[m.port[d].id_head % ID_RING]
            item, state = codes[m.fetch[k].arrived % BEATS_IN_FLIGHT], WORKS
        reads = reads_of(m.dram, d)
        used = note(opened, rows, used, len(MODULES) + d, item, state, now, reads)
    return used


@kernel
def _run_watched(
    m: Machine, until: int, b: Records, codes: Ints, opened: Ints, rows: Ints
) -> tuple[bool, int]:
    """Run to the last response or to ``until``, watching; true at the last response."""
    s, used = m.s, 0
    while s[0].responses < s[0].count and s[0].now < until:
        b[0] = s[0]
        run(
            s, m.requests, m.ring, m.fetch, m.port, m.beats, m.addresses, m.indexes,
            m.dram, m.banks, m.org, s[0].now + 1, _CHUNK_CYCLES,
        )  # fmt: skip
        if s[0].beats_pushed != b[0].beats_pushed:
            codes[b[0].beats_pushed % BEATS_IN_FLIGHT] = b[0].split >> SHIFT
        used = _watch(m, b, codes, opened, rows, used)
    return bool(s[0].responses == s[0].count), used


def run_recorded(machine: Machine, watchdog_cycles: int, recorder: Recorder) -> None:
    """Run to the last response and record every cycle.

    Raises:
        SimulationError: no response for ``watchdog_cycles``.
    """
    channels = int(machine.s[0]["channels"])
    tracks = [recorder.module(name) for name in MODULES]
    tracks += [recorder.channel(d) for d in range(channels)]
    states = np.array([recorder.state(name) for name in STATES])
    before = np.zeros_like(machine.s)
    codes = np.full(BEATS_IN_FLIGHT, NO_ITEM, np.int64)
    opened = open_spans(len(tracks))
    rows = new_rows(len(tracks) * (_CHUNK_CYCLES + 1))
    blocks, finished, seen, since = [], False, -1, 0
    while not finished:
        now = int(machine.s[0]["now"])
        finished, used = _run_watched(machine, now + _CHUNK_CYCLES, before, codes, opened, rows)
        blocks.append(rows[:used].copy())
        if machine.s[0]["responses"] != seen:
            seen, since = int(machine.s[0]["responses"]), now
        elif now - since > watchdog_cycles:
            raise SimulationError(describe_stall(machine, watchdog_cycles))
    used = close_spans(opened, rows, len(MODULES), machine.dram, int(machine.s[0]["now"]))
    spans = np.concatenate([*blocks, rows[:used]])
    spans = spans[~_after_the_last_work(spans)]
    spans[:, TRACK] = np.array(tracks)[spans[:, TRACK]]
    spans[:, STATE] = states[spans[:, STATE]]
    recorder.add_rows(spans)


def _after_the_last_work(spans: Ints) -> np.ndarray:
    """Find the stalls of modules that had nothing left to do: they were idle."""
    last = np.zeros(int(spans[:, TRACK].max()) + 1, np.int64)
    busy = spans[spans[:, STATE] == WORKS]
    np.maximum.at(last, busy[:, TRACK], busy[:, END])
    return np.asarray((spans[:, STATE] != WORKS) & (spans[:, START] >= last[spans[:, TRACK]]))
