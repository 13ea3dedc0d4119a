"""Top-k of values: searches, and the filter behind them (page, section 6)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._state import (
    AFTER_FILTERS,
    BUSY_FILTER,
    BUSY_TOPK,
    FILTER_FREE,
    FILTER_NEXT,
    J_BEATS,
    J_BUFFER,
    J_FILTER,
    J_LAST,
    J_PIECE,
    J_SEARCH,
    J_SEARCHED,
    LAST_FILTER,
    NEVER,
    NOW,
    P_DUE,
    P_FILTER_END,
    P_FILTER_LEFT,
    P_GRADUAL,
    P_LATE,
    P_MODE,
    P_SLOTS,
    P_TWO,
    PROGRESS,
    SEARCH_FREE,
    SEARCH_NEXT,
    TOPK_TAIL,
    WITH_FILTER,
    Ints,
)
from accelsim.hardware.machines.spatten.cycle._values import begin_values, take_slot, unit_is_free
from accelsim.jit import inlined


@inlined
def step_search(s: Ints, jobs: Ints, topk: Ints) -> None:
    """Begin the next search when its last probability is there."""
    if s[SEARCH_NEXT] == s[TOPK_TAIL] or s[SEARCH_FREE] > s[NOW]:
        return
    job = topk[s[SEARCH_NEXT]]
    if jobs[job, J_LAST] > s[NOW]:
        return
    s[SEARCH_NEXT] += 1
    s[SEARCH_FREE] = s[NOW] + jobs[job, J_SEARCH]
    jobs[job, J_SEARCHED] = s[SEARCH_FREE]
    s[BUSY_TOPK] += jobs[job, J_SEARCH]
    s[PROGRESS] += 1


@inlined
def step_filter(
    s: Ints,
    pieces: Ints,
    tiles: Ints,
    jobs: Ints,
    topk: Ints,
    buffers: Ints,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    value_jobs: Ints,
    weighted: Ints,
) -> None:
    """Begin the next filter pass; from then on it gives a beat a cycle."""
    now = s[NOW]
    if s[FILTER_NEXT] == s[TOPK_TAIL] or s[FILTER_FREE] > now:
        return
    job = topk[s[FILTER_NEXT]]
    if jobs[job, J_SEARCHED] > now:
        return
    piece = jobs[job, J_PIECE]
    if not pieces[piece, P_LATE]:
        if not unit_is_free(s):
            return
    elif (
        not pieces[piece, P_TWO]
        and pieces[piece, P_SLOTS] == 0
        and not take_slot(s, pieces, tiles, slots, early_tiles, value_pool, asks, piece)
    ):
        return
    s[FILTER_NEXT] += 1
    end = now + jobs[job, J_BEATS]
    s[FILTER_FREE] = end
    s[BUSY_FILTER] += jobs[job, J_BEATS]
    s[PROGRESS] += 1
    jobs[job, J_FILTER] = now
    buffers[jobs[job, J_BUFFER]] = end
    pieces[piece, P_GRADUAL] = job
    begin_values(s, pieces, tiles, jobs, value_jobs, weighted, job)
    # Nothing passes the queries that still have to go through the filter.
    s[LAST_FILTER] = NEVER if s[FILTER_NEXT] != s[TOPK_TAIL] else end - 1
    if pieces[piece, P_FILTER_LEFT] == 0:
        pieces[piece, P_FILTER_END] = end - 1
        if pieces[piece, P_MODE] == AFTER_FILTERS:
            pieces[piece, P_DUE] = end
    if pieces[piece, P_MODE] == WITH_FILTER:
        pieces[piece, P_DUE] = now
