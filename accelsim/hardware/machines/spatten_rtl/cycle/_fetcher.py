"""Matrix fetcher, crossbar and DRAM ports (specification sections 2.6, 5.2 and 5.3)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.cycle._state import (
    BEATS_IN_FLIGHT,
    CONTEXT_RING,
    ID_RING,
    KEY_BUFFER,
    MASK,
    MSB,
    SHIFT,
    VALUE,
    VALUE_BUFFER,
    Ints,
    Records,
    fragments,
    row_bits,
    row_vectors,
)
from accelsim.hardware.machines.spatten_rtl.facts import (
    ADDRESS_FIFO,
    ADDRESS_LATENCY,
    KEY_BASE,
    LSB_BASE,
    REQUEST_STRIDE,
    RESPONSE_FIFO,
    VALUE_BASE,
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


@inlined
def step_issue(
    s: Records,
    requests: Records,
    fetch: Records,
    port: Records,
    beats: Records,
    addresses: Records,
    indexes: Ints,
) -> None:
    """From the DRAM ports back to the index registers."""
    pushed = s[0].beats_pushed
    room = pushed - s[0].beats_loaded < ADDRESS_FIFO
    if s[0].addresses_waiting:
        _crossbar(s, fetch, port)
    if s[0].beats_loaded != pushed:
        _load_addresses(s, fetch, beats, addresses)
    if s[0].split >= 0 and room:
        _push_beat(s, requests, beats, addresses, indexes)
        s[0].split = -1
    if s[0].split < 0:
        s[0].split = s[0].fragment
        s[0].split_beat = s[0].fragment_beat
        s[0].fragment = -1
    _choose_matrix(s)
    if s[0].fragment < 0 and s[0].fetch_lock >= 0:
        _take_row(s, requests)
    if s[0].key_row_2 < 0:
        s[0].key_row_2 = s[0].key_row_1
        s[0].key_row_1 = -1
    if s[0].value_row_2 < 0:
        s[0].value_row_2 = s[0].value_row_1
        s[0].value_row_1 = -1


@inlined
def _choose_matrix(s: Records) -> None:
    """Round robin between keys and values; a matrix that is presented stays selected to its end."""
    if s[0].fetch_lock >= 0:
        return
    for turn in range(2):
        side = (s[0].fetch_last + 1 + turn) % 2
        if (s[0].key_row_2 if side == 0 else s[0].value_row_2) >= 0:
            s[0].fetch_lock = side
            s[0].fetch_last = side
            return


@inlined
def _take_row(s: Records, requests: Records) -> None:
    """The next beat of the selected matrix's row goes into the fragment register."""
    row = s[0].key_row_2 if s[0].fetch_lock == 0 else s[0].value_row_2
    if row < 0:
        return
    s[0].fragment = row
    s[0].fragment_beat = s[0].next_beat
    if row & MASK == 0 and s[0].next_beat == 0:
        s[0].contexts[s[0].context_tail % CONTEXT_RING] = row
        s[0].context_tail += 1
    s[0].next_beat += 1
    if s[0].next_beat < fragments(row_bits(requests, row)):
        return
    s[0].next_beat = 0
    if s[0].fetch_lock == 0:
        s[0].key_row_2 = -1
    else:
        s[0].value_row_2 = -1
    if ((row & MASK) + 1) * s[0].fetch_channels == row_vectors(requests, row):
        s[0].fetch_lock = -1


@inlined
def _push_beat(
    s: Records, requests: Records, beats: Records, addresses: Records, indexes: Ints
) -> None:
    """Addresses of one beat: channel k carries transaction beat * C + k of the row."""
    row, beat = s[0].split, s[0].split_beat
    request = row >> (SHIFT + 2)
    plane = (row >> SHIFT) & 3
    number = row & MASK
    pieces = fragments(row_bits(requests, row))
    channels, scores, row_beats = s[0].fetch_channels, s[0].line_scores, s[0].row_beats
    slot = s[0].beats_pushed % BEATS_IN_FLIGHT
    rotates = plane == VALUE and s[0].rotates == 1
    if plane == VALUE:
        base = VALUE_BASE + request * REQUEST_STRIDE
    else:
        base = (KEY_BASE if plane == MSB else LSB_BASE) + request * REQUEST_STRIDE
    # The released index reload is off by one inside each row, and wrong for a request's last beat.
    last_group = requests[request].keys // scores - 1
    vector = beat * channels // pieces
    piece = beat * channels - vector * pieces
    for k in range(channels):
        lane = vector
        if rotates:
            group = vector // scores
            lane = vector - group * scores
            if number * row_beats + group != last_group:
                group += 1
                if group == row_beats:
                    group = 0
                lane += group * scores
        index = indexes[number * channels + lane]
        address = base + (index * pieces + piece) * 32
        addresses[slot, k].destination = (address >> 5) & (s[0].channels - 1)
        addresses[slot, k].address = (address >> (5 + s[0].channel_bits)) << 5
        piece += 1
        if piece == pieces:
            piece = 0
            vector += 1
    beats[slot].pushed = s[0].now
    beats[slot].loaded = 0
    beats[slot].arrived = 0
    s[0].beats_pushed += 1


