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
    Ints,
    Records,
)
from accelsim.hardware.machines.spatten.cycle._values import (
    free_value_lines,
    step_value_fork,
    step_weighted_sum,
)
from accelsim.hardware.memories.channel import Banks, Channels
from accelsim.hardware.memories.timing import Organisation
from accelsim.jit import in_place


@in_place
def run(
    s: Records,
    groups: Records,
    rows: Records,
    matrices: Records,
    pieces: Records,
    tiles: Records,
    jobs: Records,
    requests: Records,
    lsb: Records,
    asked: Ints,
    key_ring: Ints,
    value_pool: Ints,
    qk: Ints,
    pipe: Records,
    sequence: Ints,
    out: Records,
    decide: Records,
    topk: Ints,
    buffers: Ints,
    token: Records,
    heads: Records,
    slots: Ints,
    asks: Ints,
    value_jobs: Ints,
    early_tiles: Ints,
    weighted: Records,
    key_requests: Ints,
    value_requests: Ints,
    outputs: Ints,
    transactions: Ints,
    vectors: Ints,
    joined: Ints,
    beats: Records,
    ports: Records,
    channels: Records,
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
    seen, since = s[0].progress, s[0].now
    while s[0].outputs < s[0].all_outputs and s[0].now < until:
        free_value_lines(s, requests, tiles, joined, value_pool)
        step_exponents(s, jobs, pipe)
        # A search that begins lets a query go in the same cycle, and one may be asked for by then.
        step_selector(s, groups, token, heads, s[0].now - 1)
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
        step_selector(s, groups, token, heads, s[0].now)
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
        s[0].now += 1
        if s[0].progress != seen:
            seen, since = s[0].progress, s[0].now
        elif s[0].now - max(since, max(s[0].search_free, s[0].selector_free)) > watchdog:
            return False
    return True
