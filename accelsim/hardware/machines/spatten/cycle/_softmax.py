"""Softmax, beat by beat, and the decision about the LSBs (page, sections 5 and 6)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._groups import ask_token_search
from accelsim.hardware.machines.spatten.cycle._keys import refetch_keys
from accelsim.hardware.machines.spatten.cycle._state import (
    ACCUMULATE,
    AFTER_FILTERS,
    DIVIDE,
    EXPONENT,
    NEVER,
    REUSE,
    Ints,
    Records,
)
from accelsim.hardware.machines.spatten.cycle._values import begin_values, take_slot, unit_is_free
from accelsim.jit import inlined

FIRST, LAST = 1, 2
"""Marks of a beat in the divider pipeline."""


@inlined
def step_exponents(s: Records, jobs: Records, pipe: Records) -> None:
    """Scores leave the pipeline of multipliers and exponentials for the FIFO."""
    if s[0].pipe_head == s[0].pipe_tail:
        return
    at = s[0].pipe_head % len(pipe)
    if pipe[at].taken + 2 + s[0].log_dim + EXPONENT > s[0].now:
        return
    if pipe[at].complete > 0:
        if s[0].fifo_in - s[0].fifo_out >= s[0].softmax_fifo:
            return
        pipe[at].complete -= 1
        s[0].fifo_in += 1
        s[0].fifo_most = max(s[0].fifo_most, s[0].fifo_in - s[0].fifo_out)
        s[0].progress += 1
    if pipe[at].complete == 0:
        s[0].pipe_head += 1
        job = pipe[at].job
        if job >= 0:
            jobs[job].sum = s[0].now + ACCUMULATE


@inlined
def step_probabilities(
    s: Records,
    groups: Records,
    pieces: Records,
    tiles: Records,
    jobs: Records,
    out: Records,
    topk: Ints,
    buffers: Ints,
    token: Records,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    value_jobs: Ints,
    weighted: Records,
) -> None:
    """A beat leaves the dividers; the first of a query waits until it is taken."""
    if s[0].out_head == s[0].out_tail:
        return
    at, now = s[0].out_head % len(out), s[0].now
    if out[at].read + DIVIDE > now:
        return
    job, marks = out[at].job, out[at].marks
    dropped, prunes = jobs[job].dropped, jobs[job].prunes
    piece, group = jobs[job].piece, jobs[job].group
    if marks & FIRST and not dropped:
        searched = jobs[job].output and groups[group].select >= 0 and groups[group].each
        # One search waits while another runs, whichever group they are of.
        if searched and s[0].tokens_begun < s[0].tokens_read - 1:
            return
        late = pieces[piece].late
        if late and not pieces[piece].queued:
            pieces[piece].queued = 1
            last = piece + 1
            while last < len(pieces) and pieces[last].follows:
                last += 1
            for queued in range(piece, last):
                slots[s[0].slot_tail] = queued
                s[0].slot_tail += 1
        if prunes:
            if not _take_buffer(s, jobs, topk, buffers, job):
                return
        else:
            if s[0].last_filter >= now:
                return
            if not late and not unit_is_free(s):
                return
            on_demand = late and not pieces[piece].two and pieces[piece].slots == 0
            if on_demand and not take_slot(
                s, pieces, tiles, slots, early_tiles, value_pool, asks, piece
            ):
                return
            begin_values(s, pieces, tiles, jobs, value_jobs, weighted, job)
        s[0].tokens_read += 1 if searched else 0
    s[0].out_head += 1
    s[0].progress += 1
    if dropped:
        return
    if not prunes:
        jobs[job].passed += 1
    if not marks & LAST:
        return
    if prunes:
        jobs[job].last = now
    else:
        s[0].last_filter = now
        if pieces[piece].filter_left == 0:
            pieces[piece].filter_end = now
            if pieces[piece].mode == AFTER_FILTERS:
                pieces[piece].due = now + 1
    if not jobs[job].output:
        return
    groups[group].jobs_left -= 1
    if groups[group].select >= 0 and (groups[group].each or groups[group].jobs_left == 0):
        ask_token_search(s, token, group)


@inlined
def _take_buffer(s: Records, jobs: Records, topk: Ints, buffers: Ints, job: int) -> bool:
    """Take a row buffer of the top-k."""
    for i in range(s[0].topk_rows):
        if buffers[i] <= s[0].now:
            buffers[i] = NEVER
            jobs[job].buffer = i
            topk[s[0].topk_tail] = job
            s[0].topk_tail += 1
            # What does not prune may not pass: see the filter.
            s[0].last_filter = NEVER
            return True
    return False


@inlined
def step_read(
    s: Records,
    pieces: Records,
    jobs: Records,
    sequence: Ints,
    out: Records,
    decide: Records,
) -> None:
    """Read one beat of the query whose turn it is into the dividers."""
    if s[0].seq_head == s[0].seq_tail:
        return
    now, job = s[0].now, sequence[s[0].seq_head]
    piece = jobs[job].piece
    beats = jobs[job].beats
    if jobs[job].two and jobs[job].sum == NEVER and pieces[piece].scores_at <= now:
        # Kept scores come in, one beat a cycle.
        jobs[job].sum = now + beats - 1 + EXPONENT + ACCUMULATE
        s[0].progress += 1
    if jobs[job].sum > now or s[0].out_tail - s[0].out_head == DIVIDE:
        return
    if s[0].read_beat == 0 and s[0].read_extra < 0:
        if jobs[job].decides:
            decide[s[0].decide_tail].at = now + DIVIDE
            decide[s[0].decide_tail].job = job
            s[0].decide_tail += 1
        s[0].read_extra = jobs[job].extra
    last = s[0].read_beat == beats - 1
    if last and s[0].read_extra > 0:
        # Kept scores go to and come from DRAM.
        s[0].read_extra -= 1
        s[0].busy_softmax += 1
        s[0].progress += 1
        return
    at = s[0].out_tail % len(out)
    out[at].read = now
    out[at].job = job
    out[at].marks = (FIRST if s[0].read_beat == 0 else 0) | (LAST if last else 0)
    s[0].out_tail += 1
    s[0].busy_softmax += 1
    s[0].progress += 1
    if not jobs[job].two:
        s[0].fifo_out += 1
    s[0].read_beat += 1
    if last:
        s[0].read_beat = 0
        s[0].read_extra = -1
        s[0].seq_head += 1


@inlined
def step_decide(
    s: Records, matrices: Records, pieces: Records, jobs: Records, decide: Records, lsb: Records
) -> None:
    """The last query of a row is decided: an LSB pass, or the lines of the keys are free."""
    while s[0].decide_head != s[0].decide_tail and decide[s[0].decide_head].at <= s[0].now:
        piece = jobs[decide[s[0].decide_head].job].piece
        s[0].decide_head += 1
        pieces[piece].decide_left -= 1
        if pieces[piece].decide_left:
            continue
        s[0].progress += 1
        pieces[piece].decided = s[0].now
        s[0].undecided -= 1
        s[0].last_decided = s[0].now
        if pieces[piece].lsb_0 < pieces[piece].lsb_1:
            refetch_keys(s, lsb, pieces[piece].lsb_0, pieces[piece].lsb_1)
        elif not pieces[piece].two:
            matrices[pieces[piece].matrix].free = s[0].now + REUSE
