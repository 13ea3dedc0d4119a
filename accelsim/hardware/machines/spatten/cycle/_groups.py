"""When a layer may start (page, section 3), and the selector of tokens and heads (section 7)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._state import (
    Records,
)
from accelsim.jit import inlined


@inlined
def tokens_known(groups: Records, group: int) -> int:
    """Cycle in which the tokens of a group are selected; NEVER while that is open."""
    if group == 0 or groups[group - 1].select < 0:
        return 0
    return int(groups[group - 1].tokens_end)


@inlined
def heads_known(groups: Records, group: int) -> int:
    """Cycle in which the heads of a group are selected; NEVER while that is open."""
    if group == 0 or groups[group - 1].heads < 0:
        return 0
    return int(groups[group - 1].heads_end)


@inlined
def group_start(s: Records, groups: Records, group: int) -> int:
    """Cycle from which the queries of a group are read; NEVER while that is open."""
    if group == 0 or s[0].streamed:
        return 0
    start = max(groups[group - 1].done, tokens_known(groups, group))
    return int(max(start, heads_known(groups, group)))


@inlined
def group_keys(s: Records, groups: Records, group: int) -> int:
    """Cycle from which the keys of a group are asked for; NEVER while that is open."""
    if s[0].streamed or not groups[group].ahead:
        return group_start(s, groups, group)
    start = max(tokens_known(groups, group), heads_known(groups, group))
    return int(max(start, group_start(s, groups, groups[group].step_first)))


@inlined
def step_selector(s: Records, groups: Records, token: Records, heads: Records, asked: int) -> None:
    """Begin the search that was asked for first, not after ``asked``; tokens before heads."""
    now = s[0].now
    while s[0].selector_free <= now:
        at = now + 1
        kind = 0
        if s[0].token_head != s[0].token_tail:
            at = token[s[0].token_head].at
            kind = 1
        if s[0].heads_head != s[0].heads_tail and heads[s[0].heads_head].at < at:
            at = heads[s[0].heads_head].at
            kind = 2
        if at > asked:
            return
        if kind == 1:
            group = token[s[0].token_head].group
            s[0].token_head += 1
            cycles = groups[group].select
            groups[group].begun += 1
            s[0].tokens_begun += groups[group].each
            if groups[group].begun == groups[group].tokens:
                groups[group].tokens_end = now + cycles
        else:
            group = heads[s[0].heads_head].group
            s[0].heads_head += 1
            cycles = groups[group].heads
            groups[group].heads_end = now + cycles
        s[0].selector_free = now + cycles
        s[0].busy_selector += cycles
        s[0].progress += 1


@inlined
def ask_token_search(s: Records, token: Records, group: int) -> None:
    """Ask for a token search from this cycle on."""
    token[s[0].token_tail].at = s[0].now
    token[s[0].token_tail].group = group
    s[0].token_tail += 1


@inlined
def ask_head_search(s: Records, groups: Records, heads: Records, group: int) -> None:
    """Ask for the search of the next group's heads, from the last output of ``group`` on."""
    if groups[group].heads >= 0:
        heads[s[0].heads_tail].at = groups[group].done
        heads[s[0].heads_tail].group = group
        s[0].heads_tail += 1
