"""A recorded run: after every cycle, what each block did is read off the registers.

The blocks know nothing of it: the clock is stopped after each cycle, and the registers before and
after say who moved and who waits for whom.
"""

from __future__ import annotations

import numpy as np

from accelsim.errors import SimulationError
from accelsim.hardware.blocks._spans import (
    NOTHING,
    close_spans,
    new_rows,
    note,
    open_spans,
    reads_of,
)
from accelsim.hardware.spatten.cycle._clock import run
from accelsim.hardware.spatten.cycle._diagnosis import describe_stall
from accelsim.hardware.spatten.cycle._state import (
    ALLOCATED,
    ALLOCATORS,
    BEATS_IN_FLIGHT,
    BEATS_JOINED,
    BEATS_PUSHED,
    CONTEXT_HEAD,
    CONTEXT_RING,
    CONTEXT_TAIL,
    CONTEXTS,
    D_ID_HEAD,
    D_ID_TAIL,
    D_IDS,
    DECIDED,
    DECISION,
    DOT_CLOCK,
    DOT_LINES,
    F_ARRIVED,
    FETCH_TAKEN,
    FORK,
    FORK_ROW,
    FORK_TAKEN,
    ID_RING,
    LAST_TAKEN,
    MAX_HANDLES,
    NEXT_BEAT,
    NOW,
    P_CHANNELS,
    P_REQUESTS,
    POPS_DONE,
    Q_KEYS,
    Q_TOPK_WAIT,
    Q_VALUES,
    READ_TAKEN,
    RELOAD_2,
    RESPONSES,
    SHIFT,
    SOURCE,
    SPLIT,
    TOPK,
    TOPK_INSIDE,
    TOPK_SINCE,
    VALUE_FORK,
    VALUE_TAKEN,
    WRITE_TAKEN,
    Ints,
    Machine,
)
from accelsim.hardware.spatten.cycle._state import SCORES as SCORE_QUEUE
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
def _moved(s: Ints, b: Ints, register: int) -> bool:
    return bool(s[register] != b[register])


@kernel
def _key_code(item: int) -> int:
    """Code of ``2 * request + lsb_pass``."""
    return (item >> 1) << 2 | (item & 1)


@kernel
def _queued(s: Ints, ring: Ints, queue: int, position: int) -> int:
    """The entry of a queue at a position that it has, or has had until this cycle."""
    return int(ring[s[queue] + position % s[queue + 1], 0])


@kernel
def _allocator(s: Ints, b: Ints) -> tuple[int, int]:
    if _moved(s, b, SOURCE):
        return b[SOURCE] << 2, WORKS
    waiting = b[ALLOCATED]
    if waiting >= 0:
        if s[ALLOCATED] < 0:
            return waiting << 2, WORKS
        return waiting << 2, KEY_FORK_BUSY if s[FORK] >= 0 else INFLIGHT_FULL
    if b[SOURCE] == s[P_REQUESTS]:
        return NO_ITEM, NOTHING
    return b[SOURCE] << 2, START_UP if b[NOW] < MAX_HANDLES else BUFFER_FULL


@kernel
def _key_fork(s: Ints, b: Ints) -> tuple[int, int]:
    item = b[FORK]
    if item < 0:
        return NO_ITEM, NO_REQUEST
    if _moved(s, b, FORK) or _moved(s, b, FORK_ROW) or _moved(s, b, FORK_TAKEN):
        return _key_code(item), WORKS
    fetched = b[FORK_TAKEN] & FETCH_TAKEN
    return _key_code(item), AWAITING_DOT_PRODUCT if fetched else FETCHER_BUSY


@kernel
def _fetcher(s: Ints, b: Ints) -> tuple[int, int]:
    head = b[CONTEXT_HEAD]
    if head == s[CONTEXT_TAIL]:
        return NO_ITEM, NO_REQUEST
    item = s[CONTEXTS + head % CONTEXT_RING] >> SHIFT
    for register in (BEATS_PUSHED, BEATS_JOINED, POPS_DONE, CONTEXT_HEAD, NEXT_BEAT):
        if _moved(s, b, register):
            return item, WORKS
    return item, AWAITING_DRAM if s[BEATS_PUSHED] != s[BEATS_JOINED] else AWAITING_INDEXES


@kernel
def _qk_unit(s: Ints, b: Ints) -> tuple[int, int]:
    item = NO_ITEM if b[FORK] < 0 else _key_code(b[FORK])
    if _moved(s, b, DOT_LINES):
        return item, WORKS
    if not _moved(s, b, DOT_CLOCK):
        return item, DECISION_FULL
    if b[FORK] >= 0 and not b[FORK_TAKEN] & LAST_TAKEN:
        return item, AWAITING_KEYS
    return NO_ITEM, NO_KEYS


@kernel
def _decision(s: Ints, b: Ints, ring: Ints) -> tuple[int, int]:
    head, tail = b[DECISION + 2], b[DECISION + 3]
    if _moved(s, b, DECISION + 2):
        return _key_code(_queued(s, ring, DECISION, head) >> SHIFT), WORKS
    if _moved(s, b, DECISION + 3):
        return _key_code(_queued(s, ring, DECISION, tail) >> SHIFT), WORKS
    if b[DECIDED] >= 0:
        held = not _moved(s, b, DECIDED)
        return _key_code(b[DECIDED] >> SHIFT), ORDERING_FULL if held else WORKS
    if head != tail:
        return _key_code(_queued(s, ring, DECISION, head) >> SHIFT), ROW_INCOMPLETE
    return NO_ITEM, NO_SCORES


