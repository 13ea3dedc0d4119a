"""Matrix fetcher, crossbar and DRAM ports (specification sections 2.6, 5.2 and 5.3)."""

from __future__ import annotations

from accelsim.hardware.memories._channel import (
    Banks,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
)
from accelsim.hardware.memories._timing import Organisation
from accelsim.hardware.spatten.cycle._state import (
    ADDRESSES_WAITING,
    B_ARRIVED,
    B_CHANNELS,
    B_LATEST,
    B_LOADED,
    B_TIME,
    BEAT_REGISTER,
    BEATS_IN_FLIGHT,
    BEATS_JOINED,
    BEATS_LOADED,
    BEATS_PUSHED,
    CONTEXT_HEAD,
    CONTEXT_RING,
    CONTEXT_TAIL,
    CONTEXTS,
    CONVERTED,
    CONVERTED_TAKEN,
    D_CHOICE,
    D_ID_HEAD,
    D_ID_TAIL,
    D_IDS,
    D_LOCK,
    D_OFFERED,
    D_PARKED,
    D_RESPONSE,
    ELEMENTS,
    F_ADDRESS,
    F_ARRIVED,
    F_DESTINATION,
    F_HEAD,
    F_HOLDER,
    F_SERVED,
    FETCH_LAST,
    FETCH_LOCK,
    FRAGMENT,
    FRAGMENT_BEAT,
    ID_RING,
    KEY_BUFFER,
    KEY_ROW_1,
    KEY_ROW_2,
    MASK,
    MSB,
    NEXT_BEAT,
    NOW,
    P_CHANNEL_BITS,
    P_CHANNELS,
    P_FETCH,
    P_ROTATION,
    P_ROW_BEATS,
    P_SCORES,
    POPS_DONE,
    Q_KEYS,
    REALIGNED,
    RESPONSES_WAITING,
    SHIFT,
    SPLIT,
    SPLIT_BEAT,
    VALUE,
    VALUE_BUFFER,
    VALUE_ROW_1,
    VALUE_ROW_2,
    W_COLUMNS,
    W_DATA_0,
    WRITERS,
    Ints,
    fragments,
    row_bits,
    row_vectors,
)
from accelsim.jit import inlined

KEY_BASE = 0x0AB10000
LSB_BASE = 0x0AB20000
VALUE_BASE = 0x0CD10000
REQUEST_STRIDE = 0x10000
"""Bases of the released test bench; one region of 64 KB a request (section 5.1)."""
ADDRESS_QUEUE = 16
RESPONSE_QUEUE = 64


@inlined
def step_issue(
    s: Ints, requests: Ints, fetch: Ints, port: Ints, beats: Ints, indexes: Ints
) -> None:
    """From the DRAM ports back to the index registers."""
    pushed = s[BEATS_PUSHED]
    room = pushed - s[BEATS_LOADED] < ADDRESS_QUEUE
    if s[ADDRESSES_WAITING]:
        _crossbar(s, fetch, port)
    if s[BEATS_LOADED] != pushed:
        _load_addresses(s, fetch, beats)
    if s[SPLIT] >= 0 and room:
        _push_beat(s, requests, beats, indexes)
        s[SPLIT] = -1
    if s[SPLIT] < 0:
        s[SPLIT] = s[FRAGMENT]
        s[SPLIT_BEAT] = s[FRAGMENT_BEAT]
        s[FRAGMENT] = -1
    _choose_matrix(s)
    if s[FRAGMENT] < 0 and s[FETCH_LOCK] >= 0:
        _take_row(s, requests)
    if s[KEY_ROW_2] < 0:
        s[KEY_ROW_2] = s[KEY_ROW_1]
        s[KEY_ROW_1] = -1
    if s[VALUE_ROW_2] < 0:
        s[VALUE_ROW_2] = s[VALUE_ROW_1]
        s[VALUE_ROW_1] = -1


@inlined
def _choose_matrix(s: Ints) -> None:
    """Round robin between keys and values; a matrix that is presented stays selected to its end."""
    if s[FETCH_LOCK] >= 0:
        return
    for turn in range(2):
        side = (s[FETCH_LAST] + 1 + turn) % 2
        if s[KEY_ROW_2 if side == 0 else VALUE_ROW_2] >= 0:
            s[FETCH_LOCK] = side
            s[FETCH_LAST] = side
            return


