"""The clock: every block once a cycle, in an order in which what is handed over at once is seen."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._fetcher import step_fetcher
from accelsim.hardware.machines.spatten.cycle._groups import step_selector
from accelsim.hardware.machines.spatten.cycle._keys import step_key_fork, step_query_key
from accelsim.hardware.machines.spatten.cycle._select import step_filter, step_search
from accelsim.hardware.machines.spatten.cycle._softmax import (
    step_decide,
    step_exponents,
    step_probabilities,
    step_read,
)
from accelsim.hardware.machines.spatten.cycle._state import (
    NOW,
    OUTPUTS,
    P_OUTPUTS,
    PROGRESS,
    SEARCH_FREE,
    SELECTOR_FREE,
    Ints,
)
from accelsim.hardware.machines.spatten.cycle._values import (
    free_value_lines,
    step_value_fork,
    step_weighted_sum,
)
from accelsim.hardware.memories._channel import Banks, Channels
from accelsim.hardware.memories._timing import Organisation
from accelsim.jit import in_place


@in_place
def run(
    s: Ints,
    groups: Ints,
    rows: Ints,
    matrices: Ints,
    pieces: Ints,
    tiles: Ints,
    jobs: Ints,
    requests: Ints,
    lsb: Ints,
    asked: Ints,
    key_ring: Ints,
    value_pool: Ints,
    qk: Ints,
    pipe: Ints,
    sequence: Ints,
    out: Ints,
    decide: Ints,
    topk: Ints,
    buffers: Ints,
    token: Ints,
    heads: Ints,
    slots: Ints,
    asks: Ints,
    value_jobs: Ints,
    early_tiles: Ints,
    weighted: Ints,
    key_requests: Ints,
    value_requests: Ints,
    outputs: Ints,
    transactions: Ints,
    vectors: Ints,
    joined: Ints,
    beats: Ints,
    ports: Ints,
    channels: Ints,
    dram: Channels,
    banks: Banks,
    org: Organisation,
    until: int,
    watchdog: int,
) -> bool:
    """Run to the last weighted sum, or to cycle ``until``.

    Returns:
        False if nothing happened for ``watchdog`` cycles, searches apart.
    """
    seen, since = s[PROGRESS], s[NOW]
    while s[OUTPUTS] < s[P_OUTPUTS] and s[NOW] < until:
        free_value_lines(s, requests, tiles, joined, value_pool)
        step_exponents(s, jobs, pipe)
        step_probabilities(
            s,
            groups,
            pieces,
            tiles,
            jobs,
            out,
            topk,
            buffers,
            token,
            slots,
            early_tiles,
            value_pool,
            asks,
            value_jobs,
            weighted,
        )
        step_selector(s, groups, token, heads)
        step_search(s, jobs, topk)
        step_read(s, pieces, jobs, sequence, out, decide)
        step_filter(
            s,
            pieces,
            tiles,
            jobs,
            topk,
            buffers,
            slots,
            early_tiles,
            value_pool,
            asks,
            value_jobs,
            weighted,
        )
        step_weighted_sum(
            s,
            groups,
            pieces,
            tiles,
            jobs,
            requests,
            heads,
            weighted,
            outputs,
            vectors,
            joined,
        )
        step_decide(s, matrices, pieces, jobs, decide, lsb)
        step_query_key(
            s,
            groups,
            rows,
            matrices,
            pieces,
            jobs,
            requests,
            qk,
            pipe,
            sequence,
            vectors,
            joined,
        )
        step_key_fork(
            s,
            groups,
            rows,
            matrices,
            pieces,
            requests,
            lsb,
            asked,
            key_ring,
            qk,
            key_requests,
        )
        step_value_fork(
            s,
            matrices,
            pieces,
            tiles,
            requests,
            slots,
            early_tiles,
            value_pool,
            asks,
            value_requests,
        )
        step_fetcher(
            s,
            requests,
            pieces,
            jobs,
            key_requests,
            value_requests,
            transactions,
            joined,
            beats,
            ports,
            channels,
            dram,
            banks,
            org,
        )
        s[NOW] += 1
        if s[PROGRESS] != seen:
            seen, since = s[PROGRESS], s[NOW]
        elif s[NOW] - max(since, max(s[SEARCH_FREE], s[SELECTOR_FREE])) > watchdog:
            return False
    return True
