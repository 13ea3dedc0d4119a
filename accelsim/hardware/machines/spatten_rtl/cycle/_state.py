"""State of the cycle engine: records of int64, and the queue primitives built on them.

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

from accelsim.hardware.machines.spatten_rtl.facts import HANDLES, LSB_BITS
from accelsim.hardware.memories.channel import Banks, Channels
from accelsim.hardware.memories.timing import Organisation
from accelsim.jit import inlined

Ints = NDArray[np.int64]
Records = NDArray[np.void]

SHIFT = 16
MASK = (1 << SHIFT) - 1
MSB, LSB, VALUE = 0, 1, 2
"""Planes: first key pass, LSB pass, value."""
KEY_BUFFER, VALUE_BUFFER = 0, 1
WRITE_TAKEN, FETCH_TAKEN, READ_TAKEN, LAST_TAKEN = 1, 2, 4, 8
"""Branches of the two forks that have taken the item; the last is the dot product's, or the score
queue's."""
ALL_TAKEN = 15
BEATS_IN_FLIGHT = 256
"""Ring of fetch beats: 16 in the address queues, 64 in the response queues, and what is between."""

INFLIGHT, LSB_PASSES, DECISION, ORDER, TOPK, SCORES = range(6)
"""Queues."""
READ_LINES = 32
MAX_DESCRIPTORS = 4
DOT_RING = 64
CONTEXT_RING = 64
ID_RING = 64

QUEUE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "first",  # slot of the ring
            "depth",
            "head",
            "tail",
            "popped",  # cycle of the last pop
        )
    ]
)

ALLOCATOR = np.dtype(
    [
        (name, np.int64)
        for name in (
            "used",  # lines
            "head",  # of the ring of handles
            "tail",
            "last_free",  # when the last was freed
        )
    ]
    + [(name, np.int64, HANDLES) for name in ("size", "released")]
)
"""Of a buffer."""

LINE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "side",
            "needs",  # lines of that side
            "pushed",  # cycle
        )
    ]
)
"""A generated line of a reader."""

DESCRIPTOR = np.dtype(
    [
        ("length", np.int64),  # lines
        ("fused", np.int64),
        ("part", np.int64),
        ("base", np.int64, 2),  # first line of each side
        ("ready", np.int64),  # cycle
    ]
)
"""Of a read."""

READER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "next",  # line to generate
            "current",  # its descriptor
            "described",
            # Lines, counted from the start of the run.
            "generated",
            "issued",
            "committed",
            "consumed",
            "polls",  # of the SRAM
            "in_flight",  # reads in the pipeline
            "turn",  # one bit that a roll-back flips
            "merge_lock",  # bank that stays selected
            # Registers of the read pipeline: each empty (0) or ``4 * (line + 1) + 2 * turn``, plus
            # one once the SRAM answered with the expected tag.
            "port",
            "check",
        )
    ]
    + [("sram", np.int64, 2), ("bank", np.int64, 2)]
    + [("lines", LINE, READ_LINES), ("descriptors", DESCRIPTOR, MAX_DESCRIPTORS)]
)
"""Of a buffer."""

WRITER = np.dtype(
    [("fused", np.int64), ("busy", np.int64)]
    + [
        (name, np.int64, 2)
        for name in (
            # By port.
            "pops_left",
            "data",
            "written",
            "assigned",
            "base",
            "pair_base",
            "skid",  # lines in the skid registers
            # By bank: the port that it serves, and the last one.
            "bank",
            "last",
        )
    ]
    + [("skid_bank", np.int64, (2, 2))]  # bank of the lines in the skid registers of each port
)
"""Of a buffer."""

DOT_LINE = np.dtype([("beat", np.int64), ("entered", np.int64)])
"""A line in the dot product or the maximum tree, and the clock of the pipeline at its entry."""

MACHINE = np.dtype(
    [
        (name, np.int64)
        for name in (
            # Of the machine.
            "line_scores",  # vectors of a line
            "buffer_lines",
            "channels",
            "fetch_channels",
            "row_beats",
            "log_scores",
            "channel_bits",
            "count",  # requests
            "rotates",
            # Registers.
            "now",
            "source",
            "allocated",
            "arbiter_lock",
            "fork",
            "fork_taken",
            "fork_row",
            "dot_lines",
            "broadcast",
            "dot_clock",
            "tree_clock",
            "dot_head",
            "dot_tree",
            "dot_tail",
            "maximum",
            "decided",
            "reported",
            "merge_lock",
            "merged",
            "rebatched",
            "reload_1",
            "reload_2",
            "preceding",
            "finished",
            "topk_since",
            "topk_inside",
            "value_fork",
            "value_taken",
            "gathered",
            "value_row_1",
            "value_row_2",
            "key_row_1",
            "key_row_2",
            "fetch_lock",
            "fetch_last",
            "fragment",
            "fragment_beat",
            "next_beat",
            "split",
            "split_beat",
            "beats_pushed",
            "beats_loaded",
            "beats_joined",
            "beat_register",
            "elements",
            "context_head",
            "context_tail",
            "pops_done",
            "realigned",
            "converted",
            "converted_taken",
            "addresses_waiting",
            "responses_waiting",
            "responses",
        )
    ]
    + [
        ("queues", QUEUE, 6),
        ("allocators", ALLOCATOR, 2),
        ("readers", READER, 2),
        ("writers", WRITER, 2),
        ("dot_ring", DOT_LINE, DOT_RING),
        ("contexts", np.int64, CONTEXT_RING),  # matrices being fetched
    ]
)
"""Constants, registers and tables of fixed size; one record."""

