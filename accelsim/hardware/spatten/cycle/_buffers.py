"""Key and value buffers: ring allocator, tagged writes, polling reads (specification 2.3, 2.8)."""

from __future__ import annotations

from accelsim.hardware.spatten.cycle._state import (
    A_COLUMNS,
    A_HEAD,
    A_LAST_FREE,
    A_RELEASED,
    A_SIZE,
    A_TAIL,
    A_USED,
    ALLOCATORS,
    MAX_DESCRIPTORS,
    MAX_HANDLES,
    NOW,
    P_LINES,
    R_COLUMNS,
    R_COMMITTED,
    R_CONSUMED,
    R_CURRENT,
    R_DESCRIBED,
    R_DESCRIPTORS,
    R_HEAD,
    R_ISSUED,
    R_NEXT,
    R_POLLS,
    R_PORT,
    R_PORT_DESCRIPTOR,
    R_PORT_NEED,
    R_PORT_SIDE,
    R_READS,
    R_TAIL,
    RD_BASE_0,
    RD_BASE_1,
    RD_COLUMNS,
    RD_FUSED,
    RD_LENGTH,
    RD_PART,
    RD_READY,
    READERS,
    READS_IN_FLIGHT,
    W_ASSIGNED_0,
    W_BANK_0,
    W_BASE_0,
    W_BUSY,
    W_COLUMNS,
    W_DATA_0,
    W_FUSED,
    W_LAST_0,
    W_PAIR_BASE_0,
    W_POPS_LEFT_0,
    W_SKID_0,
    W_SKID_BANK_0,
    W_WRITTEN_0,
    WRITERS,
    Ints,
)
from accelsim.jit import kernel

RELEASE_CYCLES = 4
"""From the acceptance of a release to usable space (flag write, read back, head increment)."""
READ_QUEUE = 15
DESCRIPTOR_CYCLES = 4
"""From a read descriptor at the fork to its first read."""
WAITING_DESCRIPTORS = 1
"""Descriptors that may wait while the reader works on another."""
CHECK_CYCLES = 3
"""From the SRAM port to the tag check."""


@kernel
def allocate(s: Ints, buffer: int, lines: int) -> int:
    """Try to allocate ``lines`` in this cycle; the handle, or -1."""
    now = s[NOW]
    if now < MAX_HANDLES:
        return -1  # the handle table is still being cleared
    a = ALLOCATORS + buffer * A_COLUMNS
    while s[a + A_HEAD] != s[a + A_TAIL]:
        handle = s[a + A_HEAD] % MAX_HANDLES
        released = s[a + A_RELEASED + handle]
        free = max(released + RELEASE_CYCLES, s[a + A_LAST_FREE] + 1)
        if released < 0 or free > now:
            break
        s[a + A_LAST_FREE] = free
        s[a + A_USED] -= s[a + A_SIZE + handle]
        s[a + A_HEAD] += 1
    if s[a + A_TAIL] - s[a + A_HEAD] == MAX_HANDLES or s[a + A_USED] + lines > s[P_LINES]:
        return -1
    handle = s[a + A_TAIL] % MAX_HANDLES
    s[a + A_SIZE + handle] = lines
    s[a + A_RELEASED + handle] = -1
    s[a + A_TAIL] += 1
    s[a + A_USED] += lines
    return int(handle)


@kernel
def release(s: Ints, buffer: int, handle: int, cycle: int) -> None:
    """Release an allocation; accepted in ``cycle``. Space is recycled in order of allocation."""
    s[ALLOCATORS + buffer * A_COLUMNS + A_RELEASED + handle] = cycle


@kernel
def start_write(s: Ints, buffer: int, fused: bool, lines: int) -> None:
    """Load the write descriptors of one matrix (or a fused pair of ``lines`` each)."""
    w = WRITERS + buffer * W_COLUMNS
    per_port = lines if fused else lines // 2
    s[w + W_POPS_LEFT_0] = per_port
    s[w + W_POPS_LEFT_0 + 1] = per_port
    s[w + W_FUSED] = fused
    for port in range(2):
        s[w + W_BASE_0 + port] = s[w + W_ASSIGNED_0 + port]
        s[w + W_ASSIGNED_0 + port] += per_port
        if fused:
            s[w + W_PAIR_BASE_0 + port] = s[w + W_BASE_0 + port]


@kernel
def can_start_read(s: Ints, buffer: int) -> bool:
    """Whether the registers before the reader have room for a descriptor."""
    r = READERS + buffer * R_COLUMNS
    return bool(s[r + R_DESCRIBED] - s[r + R_CURRENT] <= WAITING_DESCRIPTORS)


@kernel
def start_read(s: Ints, buffer: int, fused: bool, part: int, lines: int) -> None:
    """Describe a read of the matrix last described to write, or of a part of the last fused pair.

    Requantization passes may come between the two parts of a pair.
    """
    r, w = READERS + buffer * R_COLUMNS, WRITERS + buffer * W_COLUMNS
    d = r + R_DESCRIPTORS + RD_COLUMNS * (s[r + R_DESCRIBED] % MAX_DESCRIPTORS)
    s[d + RD_LENGTH] = lines
    s[d + RD_FUSED] = fused
    s[d + RD_PART] = part
    base = w + (W_PAIR_BASE_0 if fused else W_BASE_0)
    s[d + RD_BASE_0] = s[base]
    s[d + RD_BASE_1] = s[base + 1]
    s[d + RD_READY] = s[NOW] + DESCRIPTOR_CYCLES
    s[r + R_DESCRIBED] += 1