@inlined
def _crossbar(s: Records, fetch: Records, port: Records) -> None:
    """Each DRAM port takes the lowest waiting fetch channel, and keeps it until accepted."""
    channels = s[0].channels
    for d in range(channels):
        port[d].choice = port[d].lock
    for k in range(s[0].fetch_channels):
        d = fetch[k].destination
        if d >= 0 and port[d].choice < 0:
            port[d].choice = k
    for d in range(channels):
        k = port[d].choice
        if k < 0:
            continue
        if port[d].parked >= 0:
            port[d].lock = k
            continue
        port[d].lock = -1
        port[d].offered = fetch[k].address
        fetch[k].destination = -1
        s[0].addresses_waiting -= 1
        port[d].ids[port[d].id_tail % ID_RING] = k
        port[d].id_tail += 1


@inlined
def _load_addresses(s: Records, fetch: Records, beats: Records, addresses: Records) -> None:
    """Each free read-address register takes the output of its address queue."""
    pushed, channels, now = s[0].beats_pushed, s[0].fetch_channels, s[0].now
    for k in range(channels):
        head = fetch[k].head
        if fetch[k].destination >= 0 or head == pushed:
            continue
        slot = head % BEATS_IN_FLIGHT
        if beats[slot].pushed + ADDRESS_LATENCY <= now:
            fetch[k].destination = addresses[slot, k].destination
            fetch[k].address = addresses[slot, k].address
            fetch[k].head = head + 1
            s[0].addresses_waiting += 1
            beats[slot].loaded += 1
            # Queues are in order, so the slowest is past a beat when all have loaded it.
            if beats[slot].loaded == channels:
                s[0].beats_loaded += 1


@inlined
def step_return(
    s: Records, requests: Records, fetch: Records, port: Records, beats: Records
) -> None:
    """From the buffer write-data registers back to the DRAM response registers."""
    context = s[0].converted
    if context >= 0:
        buffer = VALUE_BUFFER if (context >> SHIFT) & 3 == VALUE else KEY_BUFFER
        data = s[0].writers[buffer].data
        for side in range(2):
            if data[side] == 0 and not s[0].converted_taken >> side & 1:
                data[side] = 1
                s[0].converted_taken |= 1 << side
        if s[0].converted_taken == 3:
            s[0].converted = -1
            s[0].converted_taken = 0
    if s[0].converted < 0:
        s[0].converted = s[0].realigned
        s[0].realigned = -1
    _realign(s, requests)
    joined = s[0].beats_joined
    if s[0].beat_register == 0 and joined != s[0].beats_pushed:
        slot = joined % BEATS_IN_FLIGHT
        if beats[slot].arrived == s[0].fetch_channels and beats[slot].latest + 2 <= s[0].now:
            s[0].beat_register = 1
            s[0].beats_joined = joined + 1
    if s[0].responses_waiting:
        _take_responses(s, fetch, port, beats, joined)


@inlined
def _realign(s: Records, requests: Records) -> None:
    elements = s[0].elements
    if s[0].realigned < 0 and elements > 0:
        context = s[0].contexts[s[0].context_head % CONTEXT_RING]
        bits = row_bits(requests, context)
        size = bits // 2
        if elements >= size:
            s[0].realigned = context
            s[0].elements -= size
            s[0].pops_done += 1
            vectors = row_vectors(requests, context)
            if s[0].pops_done * size * s[0].line_scores == vectors * fragments(bits):
                s[0].pops_done = 0
                s[0].context_head += 1
    beats = s[0].row_beats
    if s[0].beat_register and elements + beats <= 2 * max(beats, 4):
        s[0].elements += beats
        s[0].beat_register = 0


@inlined
def _take_responses(s: Records, fetch: Records, port: Records, beats: Records, joined: int) -> None:
    """Responses go to fetch channels in the order of the requests, one a fetch channel.

    The lowest DRAM channel first, unless another already waits for the same fetch channel.
    """
    now = s[0].now
    for d in range(s[0].channels):
        if port[d].response == 0:
            continue
        k = port[d].ids[port[d].id_head % ID_RING]
        arrived = fetch[k].arrived
        holder = fetch[k].holder
        if fetch[k].served == now or (holder >= 0 and holder != d):
            continue
        if arrived - joined >= RESPONSE_FIFO:
            fetch[k].holder = d
            continue
        fetch[k].holder = -1
        slot = arrived % BEATS_IN_FLIGHT
        fetch[k].served = now
        fetch[k].arrived = arrived + 1
        beats[slot].arrived += 1
        beats[slot].latest = now
        port[d].response = 0
        port[d].id_head += 1
        s[0].responses_waiting -= 1


@inlined
def step_dram(s: Records, port: Records, dram: Channels, banks: Banks, org: Organisation) -> None:
    """The clock edge of every DRAM channel: push, pop, tick."""
    now = s[0].now
    for d in range(s[0].channels):
        dram[d].tick = now
        if port[d].parked < 0:
            port[d].parked = port[d].offered
            port[d].offered = -1
        if port[d].parked >= 0 and channel_can_push(dram, org, d):
            channel_push(dram, banks, org, d, port[d].parked, 0, False)
            port[d].parked = -1
        if port[d].response == 0 and dram[d].done_head != dram[d].done_tail:
            channel_pop(dram, d)
            port[d].response = 1
            s[0].responses_waiting += 1
        if now + 1 >= dram[d].next_event:
            channel_tick(dram, banks, org, d)
