"""Facts of SpAtten as released, each once, for both of its engines.

Section numbers are those of the specification (docs/accelerators/spatten.md). What only one engine
needs, such as latencies between two registers, stands beside the code that needs it. The published
machine (``machines.spatten``) has its facts from the paper, so it states them itself.
"""

from __future__ import annotations

ATOM = 32
"""Bytes of one transaction of the bus (2.1)."""
LSB_BITS = 4
"""Of the LSB plane, whatever the width of the MSBs (4.3)."""
HANDLES = 16
"""Live allocations of a buffer; the table of them is cleared after reset, one a cycle (2.3)."""
INFLIGHT = 16
"""Entries of the in-flight queue (2.5)."""
ADDRESS_FIFO = 16
"""Addresses that a fetch channel holds (2.6)."""
ADDRESS_LATENCY = 2
"""From the address FIFO's input to its output (2.2); the read-address register adds one more."""
RESPONSE_FIFO = 64
"""Responses that a fetch channel holds until their beats are whole (2.6); a full one keeps the next
in its DRAM channel's response register, and those of others behind it (5.3)."""
READ_QUEUE = 16
"""Lines between the generator and the tag check of a buffer's reader, at the start of a cycle: a
ring of 16 with one entry unused, and the register in front of it (2.8)."""
DOT_STAGES = 8
"""Lines in the dot product: the broadcast register, the multiplier and log2(64) adders (2.9)."""
SCORE_ROWS = 16
"""Rows of scores in the score queue, which holds 16 C/S beats (2.14)."""
MULTIPLY_STAGES = 3
"""Broadcast, multiplier and accumulator registers; the adder tree adds log2(S) (2.15)."""
KEY_BASE, LSB_BASE, VALUE_BASE = 0x0AB10000, 0x0AB20000, 0x0CD10000
"""Regions of the test bench (5.1)."""
REQUEST_STRIDE = 0x10000
"""Bytes between the regions of two requests (5.1)."""
