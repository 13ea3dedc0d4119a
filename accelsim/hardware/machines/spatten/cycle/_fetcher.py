"""Matrix fetcher, crossbar and DRAM ports (page, section 4; rel. 2.6, 5.2 and 5.3)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._state import (
    ADDRESS_MOST,
    ADDRESSES_WAITING,
    B_ARRIVED,
    B_COUNT,
    B_FIRST,
    B_JOIN,
    B_LATEST,
    B_LOADED,
    B_REQUEST,
    B_TIME,
    BUSY_FETCHER,
    CURRENT,
    CURRENT_TX,
    D_CHOICE,
    D_ID_HEAD,
    D_ID_TAIL,
    D_IDS,
    D_LOCK,
    D_OFFERED,
    D_PARKED,
    D_RESPONSE,
    DRAM_NEXT,
    F_ADDRESS,
    F_ARRIVED,
    F_DESTINATION,
    F_HEAD,
    F_SERVED,
    IN_DRAM,
    J_BEATS,
    J_FILTER,
    JOINED,
    KEY_REQ_HEAD,
    KEY_REQ_TAIL,
    LOADED,
    NEVER,
    NOW,
    P_ADDRESS_FIFO,
    P_CHANNEL_BITS,
    P_CHANNELS,
    P_GRADUAL,
    P_ID_MASK,
    P_PORTS,
    P_RESPONSE_FIFO,
    P_RING_MASK,
    P_TX_TOTAL,
    PROGRESS,
    PUSHED,
    R_ARRIVES,
    R_BEAT_0,
    R_BEATS,
    R_LENGTH,
    R_LENGTH_2,
    R_PIECE,
    R_START,
    R_START_2,
    R_TX_BASE,
    RESPONSE_MOST,
    RESPONSES_WAITING,
    VALUE_FORK_TO_FETCHER,
    VALUE_REQ_HEAD,
    VALUE_REQ_TAIL,
    Ints,
)
from accelsim.hardware.memories._channel import (
    Banks,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
)
from accelsim.hardware.memories._timing import Organisation
from accelsim.jit import inlined

FIFO_LATENCY = 2
"""From a push into a FIFO to its output (rel. 2.2)."""


@inlined
def step_fetcher(
    s: Ints,
    requests: Ints,
    pieces: Ints,
    jobs: Ints,
    key_requests: Ints,
    value_requests: Ints,
    transactions: Ints,
    joined: Ints,
    beats: Ints,
    ports: Ints,
    channels: Ints,
    dram: Channels,
    banks: Banks,
    org: Organisation,
) -> None:
    """One cycle, from the DRAM ports back to the queues of requests, and the way back."""
    room = s[PUSHED] - s[LOADED] < s[P_ADDRESS_FIFO]
    if s[ADDRESSES_WAITING]:
        _crossbar(s, ports, channels)
    if s[LOADED] != s[PUSHED]:
        _load_addresses(s, requests, transactions, beats, ports)
    if room:
        _push_beat(s, requests, pieces, jobs, key_requests, value_requests, beats)
    if s[JOINED] != s[PUSHED]:
        before = s[JOINED]
        _join(s, joined, beats)
        if s[RESPONSES_WAITING]:
            _take_responses(s, beats, ports, channels, before)
    if s[IN_DRAM] or s[NOW] + 1 >= s[DRAM_NEXT]:
        _step_dram(s, channels, dram, banks, org)


@inlined
def _next_request(s: Ints, requests: Ints, key_requests: Ints, value_requests: Ints) -> int:
    """The request that reached the fetcher first (keys before values), or -1."""
    chosen, first = -1, s[NOW] + 1
    if s[KEY_REQ_HEAD] != s[KEY_REQ_TAIL]:
        request = key_requests[s[KEY_REQ_HEAD]]
        if requests[request, R_ARRIVES] < first:
            chosen, first = request, requests[request, R_ARRIVES]
    if s[VALUE_REQ_HEAD] != s[VALUE_REQ_TAIL]:
        request = value_requests[s[VALUE_REQ_HEAD]]
        if requests[request, R_ARRIVES] < first:
            s[VALUE_REQ_HEAD] += 1
            return int(request)
    if chosen >= 0:
        s[KEY_REQ_HEAD] += 1
    return int(chosen)


@inlined
def _known(s: Ints, requests: Ints, pieces: Ints, jobs: Ints, request: int) -> int:
    """Transactions of a request that the filter has made known to the fetcher."""
    piece = requests[request, R_PIECE]
    length = requests[request, R_LENGTH] + requests[request, R_LENGTH_2]
    if piece < 0:
        return int(length)
    job = pieces[piece, P_GRADUAL]
    passed = s[NOW] - VALUE_FORK_TO_FETCHER - jobs[job, J_FILTER] + 1
    beats = jobs[job, J_BEATS]
    if passed >= beats:
        return int(length)
    if passed <= 0:
        return 0
    known = pieces[piece, P_TX_TOTAL] * passed // beats - requests[request, R_TX_BASE]
    return int(min(length, max(known, 0)))


@inlined
def _push_beat(
    s: Ints,
    requests: Ints,
    pieces: Ints,
    jobs: Ints,
    key_requests: Ints,
    value_requests: Ints,
    beats: Ints,
) -> None:
    """Addresses of one beat: port k takes transaction beat x C + k of the request."""
    request = s[CURRENT]
    if request < 0:
        request = _next_request(s, requests, key_requests, value_requests)
        if request < 0:
            return
        s[CURRENT] = request
        s[CURRENT_TX] = 0
    length = requests[request, R_LENGTH] + requests[request, R_LENGTH_2]
    first = s[CURRENT_TX]
    count = min(s[P_PORTS], length - first)
    if _known(s, requests, pieces, jobs, request) < first + count:
        return
    slot = s[PUSHED] & s[P_RING_MASK]
    beats[slot, B_TIME] = s[NOW]
    beats[slot, B_REQUEST] = request
    beats[slot, B_FIRST] = first
    beats[slot, B_COUNT] = count
    beats[slot, B_LOADED] = 0
    beats[slot, B_ARRIVED] = 0
    beats[slot, B_JOIN] = requests[request, R_BEAT_0] + first // s[P_PORTS]
    s[PUSHED] += 1
    s[ADDRESS_MOST] = max(s[ADDRESS_MOST], s[PUSHED] - s[LOADED])
    s[BUSY_FETCHER] += 1
    s[PROGRESS] += 1
    requests[request, R_BEATS] += 1
    s[CURRENT_TX] = first + count
    if first + count == length:
        s[CURRENT] = -1


@inlined
def _load_addresses(s: Ints, requests: Ints, transactions: Ints, beats: Ints, ports: Ints) -> None:
    """Each free address register takes the output of its FIFO; padding goes no further.

    A port asks for no more than its response FIFO holds: else what runs ahead would stand in
    front of the response that the oldest beat waits for.
    """
    width, now, mask = s[P_PORTS], s[NOW], s[P_RING_MASK]
    mine, shift = s[P_CHANNELS] - 1, 5 + s[P_CHANNEL_BITS]
    pushed = min(s[PUSHED], s[JOINED] + s[P_RESPONSE_FIFO])
    for k in range(width):
        head = ports[k, F_HEAD]
        if ports[k, F_DESTINATION] >= 0 or head >= pushed:
            continue
        slot = head & mask
        if beats[slot, B_TIME] + FIFO_LATENCY > now:
            continue
        ports[k, F_HEAD] = head + 1
        beats[slot, B_LOADED] += 1
        # FIFOs are in order, so the slowest is past a beat when all ports have loaded it.
        if beats[slot, B_LOADED] == width:
            s[LOADED] += 1
        if k >= beats[slot, B_COUNT]:
            continue
        request = beats[slot, B_REQUEST]
        x = beats[slot, B_FIRST] + k
        if x < requests[request, R_LENGTH]:
            address = transactions[requests[request, R_START] + x]
        else:
            at = requests[request, R_START_2] + x - requests[request, R_LENGTH]
            address = transactions[at]
        ports[k, F_DESTINATION] = (address >> 5) & mine
        ports[k, F_ADDRESS] = (address >> shift) << 5
        s[ADDRESSES_WAITING] += 1


@inlined
def _crossbar(s: Ints, ports: Ints, channels: Ints) -> None:
    """Each DRAM port takes the lowest waiting port of the fetcher, kept until accepted."""
    count = s[P_CHANNELS]
    for d in range(count):
        channels[d, D_CHOICE] = channels[d, D_LOCK]
    for k in range(s[P_PORTS]):
        d = ports[k, F_DESTINATION]
        if d >= 0 and channels[d, D_CHOICE] < 0:
            channels[d, D_CHOICE] = k
    for d in range(count):
        k = channels[d, D_CHOICE]
        if k < 0:
            continue
        if channels[d, D_PARKED] >= 0:
            channels[d, D_LOCK] = k
            continue
        channels[d, D_LOCK] = -1
        channels[d, D_OFFERED] = ports[k, F_ADDRESS]
        ports[k, F_DESTINATION] = -1
        s[ADDRESSES_WAITING] -= 1
        s[IN_DRAM] += 1
        channels[d, D_IDS + (channels[d, D_ID_TAIL] & s[P_ID_MASK])] = k
        channels[d, D_ID_TAIL] += 1


@inlined
def _join(s: Ints, joined: Ints, beats: Ints) -> None:
    """The oldest beat is whole: it leaves the response FIFOs for the register behind."""
    slot = s[JOINED] & s[P_RING_MASK]
    if beats[slot, B_ARRIVED] != beats[slot, B_COUNT]:
        return
    if beats[slot, B_LATEST] + FIFO_LATENCY > s[NOW]:
        return
    joined[beats[slot, B_JOIN]] = s[NOW] + 1
    s[JOINED] += 1
    s[PROGRESS] += 1


@inlined
def _take_responses(s: Ints, beats: Ints, ports: Ints, channels: Ints, joined: int) -> None:
    """Responses go to the ports in the order of the requests, one a port and cycle."""
    now = s[NOW]
    for d in range(s[P_CHANNELS]):
        if channels[d, D_RESPONSE] == 0:
            continue
        k = channels[d, D_IDS + (channels[d, D_ID_HEAD] & s[P_ID_MASK])]
        if ports[k, F_SERVED] == now:
            continue
        # Padding in front of the response needs nothing.
        arrived = max(ports[k, F_ARRIVED], s[JOINED])
        while beats[arrived & s[P_RING_MASK], B_COUNT] <= k:
            arrived += 1
        ports[k, F_ARRIVED] = arrived
        slot = arrived & s[P_RING_MASK]
        ports[k, F_SERVED] = now
        ports[k, F_ARRIVED] = arrived + 1
        beats[slot, B_ARRIVED] += 1
        beats[slot, B_LATEST] = now
        s[RESPONSE_MOST] = max(s[RESPONSE_MOST], arrived + 1 - joined)
        channels[d, D_RESPONSE] = 0
        channels[d, D_ID_HEAD] += 1
        s[RESPONSES_WAITING] -= 1
        s[IN_DRAM] -= 1


@inlined
def _step_dram(s: Ints, channels: Ints, dram: Channels, banks: Banks, org: Organisation) -> None:
    """The clock edge of every DRAM channel: push, pop, tick."""
    now, following = s[NOW], NEVER
    for d in range(s[P_CHANNELS]):
        dram[d].tick = now
        if channels[d, D_PARKED] < 0:
            channels[d, D_PARKED] = channels[d, D_OFFERED]
            channels[d, D_OFFERED] = -1
        if channels[d, D_PARKED] >= 0 and channel_can_push(dram, org, d):
            channel_push(dram, banks, org, d, channels[d, D_PARKED], 0, False)
            channels[d, D_PARKED] = -1
        if channels[d, D_RESPONSE] == 0 and dram[d].done_head != dram[d].done_tail:
            channel_pop(dram, d)
            channels[d, D_RESPONSE] = 1
            s[RESPONSES_WAITING] += 1
        if now + 1 >= dram[d].next_event:
            channel_tick(dram, banks, org, d)
        following = min(following, dram[d].next_event)
    s[DRAM_NEXT] = following
