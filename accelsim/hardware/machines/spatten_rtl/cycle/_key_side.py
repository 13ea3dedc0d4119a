"""Key side: allocation, merge of LSB passes, fork, dot product, decision (2.3-2.11)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.cycle._buffers import (
    allocate,
    line_available,
    release,
    start_read,
    start_write,
)
from accelsim.hardware.machines.spatten_rtl.cycle._state import (
    ALL_TAKEN,
    DECISION,
    DOT_RING,
    FETCH_TAKEN,
    INFLIGHT,
    KEY_BUFFER,
    LAST_TAKEN,
    LSB_PASSES,
    MASK,
    ORDER,
    READ_TAKEN,
    SHIFT,
    WRITE_TAKEN,
    Records,
    is_last_beat,
    queue_peek,
    queue_pop,
    queue_push,
    queue_ready,
)
from accelsim.hardware.machines.spatten_rtl.facts import DOT_STAGES
from accelsim.jit import inlined

INFLIGHT_RESERVE = 8
"""Free entries of the in-flight queue that a new request needs."""


@inlined
def step_decided(s: Records, requests: Records, ring: Records, bypass_taken: bool) -> None:
    """Report the item at the decision output, drop or forward its beat, then refill the output."""
    beat = s[0].decided
    if beat >= 0:
        request = beat >> (SHIFT + 1)
        lsb_pass = (beat >> SHIFT) & 1
        again = requests[request].refetch and not lsb_pass
        reports = beat & MASK == 0 and not s[0].reported and queue_peek(s, ring, INFLIGHT) >= 0
        if reports and (not again or queue_ready(s, LSB_PASSES)):
            s[0].reported = 1
            queue_pop(s, INFLIGHT)
            if again:
                queue_push(s, ring, LSB_PASSES, request)
            elif requests[request].key_part == requests[request].key_fused - 1:
                release(s, KEY_BUFFER, requests[request].key_handle, s[0].now + 1)
        if beat & MASK or s[0].reported:
            done = False
            if again:
                done = True
                if is_last_beat(s, requests, beat):
                    s[0].preceding += 1
            elif lsb_pass:
                done = bypass_taken
            elif queue_ready(s, ORDER):
                if beat & MASK == 0:
                    requests[request].hold = s[0].preceding
                    s[0].preceding = 0
                queue_push(s, ring, ORDER, beat)
                done = True
            if done:
                s[0].decided = -1
                s[0].reported = 0
    if s[0].decided < 0 and s[0].maximum >= 0:
        beat = queue_peek(s, ring, DECISION)
        if beat >= 0:
            s[0].decided = beat
            queue_pop(s, DECISION)
            if is_last_beat(s, requests, beat):
                s[0].maximum = -1


@inlined
def step_dot_product(s: Records, requests: Records, ring: Records) -> None:
    """One line a cycle through the dot product, then through the maximum tree to the decision.

    Each of the two pipelines moves as a whole, unless its oldest line is not accepted: bubbles
    between two lines stay. The broadcast register in front of them fills by itself.
    """
    tree_moves = True
    if s[0].dot_head != s[0].dot_tree:
        line = s[0].dot_ring[s[0].dot_head % DOT_RING]
        if line.entered + s[0].log_scores == s[0].tree_clock:
            tree_moves = _decide(s, requests, ring)
    dot_moves = True
    if s[0].dot_tree != s[0].dot_tail:
        line = s[0].dot_ring[s[0].dot_tree % DOT_RING]
        if line.entered + DOT_STAGES - 1 == s[0].dot_clock:
            dot_moves = tree_moves
            if s[0].log_scores == 0:
                dot_moves = _decide(s, requests, ring)
            if dot_moves:
                line.entered = s[0].tree_clock
                s[0].dot_tree += 1
    s[0].tree_clock += tree_moves
    if dot_moves:
        if s[0].broadcast >= 0:
            line = s[0].dot_ring[s[0].dot_tail % DOT_RING]
            line.beat = s[0].broadcast
            line.entered = s[0].dot_clock
            s[0].dot_tail += 1
            s[0].broadcast = -1
        s[0].dot_clock += 1
    item = s[0].fork
    if (
        s[0].broadcast < 0
        and item >= 0
        and not s[0].fork_taken & LAST_TAKEN
        and line_available(s, KEY_BUFFER)
    ):
        beat = (item << SHIFT) | s[0].dot_lines
        s[0].broadcast = beat
        s[0].readers[KEY_BUFFER].consumed += 1
        s[0].dot_lines += 1
        if is_last_beat(s, requests, beat):
            s[0].dot_lines = 0
            s[0].fork_taken |= LAST_TAKEN


@inlined
def _decide(s: Records, requests: Records, ring: Records) -> bool:
    """Hand the oldest line to the decision stage, if that accepts it."""
    beat = s[0].dot_ring[s[0].dot_head % DOT_RING].beat
    last = is_last_beat(s, requests, beat)
    if not queue_ready(s, DECISION) or (last and s[0].maximum >= 0):
        return False
    queue_push(s, ring, DECISION, beat)
    if last:
        s[0].maximum = beat
    s[0].dot_head += 1
    return True


@inlined
def step_key_fork(s: Records, requests: Records, ring: Records) -> None:
    """Offer the item to the branches; item code is ``2 * request + lsb_pass``."""
    item = s[0].fork
    if item >= 0:
        request, lsb_pass = item >> 1, item & 1
        keys = requests[request].keys
        fused = requests[request].key_fused == 2 and not lsb_pass
        fetches = lsb_pass or requests[request].key_part == 0
        if not s[0].fork_taken & WRITE_TAKEN:
            if fetches:
                start_write(s, KEY_BUFFER, fused, keys // s[0].line_scores)
            s[0].fork_taken |= WRITE_TAKEN
            if not fetches:
                s[0].fork_taken |= FETCH_TAKEN
        if not s[0].fork_taken & READ_TAKEN:
            part = requests[request].key_part if fused else 0
            start_read(s, KEY_BUFFER, fused, part, keys // s[0].line_scores, False)
            s[0].fork_taken |= READ_TAKEN
        if not s[0].fork_taken & FETCH_TAKEN and s[0].key_row_1 < 0:
            s[0].key_row_1 = ((4 * request + lsb_pass) << SHIFT) | s[0].fork_row
            s[0].fork_row += 1
            if s[0].fork_row * s[0].fetch_channels == keys:
                s[0].fork_row = 0
                s[0].fork_taken |= FETCH_TAKEN
        if s[0].fork_taken == ALL_TAKEN:
            s[0].fork = -1
            s[0].fork_taken = 0
    _merge(s, ring)
    _allocate(s, requests)


@inlined
def _merge(s: Records, ring: Records) -> None:
    """Re-issues first, then new requests; what is presented and not accepted stays selected."""
    queue = s[0].queues[INFLIGHT]
    used = queue.tail - queue.head + (queue.popped == s[0].now)
    new = s[0].allocated >= 0 and queue.depth - used >= INFLIGHT_RESERVE
    waiting = queue_peek(s, ring, LSB_PASSES, 1)
    choice = s[0].arbiter_lock
    if choice < 0:
        if waiting >= 0:
            choice = 0
        elif new:
            choice = 1
        else:
            return
    if s[0].fork >= 0 or not queue_ready(s, INFLIGHT) or (choice == 1 and not new):
        s[0].arbiter_lock = choice
        return
    s[0].arbiter_lock = -1
    if choice == 0:
        item = 2 * waiting + 1
        queue_pop(s, LSB_PASSES)
    else:
        item = 2 * s[0].allocated
        s[0].allocated = -1
    s[0].fork = item
    queue_push(s, ring, INFLIGHT, item)


@inlined
def _allocate(s: Records, requests: Records) -> None:
    request = s[0].source
    if s[0].allocated >= 0 or request == s[0].count:
        return
    if requests[request].key_part == 0:
        lines = requests[request].keys // s[0].line_scores * requests[request].key_fused
        handle = allocate(s, KEY_BUFFER, lines)
        if handle < 0:
            return
        requests[request].key_handle = handle
    else:
        requests[request].key_handle = requests[request - 1].key_handle
    s[0].allocated = request
    s[0].source = request + 1