ENTRY = np.dtype([("value", np.int64), ("pushed", np.int64)])
"""Of a queue: what, and the cycle of the push."""

GIVEN = (
    "keys",
    "values",
    "key_bits",
    "value_bits",
    "refetch",
    "key_part",
    "value_part",
    "key_fused",
    "value_fused",
)
REQUEST = np.dtype(
    [
        (name, np.int64)
        for name in (*GIVEN, "topk_wait", "hold", "done", "key_handle", "value_handle")
    ]
)
"""What a request needs, and when it was done."""

FETCH_CHANNEL = np.dtype(
    [
        (name, np.int64)
        for name in (
            "head",  # next beat of its address queue
            "destination",  # in its read-address register
            "address",
            "arrived",  # responses received
            "served",  # cycle of the last
            "holder",  # DRAM channel that waits for it
        )
    ]
)

PORT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "parked",  # address
            "offered",
            "response",  # register
            "id_head",  # of the queue of identifiers
            "id_tail",
            "lock",  # fetch channel that stays selected
            "choice",  # scratch of the crossbar
        )
    ]
    + [("ids", np.int64, ID_RING)]
)
"""Of a DRAM channel."""

BEAT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "pushed",  # cycle
            "loaded",  # fetch channels that have taken their address
            "arrived",  # responses
            "latest",  # cycle of the last
        )
    ]
)
"""A fetch beat."""
ADDRESS = np.dtype([("destination", np.int64), ("address", np.int64)])
"""Of a fetch beat, for one fetch channel."""


class Machine(NamedTuple):
    """All state of one simulated machine.

    Attributes:
        s: one record of MACHINE.
        requests: [n] of REQUEST.
        ring: [slots] of ENTRY, of all queues.
        fetch: [fetch channels] of FETCH_CHANNEL.
        port: [channels] of PORT.
        beats: [BEATS_IN_FLIGHT] of BEAT.
        addresses: [BEATS_IN_FLIGHT, fetch channels] of ADDRESS.
        indexes: flat list of token indexes, int64.
        dram, banks: state of the DRAM channels.
        org: their organisation.
    """

    s: Records
    requests: Records
    ring: Records
    fetch: Records
    port: Records
    beats: Records
    addresses: Records
    indexes: Ints
    dram: Channels
    banks: Banks
    org: Organisation


@inlined
def queue_ready(s: Records, queue: int) -> bool:
    """Whether the queue had room at the start of the cycle."""
    q = s[0].queues[queue]
    return bool(q.tail - q.head + (q.popped == s[0].now) < q.depth)


@inlined
def queue_push(s: Records, ring: Records, queue: int, value: int) -> None:
    """Push; the caller has checked :func:`queue_ready`."""
    q = s[0].queues[queue]
    slot = q.first + q.tail % q.depth
    ring[slot].value = value
    ring[slot].pushed = s[0].now
    q.tail += 1


@inlined
def queue_peek(s: Records, ring: Records, queue: int, latency: int = 2) -> int:
    """The entry at the output, or -1."""
    q = s[0].queues[queue]
    if q.head == q.tail:
        return -1
    slot = q.first + q.head % q.depth
    if ring[slot].pushed + latency > s[0].now:
        return -1
    return int(ring[slot].value)


@inlined
def queue_pop(s: Records, queue: int) -> None:
    """Remove the entry at the output."""
    q = s[0].queues[queue]
    q.head += 1
    q.popped = s[0].now


@inlined
def fragments(bits: int) -> int:
    """32-byte transactions per vector of a supported profile (specification section 2.6)."""
    return 2 if bits == 8 else (3 if bits == 6 else 1)


@inlined
def row_bits(requests: Records, row: int) -> int:
    """Element bits of the matrix that a row code belongs to."""
    plane = (row >> SHIFT) & 3
    if plane == LSB:
        return LSB_BITS
    request = requests[row >> (SHIFT + 2)]
    return int(request.key_bits if plane == MSB else request.value_bits)


@inlined
def row_vectors(requests: Records, row: int) -> int:
    """Vectors of the matrix that a row code belongs to."""
    request = requests[row >> (SHIFT + 2)]
    return int(request.values if (row >> SHIFT) & 3 == VALUE else request.keys)


@inlined
def is_last_beat(s: Records, requests: Records, beat: int) -> bool:
    """Whether a key-side beat is the last of its item."""
    return bool(((beat & MASK) + 1) * s[0].line_scores == requests[beat >> (SHIFT + 1)].keys)