@kernel
def line_available(s: Ints, buffer: int) -> bool:
    """Whether a checked line waits for the consumer."""
    r = READERS + buffer * R_COLUMNS
    return bool(s[r + R_COMMITTED] > s[r + R_CONSUMED])


@kernel
def step_reader(s: Ints, buffer: int) -> None:
    """Check, present to the SRAM, issue; a line without the expected tag rolls the reader back."""
    r, w = READERS + buffer * R_COLUMNS, WRITERS + buffer * W_COLUMNS
    now = s[NOW]
    if s[r + R_HEAD] != s[r + R_TAIL]:
        read = r + R_READS + 4 * (s[r + R_HEAD] % READS_IN_FLIGHT)
        if s[read + 3] + CHECK_CYCLES == now:
            s[r + R_HEAD] += 1
            if not s[read + 2]:
                s[r + R_NEXT] = s[read]
                s[r + R_CURRENT] = s[read + 1]
                s[r + R_HEAD] = s[r + R_TAIL]
                s[r + R_PORT] = -1
                s[r + R_ISSUED] = s[r + R_COMMITTED]
                return
            s[r + R_COMMITTED] += 1
    if s[r + R_PORT] >= 0 and now >= s[P_LINES] // 2:
        read = r + R_READS + 4 * (s[r + R_TAIL] % READS_IN_FLIGHT)
        s[read] = s[r + R_PORT]
        s[read + 1] = s[r + R_PORT_DESCRIPTOR]
        s[read + 2] = s[w + W_WRITTEN_0 + s[r + R_PORT_SIDE]] >= s[r + R_PORT_NEED]
        s[read + 3] = now
        s[r + R_TAIL] += 1
        s[r + R_POLLS] += 1
        s[r + R_PORT] = -1
    if s[r + R_PORT] < 0 and s[r + R_ISSUED] - s[r + R_CONSUMED] < READ_QUEUE:
        _issue_read(s, r)


@kernel
def _issue_read(s: Ints, r: int) -> None:
    """Issue the next line of the current descriptor; after its last line, go on with the next."""
    current = s[r + R_CURRENT]
    if current == s[r + R_DESCRIBED]:
        return
    d = r + R_DESCRIPTORS + RD_COLUMNS * (current % MAX_DESCRIPTORS)
    if s[NOW] < s[d + RD_READY]:
        return
    line = s[r + R_NEXT]
    side, position = line & 1, line >> 1
    if s[d + RD_FUSED]:
        side, position = s[d + RD_PART], line
    s[r + R_PORT] = line
    s[r + R_PORT_DESCRIPTOR] = current
    s[r + R_PORT_SIDE] = side
    s[r + R_PORT_NEED] = s[d + RD_BASE_0 + side] + position + 1
    s[r + R_ISSUED] += 1
    s[r + R_NEXT] = line + 1
    if line + 1 == s[d + RD_LENGTH]:
        s[r + R_NEXT] = 0
        s[r + R_CURRENT] = current + 1


@kernel
def step_writer(s: Ints, buffer: int) -> None:
    """SRAM write, bank arbitration and the two skid registers; takes the write-data register."""
    w = WRITERS + buffer * W_COLUMNS
    if s[w + W_DATA_0] + s[w + W_DATA_0 + 1] + s[w + W_BUSY] == 0:
        return
    if s[NOW] >= s[P_LINES] // 2:
        for bank in range(2):
            port = s[w + W_BANK_0 + bank]
            if port >= 0:
                s[w + W_WRITTEN_0 + port] += 1
                s[w + W_BANK_0 + bank] = -1
    room = (s[w + W_SKID_0] < 2, s[w + W_SKID_0 + 1] < 2)
    busy = 0
    for bank in range(2):
        if s[w + W_BANK_0 + bank] < 0:
            # Round robin: the port after the last one served in this bank goes first.
            for turn in range(2):
                port = (s[w + W_LAST_0 + bank] + 1 + turn) % 2
                skid = w + W_SKID_BANK_0 + 2 * port
                if s[w + W_SKID_0 + port] > 0 and s[skid] == bank:
                    s[w + W_SKID_0 + port] -= 1
                    s[skid] = s[skid + 1]
                    s[w + W_BANK_0 + bank] = port
                    if s[w + W_FUSED]:
                        s[w + W_LAST_0 + bank] = port
                    break
        busy |= s[w + W_BANK_0 + bank] >= 0
    for port in range(2):
        if s[w + W_DATA_0 + port] and s[w + W_POPS_LEFT_0 + port] > 0 and room[port]:
            line = s[w + W_ASSIGNED_0] - s[w + W_BASE_0] - s[w + W_POPS_LEFT_0 + port]
            bank = line & 1 if s[w + W_FUSED] else port
            s[w + W_SKID_BANK_0 + 2 * port + s[w + W_SKID_0 + port]] = bank
            s[w + W_SKID_0 + port] += 1
            s[w + W_DATA_0 + port] = 0
            s[w + W_POPS_LEFT_0 + port] -= 1
    s[w + W_BUSY] = busy or s[w + W_SKID_0] + s[w + W_SKID_0 + 1] > 0
