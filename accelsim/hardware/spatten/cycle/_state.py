"""State of the cycle engine: a few flat int64 arrays, and the queue primitives built on them.

A cycle is evaluated from the sinks to the sources. A pipeline register that its consumer empties in
a cycle can therefore be refilled in the same cycle, and what enters it is seen only in the next
one: exactly a register with combinational ready (specification section 2.2). Queues take two cycles
from push to pop, and are full by the number of entries at the start of the cycle.

A score *beat* travels as ``item << 16 | beat`` with ``item = 2 * request + lsb_pass``; a row of
token indexes as ``(4 * request + plane) << 16 | row`` with the planes below. -1 is an empty
register.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._channel import Banks, Channels
from accelsim.hardware.memories._timing import Organisation
from accelsim.jit import inlined

Ints = NDArray[np.int64]

SHIFT = 16
MASK = (1 << SHIFT) - 1
MSB, LSB, VALUE = 0, 1, 2
"""Planes: first key pass, requantization pass, value."""
KEY_BUFFER, VALUE_BUFFER = 0, 1
WRITE_TAKEN, FETCH_TAKEN, READ_TAKEN, LAST_TAKEN = 1, 2, 4, 8
"""Branches of the two forks that have taken the item; the last is the dot product's, or the score
queue's."""
ALL_TAKEN = 15
BEATS_IN_FLIGHT = 256
"""Ring of fetch beats: 16 in the address queues, 64 in the response queues, and what is between."""

# ``s``: machine constants, then registers, then the fixed-size tables.
(
    P_SCORES,
    P_LINES,
    P_CHANNELS,
    P_FETCH,
    P_ROW_BEATS,
    P_LOG_SCORES,
    P_CHANNEL_BITS,
    P_REQUESTS,
    P_ROTATION,
    NOW,
    SOURCE,
    ALLOCATED,
    ARBITER_LOCK,
    FORK,
    FORK_TAKEN,
    FORK_ROW,
    DOT_LINES,
    BROADCAST,
    DOT_CLOCK,
    TREE_CLOCK,
    DOT_HEAD,
    DOT_TREE,
    DOT_TAIL,
    MAXIMUM,
    DECIDED,
    REPORTED,
    MERGE_LOCK,
    MERGED,
    REBATCHED,
    RELOAD_1,
    RELOAD_2,
    PRECEDING,
    FINISHED,
    TOPK_SINCE,
    TOPK_INSIDE,
    VALUE_FORK,
    VALUE_TAKEN,
    GATHERED,
    VALUE_ROW_1,
    VALUE_ROW_2,
    KEY_ROW_1,
    KEY_ROW_2,
    FETCH_LOCK,
    FETCH_LAST,
    FRAGMENT,
    FRAGMENT_BEAT,
    NEXT_BEAT,
    SPLIT,
    SPLIT_BEAT,
    BEATS_PUSHED,
    BEATS_LOADED,
    BEATS_JOINED,
    BEAT_REGISTER,
    ELEMENTS,
    CONTEXT_HEAD,
    CONTEXT_TAIL,
    POPS_DONE,
    REALIGNED,
    CONVERTED,
    CONVERTED_TAKEN,
    ADDRESSES_WAITING,
    RESPONSES_WAITING,
    RESPONSES,
) = range(63)

# Queues: first slot of the ring, depth, head, tail, cycle of the last pop.
QUEUE_COLUMNS = 5
_Q = 64
INFLIGHT, REISSUES, DECISION, ORDER, TOPK, SCORES = range(_Q, _Q + 6 * QUEUE_COLUMNS, QUEUE_COLUMNS)
N_QUEUES = 6

# Allocator of each buffer: lines used, head and tail of the handle ring, when the last was freed.
MAX_HANDLES = 16
_A = _Q + N_QUEUES * QUEUE_COLUMNS
A_USED, A_HEAD, A_TAIL, A_LAST_FREE, A_SIZE = range(5)
A_RELEASED = A_SIZE + MAX_HANDLES
A_COLUMNS = A_RELEASED + MAX_HANDLES
ALLOCATORS = _A

# Reader of each buffer: next line to generate and its descriptor; lines generated, issued, checked
# and taken, all counted from the start of the run; reads in the pipeline; the turn, one bit that a
# roll-back flips; the bank that stays selected; then the registers of the read pipeline, each empty
# (0) or ``4 * (line + 1) + 2 * turn``, plus one once the SRAM answered with the expected tag.
(
    R_NEXT,
    R_CURRENT,
    R_DESCRIBED,
    R_GENERATED,
    R_ISSUED,
    R_COMMITTED,
    R_CONSUMED,
    R_POLLS,
    R_IN_FLIGHT,
    R_TURN,
    R_MERGE_LOCK,
    R_PORT,
    R_SRAM_0,
    R_SRAM_1,
    R_BANK_0,
    R_BANK_1,
    R_CHECK,
) = range(17)
READ_LINES = 32
R_LINES = R_CHECK + 1
"""Ring of generated lines: side, lines of that side it needs, cycle of the push."""
R_DESCRIPTORS = R_LINES + 3 * READ_LINES
MAX_DESCRIPTORS = 4
"""Ring of read descriptors."""
(
    RD_LENGTH,
    RD_FUSED,
    RD_PART,
    RD_BASE_0,
    RD_BASE_1,
    RD_READY,
) = range(6)
RD_COLUMNS = 6
R_COLUMNS = R_DESCRIPTORS + MAX_DESCRIPTORS * RD_COLUMNS
READERS = ALLOCATORS + 2 * A_COLUMNS

