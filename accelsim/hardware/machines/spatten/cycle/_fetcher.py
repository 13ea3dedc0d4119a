"""Matrix fetcher, crossbar and DRAM ports (page, section 4; rel. 2.6, 5.2 and 5.3)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._state import (
    ID_MASK,
    NEVER,
    VALUE_FORK_TO_FETCHER,
    Ints,
    Records,
)
from accelsim.hardware.memories.channel import (
    Banks,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
)
from accelsim.hardware.memories.timing import Organisation
from accelsim.jit import inlined

FIFO_LATENCY = 2
"""From a push into a FIFO to its output (rel. 2.2)."""


@inlined
def step_fetcher(
    s: Records,
    requests: Records,
    pieces: Records,
    jobs: Records,
    key_requests: Ints,
    value_requests: Ints,
    transactions: Ints,
    joined: Ints,
    beats: Records,
    ports: Records,
    channels: Records,
    dram: Channels,
    banks: Banks,
    org: Organisation,
) -> None:
    """One cycle, from the DRAM ports back to the queues of requests, and the way back."""
    room = s[0].pushed - s[0].loaded < s[0].address_fifo
    if s[0].addresses_waiting:
        _crossbar(s, ports, channels)
    if s[0].loaded != s[0].pushed:
        _load_addresses(s, requests, transactions, beats, ports)
    if room:
        _push_beat(s, requests, pieces, jobs, key_requests, value_requests, beats)
    if s[0].joined != s[0].pushed:
        before = s[0].joined
        _join(s, joined, beats)
        if s[0].responses_waiting:
            _take_responses(s, beats, ports, channels, before)
    if s[0].in_dram or s[0].now + 1 >= s[0].dram_next:
        _step_dram(s, channels, dram, banks, org)


@inlined
def _next_request(s: Records, requests: Records, key_requests: Ints, value_requests: Ints) -> int:
    """The request that reached the fetcher first (keys before values), or -1."""
    chosen, first = -1, s[0].now + 1
    if s[0].key_req_head != s[0].key_req_tail:
        request = key_requests[s[0].key_req_head]
        if requests[request].arrives < first:
            chosen, first = request, requests[request].arrives
    if s[0].value_req_head != s[0].value_req_tail:
        request = value_requests[s[0].value_req_head]
        if requests[request].arrives < first:
            s[0].value_req_head += 1
            return int(request)
    if chosen >= 0:
        s[0].key_req_head += 1
    return int(chosen)


@inlined
def _known(s: Records, requests: Records, pieces: Records, jobs: Records, request: int) -> int:
    """Transactions of a request that the filter has made known to the fetcher."""
    piece = requests[request].piece
    length = requests[request].length + requests[request].length_2
    if piece < 0:
        return int(length)
    job = pieces[piece].gradual
    passed = s[0].now - VALUE_FORK_TO_FETCHER - jobs[job].filter + 1
    beats = jobs[job].beats
    if passed >= beats:
        return int(length)
    if passed <= 0:
        return 0
    known = pieces[piece].tx_total * passed // beats - requests[request].tx_base
    return int(min(length, max(known, 0)))


@inlined
def _push_beat(
    s: Records,
    requests: Records,
    pieces: Records,
    jobs: Records,
    key_requests: Ints,
    value_requests: Ints,
    beats: Records,
) -> None:
    """Addresses of one beat: port k takes transaction beat x C + k of the request."""
    request = s[0].current
    if request < 0:
        request = _next_request(s, requests, key_requests, value_requests)
        if request < 0:
            return
        s[0].current = request
        s[0].current_tx = 0
    length = requests[request].length + requests[request].length_2
    first = s[0].current_tx
    count = min(s[0].ports, length - first)
    if _known(s, requests, pieces, jobs, request) < first + count:
        return
    slot = s[0].pushed & s[0].ring_mask
    beats[slot].pushed = s[0].now
    beats[slot].request = request
    beats[slot].first = first
    beats[slot].count = count
    beats[slot].loaded = 0
    beats[slot].arrived = 0
    beats[slot].join = requests[request].beat_0 + first // s[0].ports
    s[0].pushed += 1
    s[0].address_most = max(s[0].address_most, s[0].pushed - s[0].loaded)
    s[0].busy_fetcher += 1
    s[0].progress += 1
    requests[request].beats += 1
    s[0].current_tx = first + count
    if first + count == length:
        s[0].current = -1


@inlined
def _load_addresses(
    s: Records, requests: Records, transactions: Ints, beats: Records, ports: Records
) -> None:
    """Each free address register takes the output of its FIFO; padding goes no further.

    A port asks for no more than its response FIFO holds: else what runs ahead would stand in
    front of the response that the oldest beat waits for.
    """
    width, now, mask = s[0].ports, s[0].now, s[0].ring_mask
    mine, shift = s[0].channels - 1, 5 + s[0].channel_bits
    pushed = min(s[0].pushed, s[0].joined + s[0].response_fifo)
    for k in range(width):
        head = ports[k].head
        if ports[k].destination >= 0 or head >= pushed:
            continue
        slot = head & mask
        if beats[slot].pushed + FIFO_LATENCY > now:
            continue
        ports[k].head = head + 1
        beats[slot].loaded += 1
        # FIFOs are in order, so the slowest is past a beat when all ports have loaded it.
        if beats[slot].loaded == width:
            s[0].loaded += 1
        if k >= beats[slot].count:
            continue
        request = beats[slot].request
        x = beats[slot].first + k
        if x < requests[request].length:
            address = transactions[requests[request].start + x]
        else:
            at = requests[request].start_2 + x - requests[request].length
            address = transactions[at]
        ports[k].destination = (address >> 5) & mine
        ports[k].address = (address >> shift) << 5
        s[0].addresses_waiting += 1


@inlined
def _crossbar(s: Records, ports: Records, channels: Records) -> None:
    """Each DRAM port takes the lowest waiting port of the fetcher, kept until accepted."""
    count = s[0].channels
    for d in range(count):
        channels[d].choice = channels[d].lock
    for k in range(s[0].ports):
        d = ports[k].destination
        if d >= 0 and channels[d].choice < 0:
            channels[d].choice = k
    for d in range(count):
        k = channels[d].choice
        if k < 0:
            continue
        if channels[d].parked >= 0:
            channels[d].lock = k
            continue
        channels[d].lock = -1
        channels[d].offered = ports[k].address
        ports[k].destination = -1
        s[0].addresses_waiting -= 1
        s[0].in_dram += 1
        channels[d].ids[channels[d].id_tail & ID_MASK] = k
        channels[d].id_tail += 1


@inlined
def _join(s: Records, joined: Ints, beats: Records) -> None:
    """The oldest beat is whole: it leaves the response FIFOs for the register behind."""
    slot = s[0].joined & s[0].ring_mask
    if beats[slot].arrived != beats[slot].count:
        return
    if beats[slot].latest + FIFO_LATENCY > s[0].now:
        return
    joined[beats[slot].join] = s[0].now + 1
    s[0].joined += 1
    s[0].progress += 1


@inlined
def _take_responses(
    s: Records, beats: Records, ports: Records, channels: Records, joined: int
) -> None:
    """Responses go to the ports in the order of the requests, one a port and cycle."""
    now = s[0].now
    for d in range(s[0].channels):
        if channels[d].response == 0:
            continue
        k = channels[d].ids[channels[d].id_head & ID_MASK]
        if ports[k].served == now:
            continue
        # Padding in front of the response needs nothing.
        arrived = max(ports[k].arrived, s[0].joined)
        while beats[arrived & s[0].ring_mask].count <= k:
            arrived += 1
        ports[k].arrived = arrived
        slot = arrived & s[0].ring_mask
        ports[k].served = now
        ports[k].arrived = arrived + 1
        beats[slot].arrived += 1
        beats[slot].latest = now
        s[0].response_most = max(s[0].response_most, arrived + 1 - joined)
        channels[d].response = 0
        channels[d].id_head += 1
        s[0].responses_waiting -= 1
        s[0].in_dram -= 1


@inlined
def _step_dram(
    s: Records, channels: Records, dram: Channels, banks: Banks, org: Organisation
) -> None:
    """The clock edge of every DRAM channel: push, pop, tick."""
    now, following = s[0].now, NEVER
    for d in range(s[0].channels):
        dram[d].tick = now
        if channels[d].parked < 0:
            channels[d].parked = channels[d].offered
            channels[d].offered = -1
        if channels[d].parked >= 0 and channel_can_push(dram, org, d):
            channel_push(dram, banks, org, d, channels[d].parked, 0, False)
            channels[d].parked = -1
        if channels[d].response == 0 and dram[d].done_head != dram[d].done_tail:
            channel_pop(dram, d)
            channels[d].response = 1
            s[0].responses_waiting += 1
        if now + 1 >= dram[d].next_event:
            channel_tick(dram, banks, org, d)
        following = min(following, dram[d].next_event)
    s[0].dram_next = following
