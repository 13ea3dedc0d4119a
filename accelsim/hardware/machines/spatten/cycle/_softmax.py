"""Softmax, beat by beat, and the decision about the LSBs (page, sections 5 and 6)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._groups import ask_token_search
from accelsim.hardware.machines.spatten.cycle._keys import reissue_keys
from accelsim.hardware.machines.spatten.cycle._state import (
    ACCUMULATE,
    AFTER_FILTERS,
    BUSY_SOFTMAX,
    DECIDE_HEAD,
    DECIDE_TAIL,
    DIVIDE,
    EXPONENT,
    FIFO_IN,
    FIFO_MOST,
    FIFO_OUT,
    G_JOBS_LEFT,
    G_SELECT,
    J_BEATS,
    J_BUFFER,
    J_DECIDES,
    J_DROPPED,
    J_EXTRA,
    J_GROUP,
    J_LAST,
    J_OUTPUT,
    J_PASSED,
    J_PIECE,
    J_PRUNES,
    J_SUM,
    J_TWO,
    LAST_DECIDED,
    LAST_FILTER,
    M_FREE,
    NEVER,
    NOW,
    OUT_HEAD,
    OUT_TAIL,
    P_D_LOG,
    P_DECIDE_LEFT,
    P_DECIDED,
    P_DUE,
    P_FIFO,
    P_FILTER_END,
    P_FILTER_LEFT,
    P_LATE,
    P_LSB_0,
    P_LSB_1,
    P_MATRIX,
    P_MODE,
    P_PER_QUERY,
    P_QUEUED,
    P_ROWS,
    P_SCORES_AT,
    P_SLOTS,
    P_TWO,
    PIPE_HEAD,
    PIPE_TAIL,
    PROGRESS,
    Q_A,
    Q_B,
    Q_C,
    READ_BEAT,
    READ_EXTRA,
    REUSE,
    SEQ_HEAD,
    SEQ_TAIL,
    SLOT_TAIL,
    TOKENS_BEGUN,
    TOKENS_READ,
    TOPK_TAIL,
    UNDECIDED,
    Ints,
)
from accelsim.hardware.machines.spatten.cycle._values import begin_values, take_slot, unit_is_free
from accelsim.jit import inlined

FIRST, LAST = 1, 2
"""Marks of a beat in the divider pipeline."""


@inlined
def step_exponents(s: Ints, jobs: Ints, pipe: Ints) -> None:
    """Scores leave the pipeline of multipliers and exponentials for the FIFO."""
    if s[PIPE_HEAD] == s[PIPE_TAIL]:
        return
    at = s[PIPE_HEAD] % len(pipe)
    if pipe[at, Q_A] + 2 + s[P_D_LOG] + EXPONENT > s[NOW]:
        return
    if pipe[at, Q_B] > 0:
        if s[FIFO_IN] - s[FIFO_OUT] >= s[P_FIFO]:
            return
        pipe[at, Q_B] -= 1
        s[FIFO_IN] += 1
        s[FIFO_MOST] = max(s[FIFO_MOST], s[FIFO_IN] - s[FIFO_OUT])
        s[PROGRESS] += 1
    if pipe[at, Q_B] == 0:
        s[PIPE_HEAD] += 1
        job = pipe[at, Q_C]
        if job >= 0:
            jobs[job, J_SUM] = s[NOW] + ACCUMULATE


@inlined
def step_probabilities(
    s: Ints,
    groups: Ints,
    pieces: Ints,
    tiles: Ints,
    jobs: Ints,
    out: Ints,
    topk: Ints,
    buffers: Ints,
    token: Ints,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    value_jobs: Ints,
    weighted: Ints,
) -> None:
    """A beat leaves the dividers; the first of a query waits until it is taken."""
    if s[OUT_HEAD] == s[OUT_TAIL]:
        return
    at, now = s[OUT_HEAD] % len(out), s[NOW]
    if out[at, Q_A] + DIVIDE > now:
        return
    job, marks = out[at, Q_B], out[at, Q_C]
    dropped, prunes = jobs[job, J_DROPPED], jobs[job, J_PRUNES]
    piece, group = jobs[job, J_PIECE], jobs[job, J_GROUP]
    if marks & FIRST and not dropped:
        searched = jobs[job, J_OUTPUT] and groups[group, G_SELECT] >= 0 and s[P_PER_QUERY]
        # One search waits while another runs, whichever group they are of.
        if searched and s[TOKENS_BEGUN] < s[TOKENS_READ] - 1:
            return
        late = pieces[piece, P_LATE]
        if late and not pieces[piece, P_QUEUED]:
            slots[s[SLOT_TAIL]] = piece
            s[SLOT_TAIL] += 1
            pieces[piece, P_QUEUED] = 1
        if prunes:
            if not _take_buffer(s, jobs, topk, buffers, job):
                return
        else:
            if s[LAST_FILTER] >= now:
                return
            if not late and not unit_is_free(s):
                return
            on_demand = late and not pieces[piece, P_TWO] and pieces[piece, P_SLOTS] == 0
            if on_demand and not take_slot(
                s, pieces, tiles, slots, early_tiles, value_pool, asks, piece
            ):
                return
            begin_values(s, pieces, tiles, jobs, value_jobs, weighted, job)
        s[TOKENS_READ] += 1 if searched else 0
    s[OUT_HEAD] += 1
    s[PROGRESS] += 1
    if dropped:
        return
    if not prunes:
        jobs[job, J_PASSED] += 1
    if not marks & LAST:
        return
    if prunes:
        jobs[job, J_LAST] = now
    else:
        s[LAST_FILTER] = now
        if pieces[piece, P_FILTER_LEFT] == 0:
            pieces[piece, P_FILTER_END] = now
            if pieces[piece, P_MODE] == AFTER_FILTERS:
                pieces[piece, P_DUE] = now + 1
    if not jobs[job, J_OUTPUT]:
        return
    groups[group, G_JOBS_LEFT] -= 1
    if groups[group, G_SELECT] >= 0 and (s[P_PER_QUERY] or groups[group, G_JOBS_LEFT] == 0):
        ask_token_search(s, token, group)


@inlined
def _take_buffer(s: Ints, jobs: Ints, topk: Ints, buffers: Ints, job: int) -> bool:
    """Take a row buffer of the top-k."""
    for i in range(s[P_ROWS]):
        if buffers[i] <= s[NOW]:
            buffers[i] = NEVER
            jobs[job, J_BUFFER] = i
            topk[s[TOPK_TAIL]] = job
            s[TOPK_TAIL] += 1
            # What does not prune may not pass: see the filter.
            s[LAST_FILTER] = NEVER
            return True
    return False


@inlined
def step_read(
    s: Ints,
    pieces: Ints,
    jobs: Ints,
    sequence: Ints,
    out: Ints,
    decide: Ints,
) -> None:
    """Read one beat of the query whose turn it is into the dividers."""
    if s[SEQ_HEAD] == s[SEQ_TAIL]:
        return
    now, job = s[NOW], sequence[s[SEQ_HEAD]]
    piece = jobs[job, J_PIECE]
    beats = jobs[job, J_BEATS]
    if jobs[job, J_TWO] and jobs[job, J_SUM] == NEVER and pieces[piece, P_SCORES_AT] <= now:
        # Kept scores come in, one beat a cycle.
        jobs[job, J_SUM] = now + beats - 1 + EXPONENT + ACCUMULATE
        s[PROGRESS] += 1
    if jobs[job, J_SUM] > now or s[OUT_TAIL] - s[OUT_HEAD] == DIVIDE:
        return
    if s[READ_BEAT] == 0 and s[READ_EXTRA] < 0:
        if jobs[job, J_DECIDES]:
            decide[s[DECIDE_TAIL], Q_A] = now + DIVIDE
            decide[s[DECIDE_TAIL], Q_B] = job
            s[DECIDE_TAIL] += 1
        s[READ_EXTRA] = jobs[job, J_EXTRA]
    last = s[READ_BEAT] == beats - 1
    if last and s[READ_EXTRA] > 0:
        # Kept scores go to and come from DRAM.
        s[READ_EXTRA] -= 1
        s[BUSY_SOFTMAX] += 1
        s[PROGRESS] += 1
        return
    at = s[OUT_TAIL] % len(out)
    out[at, Q_A] = now
    out[at, Q_B] = job
    out[at, Q_C] = (FIRST if s[READ_BEAT] == 0 else 0) | (LAST if last else 0)
    s[OUT_TAIL] += 1
    s[BUSY_SOFTMAX] += 1
    s[PROGRESS] += 1
    if not jobs[job, J_TWO]:
        s[FIFO_OUT] += 1
    s[READ_BEAT] += 1
    if last:
        s[READ_BEAT] = 0
        s[READ_EXTRA] = -1
        s[SEQ_HEAD] += 1


@inlined
def step_decide(s: Ints, matrices: Ints, pieces: Ints, jobs: Ints, decide: Ints, lsb: Ints) -> None:
    """The last query of a row is decided: an LSB pass, or the lines of the keys are free."""
    while s[DECIDE_HEAD] != s[DECIDE_TAIL] and decide[s[DECIDE_HEAD], Q_A] <= s[NOW]:
        piece = jobs[decide[s[DECIDE_HEAD], Q_B], J_PIECE]
        s[DECIDE_HEAD] += 1
        pieces[piece, P_DECIDE_LEFT] -= 1
        if pieces[piece, P_DECIDE_LEFT]:
            continue
        s[PROGRESS] += 1
        pieces[piece, P_DECIDED] = s[NOW]
        s[UNDECIDED] -= 1
        s[LAST_DECIDED] = s[NOW]
        if pieces[piece, P_LSB_0] < pieces[piece, P_LSB_1]:
            reissue_keys(s, lsb, pieces[piece, P_LSB_0], pieces[piece, P_LSB_1])
        elif not pieces[piece, P_TWO]:
            matrices[pieces[piece, P_MATRIX], M_FREE] = s[NOW] + REUSE