# Writer of each buffer; skid registers hold two lines per port.
(
    W_POPS_LEFT_0,
    W_POPS_LEFT_1,
    W_FUSED,
    W_DATA_0,
    W_DATA_1,
    W_BUSY,
    W_BANK_0,
    W_BANK_1,
    W_LAST_0,
    W_LAST_1,
    W_WRITTEN_0,
    W_WRITTEN_1,
    W_ASSIGNED_0,
    W_ASSIGNED_1,
    W_BASE_0,
    W_BASE_1,
    W_PAIR_BASE_0,
    W_PAIR_BASE_1,
    W_SKID_0,
    W_SKID_1,
    W_SKID_BANK_0,
) = range(21)
W_COLUMNS = W_SKID_BANK_0 + 4
WRITERS = READERS + 2 * R_COLUMNS

DOT_RING = 64
DOT_LINES_RING = WRITERS + 2 * W_COLUMNS
"""Lines in the dot product and the maximum tree: beat, and clock of the pipeline at entry."""
CONTEXT_RING = 64
CONTEXTS = DOT_LINES_RING + 2 * DOT_RING
"""Matrices being fetched."""
N_STATE = CONTEXTS + CONTEXT_RING

# Columns of the request table.
(
    Q_KEYS,
    Q_VALUES,
    Q_KEY_BITS,
    Q_VALUE_BITS,
    Q_REQUANT,
    Q_KEY_PART,
    Q_VALUE_PART,
    Q_KEY_FUSED,
    Q_VALUE_FUSED,
    Q_TOPK_WAIT,
    Q_HOLD,
    Q_DONE,
    Q_KEY_HANDLE,
    Q_VALUE_HANDLE,
) = range(14)
N_REQUEST_COLUMNS = 14

# Columns of a fetch channel: next beat of its address queue, destination and address in its
# read-address register, responses received, cycle of the last, DRAM channel that waits for it.
F_HEAD, F_DESTINATION, F_ADDRESS, F_ARRIVED, F_SERVED, F_HOLDER = range(6)
N_FETCH_COLUMNS = 6
# Columns of a DRAM port: address parked and offered, response register, identifier queue (head,
# tail, then the ring), fetch channel that stays selected, scratch of the crossbar.
D_PARKED, D_OFFERED, D_RESPONSE, D_ID_HEAD, D_ID_TAIL, D_LOCK, D_CHOICE, D_IDS = range(8)
ID_RING = 64
N_PORT_COLUMNS = D_IDS + ID_RING
# Columns of a fetch beat: cycle of the push, responses counted, cycle of the last; then destination
# and address for each fetch channel.
B_TIME, B_LOADED, B_ARRIVED, B_LATEST, B_CHANNELS = range(5)


class Machine(NamedTuple):
    """All state of one simulated machine (int64 arrays).

    Attributes:
        s: (N_STATE,) constants, registers and fixed-size tables.
        requests: (n, N_REQUEST_COLUMNS) what each request needs, and when it was done.
        ring: (slots, 2) value and cycle of the push, of all queues.
        fetch: (fetch channels, N_FETCH_COLUMNS).
        port: (channels, N_PORT_COLUMNS).
        beats: (BEATS_IN_FLIGHT, B_CHANNELS + 2 * fetch channels).
        indexes: flat list of token indexes.
        dram, banks: state of the DRAM channels.
        org: their organisation.
    """

    s: Ints
    requests: Ints
    ring: Ints
    fetch: Ints
    port: Ints
    beats: Ints
    indexes: Ints
    dram: Channels
    banks: Banks
    org: Organisation


@inlined
def queue_ready(s: Ints, queue: int) -> bool:
    """Whether the queue had room at the start of the cycle."""
    return bool(s[queue + 3] - s[queue + 2] + (s[queue + 4] == s[NOW]) < s[queue + 1])


@inlined
def queue_push(s: Ints, ring: Ints, queue: int, value: int) -> None:
    """Push; the caller has checked :func:`queue_ready`."""
    slot = s[queue] + s[queue + 3] % s[queue + 1]
    ring[slot, 0] = value
    ring[slot, 1] = s[NOW]
    s[queue + 3] += 1


@inlined
def queue_peek(s: Ints, ring: Ints, queue: int, latency: int = 2) -> int:
    """The entry at the output, or -1."""
    if s[queue + 2] == s[queue + 3]:
        return -1
    slot = s[queue] + s[queue + 2] % s[queue + 1]
    if ring[slot, 1] + latency > s[NOW]:
        return -1
    return int(ring[slot, 0])


@inlined
def queue_pop(s: Ints, queue: int) -> None:
    """Remove the entry at the output."""
    s[queue + 2] += 1
    s[queue + 4] = s[NOW]


@inlined
def fragments(bits: int) -> int:
    """32-byte transactions per vector of a supported profile (specification section 2.6)."""
    return 2 if bits == 8 else (3 if bits == 6 else 1)


@inlined
def row_bits(requests: Ints, row: int) -> int:
    """Element bits of the matrix that a row code belongs to."""
    plane = (row >> SHIFT) & 3
    if plane == LSB:
        return 4
    return int(requests[row >> (SHIFT + 2), Q_KEY_BITS if plane == MSB else Q_VALUE_BITS])


@inlined
def row_vectors(requests: Ints, row: int) -> int:
    """Vectors of the matrix that a row code belongs to."""
    column = Q_VALUES if (row >> SHIFT) & 3 == VALUE else Q_KEYS
    return int(requests[row >> (SHIFT + 2), column])


@inlined
def is_last_beat(s: Ints, requests: Ints, beat: int) -> bool:
    """Whether a key-side beat is the last of its item."""
    return bool(((beat & MASK) + 1) * s[P_SCORES] == requests[beat >> (SHIFT + 1), Q_KEYS])
