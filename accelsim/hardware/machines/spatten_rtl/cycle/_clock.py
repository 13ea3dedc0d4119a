"""The clock: evaluates every block of the released SpAtten once a cycle, sinks first."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.cycle._buffers import step_reader, step_writer
from accelsim.hardware.machines.spatten_rtl.cycle._fetcher import step_dram, step_issue, step_return
from accelsim.hardware.machines.spatten_rtl.cycle._key_side import (
    step_decided,
    step_dot_product,
    step_key_fork,
)
from accelsim.hardware.machines.spatten_rtl.cycle._state import (
    KEY_BUFFER,
    VALUE_BUFFER,
    Ints,
    Records,
)
from accelsim.hardware.machines.spatten_rtl.cycle._value_side import (
    step_merge,
    step_multiply,
    step_topk,
    step_value_fork,
)
from accelsim.hardware.memories.channel import Banks, Channels
from accelsim.hardware.memories.timing import Organisation
from accelsim.jit import in_place


@in_place
def run(
    s: Records,
    requests: Records,
    ring: Records,
    fetch: Records,
    port: Records,
    beats: Records,
    addresses: Records,
    indexes: Ints,
    dram: Channels,
    banks: Banks,
    org: Organisation,
    until: int,
    watchdog: int,
) -> bool:
    """Run to the last response or to cycle ``until``.

    Returns:
        False if no response came for ``watchdog`` cycles.
    """
    seen, since = s[0].responses, s[0].now
    while s[0].responses < s[0].count and s[0].now < until:
        step_multiply(s, requests, ring)
        step_reader(s, VALUE_BUFFER)
        step_writer(s, VALUE_BUFFER)
        step_issue(s, requests, fetch, port, beats, addresses, indexes)
        step_value_fork(s, requests, ring)
        step_topk(s, requests, ring)
        bypass_taken = step_merge(s, requests, ring)
        step_decided(s, requests, ring, bypass_taken)
        step_dot_product(s, requests, ring)
        step_reader(s, KEY_BUFFER)
        step_writer(s, KEY_BUFFER)
        step_key_fork(s, requests, ring)
        step_return(s, requests, fetch, port, beats)
        step_dram(s, port, dram, banks, org)
        s[0].now += 1
        if s[0].responses != seen:
            seen, since = s[0].responses, s[0].now
        elif s[0].now - since > watchdog:
            return False
    return True
