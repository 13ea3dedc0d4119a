"""Key side: allocation, requantization merge, fork, dot product, decision (2.3-2.11)."""

from __future__ import annotations

from accelsim.hardware.spatten.cycle._buffers import (
    allocate,
    line_available,
    release,
    start_read,
    start_write,
)
from accelsim.hardware.spatten.cycle._state import (
    ALL_TAKEN,
    ALLOCATED,
    ARBITER_LOCK,
    BROADCAST,
    DECIDED,
    DECISION,
    DOT_CLOCK,
    DOT_HEAD,
    DOT_LINES,
    DOT_LINES_RING,
    DOT_RING,
    DOT_TAIL,
    DOT_TREE,
    FETCH_TAKEN,
    FORK,
    FORK_ROW,
    FORK_TAKEN,
    INFLIGHT,
    KEY_BUFFER,
    KEY_ROW_1,
    LAST_TAKEN,
    MASK,
    MAXIMUM,
    NOW,
    ORDER,
    P_FETCH,
    P_LOG_SCORES,
    P_REQUESTS,
    P_SCORES,
    PRECEDING,
    Q_HOLD,
    Q_KEY_FUSED,
    Q_KEY_HANDLE,
    Q_KEY_PART,
    Q_KEYS,
    Q_REQUANT,
    R_COLUMNS,
    R_CONSUMED,
    READ_TAKEN,
    READERS,
    REISSUES,
    REPORTED,
    SHIFT,
    SOURCE,
    TREE_CLOCK,
    WRITE_TAKEN,
    Ints,
    is_last_beat,
    queue_peek,
    queue_pop,
    queue_push,
    queue_ready,
)
from accelsim.jit import inlined

DOT_STAGES = 7
"""Multiplier and log2(64) adder registers, behind the broadcast register."""
INFLIGHT_RESERVE = 8
"""Free entries of the in-flight queue that a new request needs."""
INFLIGHT_DEPTH = 16


@inlined
def step_decided(s: Ints, requests: Ints, ring: Ints, bypass_taken: bool) -> None:
    """Report the item at the decision output, drop or forward its beat, then refill the output."""
    beat = s[DECIDED]
    if beat >= 0:
        request = beat >> (SHIFT + 1)
        lsb_pass = (beat >> SHIFT) & 1
        again = requests[request, Q_REQUANT] and not lsb_pass
        reports = beat & MASK == 0 and not s[REPORTED] and queue_peek(s, ring, INFLIGHT) >= 0
        if reports and (not again or queue_ready(s, REISSUES)):
            s[REPORTED] = 1
            queue_pop(s, INFLIGHT)
            if again:
                queue_push(s, ring, REISSUES, request)
            elif requests[request, Q_KEY_PART] == requests[request, Q_KEY_FUSED] - 1:
                release(s, KEY_BUFFER, requests[request, Q_KEY_HANDLE], s[NOW] + 1)
        if beat & MASK or s[REPORTED]:
            done = False
            if again:
                done = True
                if is_last_beat(s, requests, beat):
                    s[PRECEDING] += 1
            elif lsb_pass:
                done = bypass_taken
            elif queue_ready(s, ORDER):
                if beat & MASK == 0:
                    requests[request, Q_HOLD] = s[PRECEDING]
                    s[PRECEDING] = 0
                queue_push(s, ring, ORDER, beat)
                done = True
            if done:
                s[DECIDED] = -1
                s[REPORTED] = 0
    if s[DECIDED] < 0 and s[MAXIMUM] >= 0:
        beat = queue_peek(s, ring, DECISION)
        if beat >= 0:
            s[DECIDED] = beat
            queue_pop(s, DECISION)
            if is_last_beat(s, requests, beat):
                s[MAXIMUM] = -1


@inlined
def step_dot_product(s: Ints, requests: Ints, ring: Ints) -> None:
    """One line a cycle through the dot product, then through the maximum tree to the decision.

    Each of the two pipelines moves as a whole, unless its oldest line is not accepted: bubbles
    between two lines stay. The broadcast register in front of them fills by itself.
    """
    tree_moves = True
    if s[DOT_HEAD] != s[DOT_TREE]:
        line = DOT_LINES_RING + 2 * (s[DOT_HEAD] % DOT_RING)
        if s[line + 1] + s[P_LOG_SCORES] == s[TREE_CLOCK]:
            tree_moves = _decide(s, requests, ring)
    dot_moves = True
    if s[DOT_TREE] != s[DOT_TAIL]:
        line = DOT_LINES_RING + 2 * (s[DOT_TREE] % DOT_RING)
        if s[line + 1] + DOT_STAGES == s[DOT_CLOCK]:
            dot_moves = tree_moves
            if s[P_LOG_SCORES] == 0:
                dot_moves = _decide(s, requests, ring)
            if dot_moves:
                s[line + 1] = s[TREE_CLOCK]
                s[DOT_TREE] += 1
    s[TREE_CLOCK] += tree_moves
    if dot_moves:
        if s[BROADCAST] >= 0:
            line = DOT_LINES_RING + 2 * (s[DOT_TAIL] % DOT_RING)
            s[line] = s[BROADCAST]
            s[line + 1] = s[DOT_CLOCK]
            s[DOT_TAIL] += 1
            s[BROADCAST] = -1
        s[DOT_CLOCK] += 1
    item = s[FORK]
    if (
        s[BROADCAST] < 0
        and item >= 0
        and not s[FORK_TAKEN] & LAST_TAKEN
        and line_available(s, KEY_BUFFER)
    ):
        beat = (item << SHIFT) | s[DOT_LINES]
        s[BROADCAST] = beat
        s[READERS + KEY_BUFFER * R_COLUMNS + R_CONSUMED] += 1
        s[DOT_LINES] += 1
        if is_last_beat(s, requests, beat):
            s[DOT_LINES] = 0
            s[FORK_TAKEN] |= LAST_TAKEN