@kernel
def _topk(s: Ints, b: Ints, ring: Ints, requests: Ints) -> tuple[int, int]:
    head = b[TOPK + 2]
    if head == b[TOPK + 3]:
        return NO_ITEM, NO_SCORES
    request = _queued(s, ring, TOPK, head) >> (SHIFT + 1)
    since = s[TOPK_SINCE]
    searching = since < 0 or b[NOW] < since + requests[request, Q_TOPK_WAIT]
    works = searching or _moved(s, b, TOPK + 2)
    return request << 2 | SCORES, WORKS if works else VALUE_SIDE_BUSY


@kernel
def _value_fork(s: Ints, b: Ints, requests: Ints) -> tuple[int, int]:
    beat = b[VALUE_FORK]
    if beat >= 0:
        item, taken = (beat >> (SHIFT + 1)) << 2 | VALUES, b[VALUE_TAKEN]
        if _moved(s, b, VALUE_FORK) or _moved(s, b, VALUE_TAKEN):
            return item, WORKS
        if not taken & WRITE_TAKEN or not taken & READ_TAKEN:
            return item, ONE_VALUE_MATRIX
        return item, FETCHER_BUSY if not taken & FETCH_TAKEN else SCORE_QUEUE_FULL
    beat = b[RELOAD_2]
    if beat >= 0 and not _moved(s, b, RELOAD_2) and s[VALUE_FORK] < 0 and s[TOPK_INSIDE] == 0:
        request = beat >> (SHIFT + 1)
        if requests[request, Q_VALUES] >= requests[request, Q_KEYS]:
            return request << 2 | VALUES, VALUE_BUFFER_FULL
    return NO_ITEM, NO_PROBABILITIES


@kernel
def _pv_unit(s: Ints, b: Ints, ring: Ints) -> tuple[int, int]:
    head = b[SCORE_QUEUE + 2]
    if head == b[SCORE_QUEUE + 3]:
        return NO_ITEM, NO_PROBABILITIES
    item = (_queued(s, ring, SCORE_QUEUE, head) >> (SHIFT + 1)) << 2 | VALUES
    return item, WORKS if _moved(s, b, SCORE_QUEUE + 2) else AWAITING_VALUES


@kernel
def _watch(m: Machine, b: Ints, codes: Ints, opened: Ints, rows: Ints, used: int) -> int:
    """Note what every module did in the cycle ``b[NOW]``, and what the channels owe."""
    s, ring, now = m.s, m.ring, b[NOW]
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
    for d in range(s[P_CHANNELS]):
        item, state = NO_ITEM, NOTHING
        if m.dram[d].inflight > 0 and m.port[d, D_ID_HEAD] != m.port[d, D_ID_TAIL]:
            k = m.port[d, D_IDS + m.port[d, D_ID_HEAD] % ID_RING]
            item, state = codes[m.fetch[k, F_ARRIVED] % BEATS_IN_FLIGHT], WORKS
        reads = reads_of(m.dram, d)
        used = note(opened, rows, used, len(MODULES) + d, item, state, now, reads)
    return used


@kernel
def _run_watched(
    m: Machine, until: int, b: Ints, codes: Ints, opened: Ints, rows: Ints
) -> tuple[bool, int]:
    """Run to the last response or to ``until``, watching; true at the last response."""
    s, used = m.s, 0
    while s[RESPONSES] < s[P_REQUESTS] and s[NOW] < until:
        b[:] = s[: len(b)]
        run(
            s, m.requests, m.ring, m.fetch, m.port, m.beats, m.indexes, m.dram, m.banks, m.org,
            s[NOW] + 1, _CHUNK_CYCLES,
        )  # fmt: skip
        if s[BEATS_PUSHED] != b[BEATS_PUSHED]:
            codes[b[BEATS_PUSHED] % BEATS_IN_FLIGHT] = b[SPLIT] >> SHIFT
        used = _watch(m, b, codes, opened, rows, used)
    return bool(s[RESPONSES] == s[P_REQUESTS]), used


def run_recorded(machine: Machine, watchdog_cycles: int, recorder: Recorder) -> None:
    """Run to the last response and record every cycle.

    Raises:
        SimulationError: no response for ``watchdog_cycles``.
    """
    channels = int(machine.s[P_CHANNELS])
    tracks = [recorder.module(name) for name in MODULES]
    tracks += [recorder.channel(d) for d in range(channels)]
    states = np.array([recorder.state(name) for name in STATES])
    before = np.zeros(ALLOCATORS, np.int64)
    codes = np.full(BEATS_IN_FLIGHT, NO_ITEM, np.int64)
    opened = open_spans(len(tracks))
    rows = new_rows(len(tracks) * (_CHUNK_CYCLES + 1))
    blocks, finished, seen, since = [], False, -1, 0
    while not finished:
        now = int(machine.s[NOW])
        finished, used = _run_watched(machine, now + _CHUNK_CYCLES, before, codes, opened, rows)
        blocks.append(rows[:used].copy())
        if machine.s[RESPONSES] != seen:
            seen, since = int(machine.s[RESPONSES]), now
        elif now - since > watchdog_cycles:
            raise SimulationError(describe_stall(machine, watchdog_cycles))
    used = close_spans(opened, rows, len(MODULES), machine.dram, int(machine.s[NOW]))
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
