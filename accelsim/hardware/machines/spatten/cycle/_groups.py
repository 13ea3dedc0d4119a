"""When a layer may start (page, section 3), and the selector of tokens and heads (section 7)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._state import (
    BUSY_SELECTOR,
    G_AHEAD,
    G_BEGUN,
    G_DONE,
    G_HEADS,
    G_HEADS_END,
    G_SELECT,
    G_STEP_FIRST,
    G_TOKENS,
    G_TOKENS_END,
    HEADS_HEAD,
    HEADS_TAIL,
    NOW,
    P_STREAMED,
    PROGRESS,
    Q_A,
    Q_B,
    SELECTOR_FREE,
    TOKEN_HEAD,
    TOKEN_TAIL,
    TOKENS_BEGUN,
    Ints,
)
from accelsim.jit import inlined


@inlined
def tokens_known(groups: Ints, group: int) -> int:
    """Cycle in which the tokens of a group are selected; NEVER while that is open."""
    if group == 0 or groups[group - 1, G_SELECT] < 0:
        return 0
    return int(groups[group - 1, G_TOKENS_END])


@inlined
def heads_known(groups: Ints, group: int) -> int:
    """Cycle in which the heads of a group are selected; NEVER while that is open."""
    if group == 0 or groups[group - 1, G_HEADS] < 0:
        return 0
    return int(groups[group - 1, G_HEADS_END])


@inlined
def group_start(s: Ints, groups: Ints, group: int) -> int:
    """Cycle from which the queries of a group are read; NEVER while that is open."""
    if group == 0 or s[P_STREAMED]:
        return 0
    start = max(groups[group - 1, G_DONE], tokens_known(groups, group))
    return int(max(start, heads_known(groups, group)))


@inlined
def group_keys(s: Ints, groups: Ints, group: int) -> int:
    """Cycle from which the keys of a group are asked for; NEVER while that is open."""
    if s[P_STREAMED] or not groups[group, G_AHEAD]:
        return group_start(s, groups, group)
    start = max(tokens_known(groups, group), heads_known(groups, group))
    return int(max(start, group_start(s, groups, groups[group, G_STEP_FIRST])))


@inlined
def step_selector(s: Ints, groups: Ints, token: Ints, heads: Ints) -> None:
    """Begin the search that was asked for first; tokens before heads."""
    now = s[NOW]
    while s[SELECTOR_FREE] <= now:
        at = now + 1
        kind = 0
        if s[TOKEN_HEAD] != s[TOKEN_TAIL]:
            at = token[s[TOKEN_HEAD], Q_A]
            kind = 1
        if s[HEADS_HEAD] != s[HEADS_TAIL] and heads[s[HEADS_HEAD], Q_A] < at:
            at = heads[s[HEADS_HEAD], Q_A]
            kind = 2
        if at > now:
            return
        if kind == 1:
            group = token[s[TOKEN_HEAD], Q_B]
            s[TOKEN_HEAD] += 1
            cycles = groups[group, G_SELECT]
            groups[group, G_BEGUN] += 1
            s[TOKENS_BEGUN] += 1
            if groups[group, G_BEGUN] == groups[group, G_TOKENS]:
                groups[group, G_TOKENS_END] = now + cycles
        else:
            group = heads[s[HEADS_HEAD], Q_B]
            s[HEADS_HEAD] += 1
            cycles = groups[group, G_HEADS]
            groups[group, G_HEADS_END] = now + cycles
        s[SELECTOR_FREE] = now + cycles
        s[BUSY_SELECTOR] += cycles
        s[PROGRESS] += 1


@inlined
def ask_token_search(s: Ints, token: Ints, group: int) -> None:
    """Ask for a token search from this cycle on."""
    token[s[TOKEN_TAIL], Q_A] = s[NOW]
    token[s[TOKEN_TAIL], Q_B] = group
    s[TOKEN_TAIL] += 1


@inlined
def ask_head_search(s: Ints, groups: Ints, heads: Ints, group: int) -> None:
    """Ask for the search of the next group's heads, from the last output of ``group`` on."""
    if groups[group, G_HEADS] >= 0:
        heads[s[HEADS_TAIL], Q_A] = groups[group, G_DONE]
        heads[s[HEADS_TAIL], Q_B] = group
        s[HEADS_TAIL] += 1
