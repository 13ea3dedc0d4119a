"""Value side: ordering, top-k stand-in, value fork, multiply-value, responses (2.12-2.16, 3.1)."""

from __future__ import annotations

from accelsim.hardware.spatten.cycle._buffers import (
    allocate,
    can_start_read,
    line_available,
    release,
    start_read,
    start_write,
)
from accelsim.hardware.spatten.cycle._state import (
    ALL_TAKEN,
    DECIDED,
    FETCH_TAKEN,
    FINISHED,
    GATHERED,
    LAST_TAKEN,
    MASK,
    MERGE_LOCK,
    MERGED,
    NOW,
    ORDER,
    P_LOG_SCORES,
    P_ROW_BEATS,
    P_SCORES,
    Q_DONE,
    Q_HOLD,
    Q_KEYS,
    Q_TOPK_WAIT,
    Q_VALUE_FUSED,
    Q_VALUE_HANDLE,
    Q_VALUE_PART,
    Q_VALUES,
    R_COLUMNS,
    R_CONSUMED,
    READ_TAKEN,
    READERS,
    REBATCHED,
    RELOAD_1,
    RELOAD_2,
    RESPONSES,
    SCORES,
    SHIFT,
    TOPK,
    TOPK_INSIDE,
    TOPK_SINCE,
    VALUE,
    VALUE_BUFFER,
    VALUE_FORK,
    VALUE_ROW_1,
    VALUE_TAKEN,
    W_COLUMNS,
    W_POPS_LEFT_0,
    WRITE_TAKEN,
    WRITERS,
    Ints,
    is_last_beat,
    queue_peek,
    queue_pop,
    queue_push,
    queue_ready,
)
from accelsim.jit import inlined

MULTIPLY_STAGES = 3
"""Broadcast, multiplier and accumulator registers; the adder tree adds log2(scores)."""


@inlined
def step_multiply(s: Ints, requests: Ints, ring: Ints) -> None:
    """Join a score beat with a value line."""
    if line_available(s, VALUE_BUFFER):
        beat = queue_peek(s, ring, SCORES)
        if beat >= 0:
            queue_pop(s, SCORES)
            s[READERS + VALUE_BUFFER * R_COLUMNS + R_CONSUMED] += 1
            request = beat >> (SHIFT + 1)
            if ((beat & MASK) + 1) * s[P_SCORES] == requests[request, Q_VALUES]:
                done = s[NOW] + MULTIPLY_STAGES + s[P_LOG_SCORES]
                requests[request, Q_DONE] = done
                s[RESPONSES] += 1
                if requests[request, Q_VALUE_PART] == requests[request, Q_VALUE_FUSED] - 1:
                    release(s, VALUE_BUFFER, requests[request, Q_VALUE_HANDLE], done)