@inlined
def _decide(s: Ints, requests: Ints, ring: Ints) -> bool:
    """Hand the oldest line to the decision stage, if that accepts it."""
    beat = s[DOT_LINES_RING + 2 * (s[DOT_HEAD] % DOT_RING)]
    last = is_last_beat(s, requests, beat)
    if not queue_ready(s, DECISION) or (last and s[MAXIMUM] >= 0):
        return False
    queue_push(s, ring, DECISION, beat)
    if last:
        s[MAXIMUM] = beat
    s[DOT_HEAD] += 1
    return True


@inlined
def step_key_fork(s: Ints, requests: Ints, ring: Ints) -> None:
    """Offer the item to the branches; item code is ``2 * request + lsb_pass``."""
    item = s[FORK]
    if item >= 0:
        request, lsb_pass = item >> 1, item & 1
        keys = requests[request, Q_KEYS]
        fused = requests[request, Q_KEY_FUSED] == 2 and not lsb_pass
        fetches = lsb_pass or requests[request, Q_KEY_PART] == 0
        if not s[FORK_TAKEN] & WRITE_TAKEN:
            if fetches:
                start_write(s, KEY_BUFFER, fused, keys // s[P_SCORES])
            s[FORK_TAKEN] |= WRITE_TAKEN
            if not fetches:
                s[FORK_TAKEN] |= FETCH_TAKEN
        if not s[FORK_TAKEN] & READ_TAKEN:
            part = requests[request, Q_KEY_PART] if fused else 0
            start_read(s, KEY_BUFFER, fused, part, keys // s[P_SCORES], False)
            s[FORK_TAKEN] |= READ_TAKEN
        if not s[FORK_TAKEN] & FETCH_TAKEN and s[KEY_ROW_1] < 0:
            s[KEY_ROW_1] = ((4 * request + lsb_pass) << SHIFT) | s[FORK_ROW]
            s[FORK_ROW] += 1
            if s[FORK_ROW] * s[P_FETCH] == keys:
                s[FORK_ROW] = 0
                s[FORK_TAKEN] |= FETCH_TAKEN
        if s[FORK_TAKEN] == ALL_TAKEN:
            s[FORK] = -1
            s[FORK_TAKEN] = 0
    _merge(s, ring)
    _allocate(s, requests)


@inlined
def _merge(s: Ints, ring: Ints) -> None:
    """Re-issues first, then new requests; what is presented and not accepted stays selected."""
    used = s[INFLIGHT + 3] - s[INFLIGHT + 2] + (s[INFLIGHT + 4] == s[NOW])
    new = s[ALLOCATED] >= 0 and INFLIGHT_DEPTH - used >= INFLIGHT_RESERVE
    reissue = queue_peek(s, ring, REISSUES, 1)
    choice = s[ARBITER_LOCK]
    if choice < 0:
        if reissue >= 0:
            choice = 0
        elif new:
            choice = 1
        else:
            return
    if s[FORK] >= 0 or not queue_ready(s, INFLIGHT) or (choice == 1 and not new):
        s[ARBITER_LOCK] = choice
        return
    s[ARBITER_LOCK] = -1
    if choice == 0:
        item = 2 * reissue + 1
        queue_pop(s, REISSUES)
    else:
        item = 2 * s[ALLOCATED]
        s[ALLOCATED] = -1
    s[FORK] = item
    queue_push(s, ring, INFLIGHT, item)


@inlined
def _allocate(s: Ints, requests: Ints) -> None:
    request = s[SOURCE]
    if s[ALLOCATED] >= 0 or request == s[P_REQUESTS]:
        return
    if requests[request, Q_KEY_PART] == 0:
        lines = requests[request, Q_KEYS] // s[P_SCORES] * requests[request, Q_KEY_FUSED]
        handle = allocate(s, KEY_BUFFER, lines)
        if handle < 0:
            return
        requests[request, Q_KEY_HANDLE] = handle
    else:
        requests[request, Q_KEY_HANDLE] = requests[request - 1, Q_KEY_HANDLE]
    s[ALLOCATED] = request
    s[SOURCE] = request + 1