@inlined
def _take_row(s: Ints, requests: Ints) -> None:
    """The next beat of the selected matrix's row goes into the fragment register."""
    register = KEY_ROW_2 if s[FETCH_LOCK] == 0 else VALUE_ROW_2
    row = s[register]
    if row < 0:
        return
    s[FRAGMENT] = row
    s[FRAGMENT_BEAT] = s[NEXT_BEAT]
    if row & MASK == 0 and s[NEXT_BEAT] == 0:
        s[CONTEXTS + s[CONTEXT_TAIL] % CONTEXT_RING] = row
        s[CONTEXT_TAIL] += 1
    s[NEXT_BEAT] += 1
    if s[NEXT_BEAT] < fragments(row_bits(requests, row)):
        return
    s[NEXT_BEAT] = 0
    s[register] = -1
    if ((row & MASK) + 1) * s[P_FETCH] == row_vectors(requests, row):
        s[FETCH_LOCK] = -1


@inlined
def _push_beat(s: Ints, requests: Ints, beats: Ints, indexes: Ints) -> None:
    """Addresses of one beat: channel k carries transaction beat * C + k of the row."""
    row, beat = s[SPLIT], s[SPLIT_BEAT]
    request = row >> (SHIFT + 2)
    plane = (row >> SHIFT) & 3
    number = row & MASK
    pieces = fragments(row_bits(requests, row))
    channels, scores, row_beats = s[P_FETCH], s[P_SCORES], s[P_ROW_BEATS]
    slot = s[BEATS_PUSHED] % BEATS_IN_FLIGHT
    rotates = plane == VALUE and s[P_ROTATION] == 1
    if plane == VALUE:
        base = VALUE_BASE + request * REQUEST_STRIDE
    else:
        base = (KEY_BASE if plane == MSB else LSB_BASE) + request * REQUEST_STRIDE
    # The released index reload is off by one inside each row, and wrong for a request's last beat.
    last_group = requests[request, Q_KEYS] // scores - 1
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
        beats[slot, B_CHANNELS + 2 * k] = (address >> 5) & (s[P_CHANNELS] - 1)
        beats[slot, B_CHANNELS + 2 * k + 1] = (address >> (5 + s[P_CHANNEL_BITS])) << 5
        piece += 1
        if piece == pieces:
            piece = 0
            vector += 1
    beats[slot, B_TIME] = s[NOW]
    beats[slot, B_LOADED] = 0
    beats[slot, B_ARRIVED] = 0
    s[BEATS_PUSHED] += 1


@inlined
def _crossbar(s: Ints, fetch: Ints, port: Ints) -> None:
    """Each DRAM port takes the lowest waiting fetch channel, and keeps it until accepted."""
    channels = s[P_CHANNELS]
    for d in range(channels):
        port[d, D_CHOICE] = port[d, D_LOCK]
    for k in range(s[P_FETCH]):
        d = fetch[k, F_DESTINATION]
        if d >= 0 and port[d, D_CHOICE] < 0:
            port[d, D_CHOICE] = k
    for d in range(channels):
        k = port[d, D_CHOICE]
        if k < 0:
            continue
        if port[d, D_PARKED] >= 0:
            port[d, D_LOCK] = k
            continue
        port[d, D_LOCK] = -1
        port[d, D_OFFERED] = fetch[k, F_ADDRESS]
        fetch[k, F_DESTINATION] = -1
        s[ADDRESSES_WAITING] -= 1
        port[d, D_IDS + port[d, D_ID_TAIL] % ID_RING] = k
        port[d, D_ID_TAIL] += 1


@inlined
def _load_addresses(s: Ints, fetch: Ints, beats: Ints) -> None:
    """Each free read-address register takes the output of its address queue."""
    pushed, channels, now = s[BEATS_PUSHED], s[P_FETCH], s[NOW]
    for k in range(channels):
        head = fetch[k, F_HEAD]
        if fetch[k, F_DESTINATION] >= 0 or head == pushed:
            continue
        slot = head % BEATS_IN_FLIGHT
        if beats[slot, B_TIME] + 2 <= now:
            fetch[k, F_DESTINATION] = beats[slot, B_CHANNELS + 2 * k]
            fetch[k, F_ADDRESS] = beats[slot, B_CHANNELS + 2 * k + 1]
            fetch[k, F_HEAD] = head + 1
            s[ADDRESSES_WAITING] += 1
            beats[slot, B_LOADED] += 1
            # Queues are in order, so the slowest is past a beat when all have loaded it.
            if beats[slot, B_LOADED] == channels:
                s[BEATS_LOADED] += 1


