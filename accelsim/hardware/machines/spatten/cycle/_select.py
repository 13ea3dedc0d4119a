"""Top-k of values: searches, and the filter behind them (page, section 6)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._state import (
    AFTER_FILTERS,
    NEVER,
    WITH_FILTER,
    Ints,
    Records,
)
from accelsim.hardware.machines.spatten.cycle._values import begin_values, take_slot, unit_is_free
from accelsim.jit import inlined


@inlined
def step_search(s: Records, jobs: Records, topk: Ints) -> None:
    """Begin the next search when its last probability is there."""
    if s[0].search_next == s[0].topk_tail or s[0].search_free > s[0].now:
        return
    job = topk[s[0].search_next]
    if jobs[job].last > s[0].now:
        return
    s[0].search_next += 1
    s[0].search_free = s[0].now + jobs[job].search
    jobs[job].searched = s[0].search_free
    s[0].busy_topk += jobs[job].search
    s[0].progress += 1


@inlined
def step_filter(
    s: Records,
    pieces: Records,
    tiles: Records,
    jobs: Records,
    topk: Ints,
    buffers: Ints,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    value_jobs: Ints,
    weighted: Records,
) -> None:
    """Begin the next filter pass; from then on it gives a beat a cycle."""
    now = s[0].now
    if s[0].filter_next == s[0].topk_tail or s[0].filter_free > now:
        return
    job = topk[s[0].filter_next]
    if jobs[job].searched > now:
        return
    piece = jobs[job].piece
    if not pieces[piece].late:
        if not unit_is_free(s):
            return
    elif (
        not pieces[piece].two
        and pieces[piece].slots == 0
        and not take_slot(s, pieces, tiles, slots, early_tiles, value_pool, asks, piece)
    ):
        return
    s[0].filter_next += 1
    end = now + jobs[job].beats
    s[0].filter_free = end
    s[0].busy_filter += jobs[job].beats
    s[0].progress += 1
    jobs[job].filter = now
    buffers[jobs[job].buffer] = end
    pieces[piece].gradual = job
    begin_values(s, pieces, tiles, jobs, value_jobs, weighted, job)
    # Nothing passes the queries that still have to go through the filter.
    s[0].last_filter = NEVER if s[0].filter_next != s[0].topk_tail else end - 1
    if pieces[piece].filter_left == 0:
        pieces[piece].filter_end = end - 1
        if pieces[piece].mode == AFTER_FILTERS:
            pieces[piece].due = end
    if pieces[piece].mode == WITH_FILTER:
        pieces[piece].due = now