@inlined
def step_value_fork(s: Ints, requests: Ints, ring: Ints) -> None:
    """Offer the score beat to the four branches."""
    beat = s[VALUE_FORK]
    if beat < 0:
        return
    request, number = beat >> (SHIFT + 1), beat & MASK
    first = number == 0
    leader = requests[request, Q_VALUE_PART] == 0
    lines = requests[request, Q_VALUES] // s[P_SCORES]
    taken = s[VALUE_TAKEN]
    w = WRITERS + VALUE_BUFFER * W_COLUMNS
    if not taken & WRITE_TAKEN:
        if not (first and leader):
            taken |= WRITE_TAKEN
        elif s[w + W_POPS_LEFT_0] + s[w + W_POPS_LEFT_0 + 1] == 0:
            start_write(s, VALUE_BUFFER, requests[request, Q_VALUE_FUSED] == 2, lines)
            taken |= WRITE_TAKEN
    if not taken & FETCH_TAKEN:
        if not leader:
            taken |= FETCH_TAKEN
        elif s[VALUE_ROW_1] < 0:
            # The gather register is the row register: a full row keeps the next one out.
            s[GATHERED] += 1
            taken |= FETCH_TAKEN
            if s[GATHERED] == s[P_ROW_BEATS]:
                s[GATHERED] = 0
                s[VALUE_ROW_1] = ((4 * request + VALUE) << SHIFT) | (number // s[P_ROW_BEATS])
    if not taken & READ_TAKEN:
        if not first:
            taken |= READ_TAKEN
        elif can_start_read(s, VALUE_BUFFER):
            pair = requests[request, Q_VALUE_FUSED] == 2
            part, ahead = requests[request, Q_VALUE_PART], not taken & WRITE_TAKEN
            start_read(s, VALUE_BUFFER, pair, part, lines, ahead)
            taken |= READ_TAKEN
    if not taken & LAST_TAKEN and queue_ready(s, SCORES):
        queue_push(s, ring, SCORES, beat)
        taken |= LAST_TAKEN
    if taken == ALL_TAKEN:
        s[VALUE_FORK] = -1
        taken = 0
    s[VALUE_TAKEN] = taken


@inlined
def _enter_fork(s: Ints, requests: Ints, beat: int) -> bool:
    """Allocate on the first beat of a batch and load the fork register, if both are possible."""
    if s[VALUE_FORK] >= 0:
        return False
    request = beat >> (SHIFT + 1)
    if beat & MASK == 0:
        if requests[request, Q_VALUE_PART] == 0:
            lines = requests[request, Q_VALUES] // s[P_SCORES] * requests[request, Q_VALUE_FUSED]
            handle = allocate(s, VALUE_BUFFER, lines)
            if handle < 0:
                return False
            requests[request, Q_VALUE_HANDLE] = handle
        else:
            requests[request, Q_VALUE_HANDLE] = requests[request - 1, Q_VALUE_HANDLE]
    s[VALUE_FORK] = beat
    return True


@inlined
def step_topk(s: Ints, requests: Ints, ring: Ints) -> None:
    """The latency stand-in and the path around it, then the reload and rebatch registers.

    The path around opens when the last kept score has left: the stand-in may still be dropping the
    rest, which keeps the next request that needs it waiting, but not one that does not.
    """
    inside = s[TOPK_INSIDE]
    beat = queue_peek(s, ring, TOPK)
    if beat >= 0:
        request = beat >> (SHIFT + 1)
        if s[TOPK_SINCE] < 0:
            s[TOPK_SINCE] = s[NOW]
        if s[NOW] >= s[TOPK_SINCE] + requests[request, Q_TOPK_WAIT]:
            kept = (beat & MASK) * s[P_SCORES] < requests[request, Q_VALUES]
            if not kept or _enter_fork(s, requests, beat):
                queue_pop(s, TOPK)
                if ((beat & MASK) + 1) * s[P_SCORES] == requests[request, Q_VALUES]:
                    s[TOPK_INSIDE] -= 1
                if is_last_beat(s, requests, beat):
                    s[TOPK_SINCE] = -1
    beat = s[RELOAD_2]
    if beat >= 0:
        request = beat >> (SHIFT + 1)
        if requests[request, Q_VALUES] < requests[request, Q_KEYS]:
            if queue_ready(s, TOPK):
                queue_push(s, ring, TOPK, beat)
                s[TOPK_INSIDE] += beat & MASK == 0
                s[RELOAD_2] = -1
        elif inside == 0 and _enter_fork(s, requests, beat):
            s[RELOAD_2] = -1
    if s[RELOAD_2] < 0:
        s[RELOAD_2] = s[RELOAD_1]
        s[RELOAD_1] = -1
    if s[RELOAD_1] < 0:
        s[RELOAD_1] = s[REBATCHED]
        s[REBATCHED] = -1
    if s[REBATCHED] < 0:
        s[REBATCHED] = s[MERGED]
        s[MERGED] = -1


@inlined
def step_merge(s: Ints, requests: Ints, ring: Ints) -> bool:
    """Ordering queue first, requantization passes around it; true when such a beat was taken."""
    normal = queue_peek(s, ring, ORDER)
    starts = normal >= 0 and normal & MASK == 0
    if starts and requests[normal >> (SHIFT + 1), Q_HOLD] > s[FINISHED]:
        normal = -1
    bypass = s[DECIDED]
    if bypass >= 0 and not (bypass >> SHIFT) & 1:
        bypass = -1
    choice = s[MERGE_LOCK]
    if choice < 0:
        if normal >= 0:
            choice = 0
        elif bypass >= 0:
            choice = 1
        else:
            return False
    s[MERGE_LOCK] = choice
    beat = normal if choice == 0 else bypass
    if beat < 0 or s[MERGED] >= 0:
        return False
    s[MERGED] = beat
    if is_last_beat(s, requests, beat):
        s[MERGE_LOCK] = -1
        if choice == 0:
            s[FINISHED] = 0
        else:
            s[FINISHED] += 1
    if choice == 0:
        queue_pop(s, ORDER)
    return bool(choice == 1)
