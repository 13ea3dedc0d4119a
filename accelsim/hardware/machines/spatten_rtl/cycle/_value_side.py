"""Value side: ordering, top-k stand-in, value fork, multiply-value, responses (2.12-2.16, 3.1)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.cycle._buffers import (
    allocate,
    can_start_read,
    line_available,
    release,
    start_read,
    start_write,
)
from accelsim.hardware.machines.spatten_rtl.cycle._state import (
    ALL_TAKEN,
    FETCH_TAKEN,
    LAST_TAKEN,
    MASK,
    ORDER,
    READ_TAKEN,
    SCORES,
    SHIFT,
    TOPK,
    VALUE,
    VALUE_BUFFER,
    WRITE_TAKEN,
    Records,
    is_last_beat,
    queue_peek,
    queue_pop,
    queue_push,
    queue_ready,
)
from accelsim.hardware.machines.spatten_rtl.facts import MULTIPLY_STAGES
from accelsim.jit import inlined


@inlined
def step_multiply(s: Records, requests: Records, ring: Records) -> None:
    """Join a score beat with a value line."""
    if line_available(s, VALUE_BUFFER):
        beat = queue_peek(s, ring, SCORES)
        if beat >= 0:
            queue_pop(s, SCORES)
            s[0].readers[VALUE_BUFFER].consumed += 1
            request = beat >> (SHIFT + 1)
            if ((beat & MASK) + 1) * s[0].line_scores == requests[request].values:
                done = s[0].now + MULTIPLY_STAGES + s[0].log_scores
                requests[request].done = done
                s[0].responses += 1
                if requests[request].value_part == requests[request].value_fused - 1:
                    release(s, VALUE_BUFFER, requests[request].value_handle, done)


@inlined
def step_value_fork(s: Records, requests: Records, ring: Records) -> None:
    """Offer the score beat to the four branches."""
    beat = s[0].value_fork
    if beat < 0:
        return
    request, number = beat >> (SHIFT + 1), beat & MASK
    first = number == 0
    leader = requests[request].value_part == 0
    lines = requests[request].values // s[0].line_scores
    taken = s[0].value_taken
    w = s[0].writers[VALUE_BUFFER]
    if not taken & WRITE_TAKEN:
        if not (first and leader):
            taken |= WRITE_TAKEN
        elif w.pops_left[0] + w.pops_left[1] == 0:
            start_write(s, VALUE_BUFFER, requests[request].value_fused == 2, lines)
            taken |= WRITE_TAKEN
    if not taken & FETCH_TAKEN:
        if not leader:
            taken |= FETCH_TAKEN
        elif s[0].value_row_1 < 0:
            # The gather register is the row register: a full row keeps the next one out.
            s[0].gathered += 1
            taken |= FETCH_TAKEN
            if s[0].gathered == s[0].row_beats:
                s[0].gathered = 0
                s[0].value_row_1 = ((4 * request + VALUE) << SHIFT) | (number // s[0].row_beats)
    if not taken & READ_TAKEN:
        if not first:
            taken |= READ_TAKEN
        elif can_start_read(s, VALUE_BUFFER):
            pair = requests[request].value_fused == 2
            part, ahead = requests[request].value_part, not taken & WRITE_TAKEN
            start_read(s, VALUE_BUFFER, pair, part, lines, ahead)
            taken |= READ_TAKEN
    if not taken & LAST_TAKEN and queue_ready(s, SCORES):
        queue_push(s, ring, SCORES, beat)
        taken |= LAST_TAKEN
    if taken == ALL_TAKEN:
        s[0].value_fork = -1
        taken = 0
    s[0].value_taken = taken


@inlined
def _enter_fork(s: Records, requests: Records, beat: int) -> bool:
    """Allocate on the first beat of a batch and load the fork register, if both are possible."""
    if s[0].value_fork >= 0:
        return False
    request = beat >> (SHIFT + 1)
    if beat & MASK == 0:
        if requests[request].value_part == 0:
            lines = requests[request].values // s[0].line_scores * requests[request].value_fused
            handle = allocate(s, VALUE_BUFFER, lines)
            if handle < 0:
                return False
            requests[request].value_handle = handle
        else:
            requests[request].value_handle = requests[request - 1].value_handle
    s[0].value_fork = beat
    return True


@inlined
def step_topk(s: Records, requests: Records, ring: Records) -> None:
    """The latency stand-in and the path around it, then the reload and rebatch registers.

    The path around opens when the last kept score has left: the stand-in may still be dropping the
    rest, which keeps the next request that needs it waiting, but not one that does not.
    """
    inside = s[0].topk_inside
    beat = queue_peek(s, ring, TOPK)
    if beat >= 0:
        request = beat >> (SHIFT + 1)
        if s[0].topk_since < 0:
            s[0].topk_since = s[0].now
        if s[0].now >= s[0].topk_since + requests[request].topk_wait:
            kept = (beat & MASK) * s[0].line_scores < requests[request].values
            if not kept or _enter_fork(s, requests, beat):
                queue_pop(s, TOPK)
                if ((beat & MASK) + 1) * s[0].line_scores == requests[request].values:
                    s[0].topk_inside -= 1
                if is_last_beat(s, requests, beat):
                    s[0].topk_since = -1
    beat = s[0].reload_2
    if beat >= 0:
        request = beat >> (SHIFT + 1)
        if requests[request].values < requests[request].keys:
            if queue_ready(s, TOPK):
                queue_push(s, ring, TOPK, beat)
                s[0].topk_inside += beat & MASK == 0
                s[0].reload_2 = -1
        elif inside == 0 and _enter_fork(s, requests, beat):
            s[0].reload_2 = -1
    if s[0].reload_2 < 0:
        s[0].reload_2 = s[0].reload_1
        s[0].reload_1 = -1
    if s[0].reload_1 < 0:
        s[0].reload_1 = s[0].rebatched
        s[0].rebatched = -1
    if s[0].rebatched < 0:
        s[0].rebatched = s[0].merged
        s[0].merged = -1


@inlined
def step_merge(s: Records, requests: Records, ring: Records) -> bool:
    """Ordering queue first, LSB passes around it; true when such a beat was taken."""
    normal = queue_peek(s, ring, ORDER)
    starts = normal >= 0 and normal & MASK == 0
    if starts and requests[normal >> (SHIFT + 1)].hold > s[0].finished:
        normal = -1
    bypass = s[0].decided
    if bypass >= 0 and not (bypass >> SHIFT) & 1:
        bypass = -1
    choice = s[0].merge_lock
    if choice < 0:
        if normal >= 0:
            choice = 0
        elif bypass >= 0:
            choice = 1
        else:
            return False
    s[0].merge_lock = choice
    beat = normal if choice == 0 else bypass
    if beat < 0 or s[0].merged >= 0:
        return False
    s[0].merged = beat
    if is_last_beat(s, requests, beat):
        s[0].merge_lock = -1
        if choice == 0:
            s[0].finished = 0
        else:
            s[0].finished += 1
    if choice == 0:
        queue_pop(s, ORDER)
    return bool(choice == 1)