@inlined
def step_return(s: Ints, requests: Ints, fetch: Ints, port: Ints, beats: Ints) -> None:
    """From the buffer write-data registers back to the DRAM response registers."""
    context = s[CONVERTED]
    if context >= 0:
        buffer = VALUE_BUFFER if (context >> SHIFT) & 3 == VALUE else KEY_BUFFER
        data = WRITERS + buffer * W_COLUMNS + W_DATA_0
        for side in range(2):
            if s[data + side] == 0 and not s[CONVERTED_TAKEN] >> side & 1:
                s[data + side] = 1
                s[CONVERTED_TAKEN] |= 1 << side
        if s[CONVERTED_TAKEN] == 3:
            s[CONVERTED] = -1
            s[CONVERTED_TAKEN] = 0
    if s[CONVERTED] < 0:
        s[CONVERTED] = s[REALIGNED]
        s[REALIGNED] = -1
    _realign(s, requests)
    joined = s[BEATS_JOINED]
    if s[BEAT_REGISTER] == 0 and joined != s[BEATS_PUSHED]:
        slot = joined % BEATS_IN_FLIGHT
        if beats[slot, B_ARRIVED] == s[P_FETCH] and beats[slot, B_LATEST] + 2 <= s[NOW]:
            s[BEAT_REGISTER] = 1
            s[BEATS_JOINED] = joined + 1
    if s[RESPONSES_WAITING]:
        _take_responses(s, fetch, port, beats, joined)


@inlined
def _realign(s: Ints, requests: Ints) -> None:
    elements = s[ELEMENTS]
    if s[REALIGNED] < 0 and elements > 0:
        context = s[CONTEXTS + s[CONTEXT_HEAD] % CONTEXT_RING]
        bits = row_bits(requests, context)
        size = bits // 2
        if elements >= size:
            s[REALIGNED] = context
            s[ELEMENTS] -= size
            s[POPS_DONE] += 1
            vectors = row_vectors(requests, context)
            if s[POPS_DONE] * size * s[P_SCORES] == vectors * fragments(bits):
                s[POPS_DONE] = 0
                s[CONTEXT_HEAD] += 1
    beats = s[P_ROW_BEATS]
    if s[BEAT_REGISTER] and elements + beats <= 2 * max(beats, 4):
        s[ELEMENTS] += beats
        s[BEAT_REGISTER] = 0


@inlined
def _take_responses(s: Ints, fetch: Ints, port: Ints, beats: Ints, joined: int) -> None:
    """Responses go to fetch channels in the order of the requests, one a fetch channel.

    The lowest DRAM channel first, unless another already waits for the same fetch channel.
    """
    now = s[NOW]
    for d in range(s[P_CHANNELS]):
        if port[d, D_RESPONSE] == 0:
            continue
        k = port[d, D_IDS + port[d, D_ID_HEAD] % ID_RING]
        arrived = fetch[k, F_ARRIVED]
        holder = fetch[k, F_HOLDER]
        if fetch[k, F_SERVED] == now or (holder >= 0 and holder != d):
            continue
        if arrived - joined >= RESPONSE_QUEUE:
            fetch[k, F_HOLDER] = d
            continue
        fetch[k, F_HOLDER] = -1
        slot = arrived % BEATS_IN_FLIGHT
        fetch[k, F_SERVED] = now
        fetch[k, F_ARRIVED] = arrived + 1
        beats[slot, B_ARRIVED] += 1
        beats[slot, B_LATEST] = now
        port[d, D_RESPONSE] = 0
        port[d, D_ID_HEAD] += 1
        s[RESPONSES_WAITING] -= 1


@inlined
def step_dram(s: Ints, port: Ints, dram: Channels, banks: Banks, org: Organisation) -> None:
    """The clock edge of every DRAM channel: push, pop, tick."""
    now = s[NOW]
    for d in range(s[P_CHANNELS]):
        dram[d].tick = now
        if port[d, D_PARKED] < 0:
            port[d, D_PARKED] = port[d, D_OFFERED]
            port[d, D_OFFERED] = -1
        if port[d, D_PARKED] >= 0 and channel_can_push(dram, org, d):
            channel_push(dram, banks, org, d, port[d, D_PARKED], 0, False)
            port[d, D_PARKED] = -1
        if port[d, D_RESPONSE] == 0 and dram[d].done_head != dram[d].done_tail:
            channel_pop(dram, d)
            port[d, D_RESPONSE] = 1
            s[RESPONSES_WAITING] += 1
        if now + 1 >= dram[d].next_event:
            channel_tick(dram, banks, org, d)
