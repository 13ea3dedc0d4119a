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
    R_BANK_0,
    R_BANK_1,
    R_CHECK,
    R_COLUMNS,
    R_COMMITTED,
    R_CONSUMED,
    R_CURRENT,
    R_DESCRIBED,
    R_DESCRIPTORS,
    R_GENERATED,
    R_IN_FLIGHT,
    R_ISSUED,
    R_LINES,
    R_MERGE_LOCK,
    R_NEXT,
    R_POLLS,
    R_PORT,
    R_SRAM_0,
    R_TURN,
    RD_BASE_0,
    RD_BASE_1,
    RD_COLUMNS,
    RD_FUSED,
    RD_LENGTH,
    RD_PART,
    RD_READY,
    READ_LINES,
    READERS,
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
from accelsim.jit import inlined

RELEASE_CYCLES = 4
"""From the acceptance of a release to usable space (flag write, read back, head increment)."""
READ_QUEUE = 16
"""Lines between the generator and the tag check, at the start of a cycle: a ring of 16 with one
entry unused, and the register in front of it."""
DESCRIPTOR_CYCLES = 1
"""From a read descriptor at the fork to its first line at the read queue."""
GENERATE_CYCLES = 3
"""From the read queue's input to the issue of the line: one register and a queue."""


@inlined
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


@inlined
def release(s: Ints, buffer: int, handle: int, cycle: int) -> None:
    """Release an allocation; accepted in ``cycle``. Space is recycled in order of allocation."""
    s[ALLOCATORS + buffer * A_COLUMNS + A_RELEASED + handle] = cycle


@inlined
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


@inlined
def can_start_read(s: Ints, buffer: int) -> bool:
    """Whether all lines of the descriptor before are generated."""
    r = READERS + buffer * R_COLUMNS
    return bool(s[r + R_DESCRIBED] == s[r + R_CURRENT])


@inlined
def start_read(s: Ints, buffer: int, fused: bool, part: int, lines: int, ahead: bool) -> None:
    """Describe a read of the matrix last described to write, or of a part of the last fused pair.

    Requantization passes may come between the two parts of a pair. ``ahead``: of the matrix whose
    write descriptors still wait for the one before.
    """
    r, w = READERS + buffer * R_COLUMNS, WRITERS + buffer * W_COLUMNS
    d = r + R_DESCRIPTORS + RD_COLUMNS * (s[r + R_DESCRIBED] % MAX_DESCRIPTORS)
    s[d + RD_LENGTH] = lines
    s[d + RD_FUSED] = fused
    s[d + RD_PART] = part
    base = w + (W_PAIR_BASE_0 if fused else W_BASE_0)
    if ahead:
        base = w + W_ASSIGNED_0  # where its lines will start
    s[d + RD_BASE_0] = s[base]
    s[d + RD_BASE_1] = s[base + 1]
    s[d + RD_READY] = s[NOW] + DESCRIPTOR_CYCLES
    s[r + R_DESCRIBED] += 1


@inlined
def line_available(s: Ints, buffer: int) -> bool:
    """Whether a checked line waits for the consumer."""
    r = READERS + buffer * R_COLUMNS
    return bool(s[r + R_COMMITTED] > s[r + R_CONSUMED])


@inlined
def step_reader(s: Ints, buffer: int) -> None:
    """Check, move the read pipeline, issue, generate; a wrong tag rolls the reader back.

    A line waits for its consumer in the register behind the check, and behind it in the registers
    of the two banks: what was read too early then stays wrong until it is checked.
    """
    r = READERS + buffer * R_COLUMNS
    now = s[NOW]
    committed = s[r + R_COMMITTED]
    rolled_back = False
    if s[r + R_IN_FLIGHT]:
        rolled_back = _check(s, r)
        _advance_reads(s, r, WRITERS + buffer * W_COLUMNS, now)
    issued = s[r + R_ISSUED]
    if (
        not s[r + R_PORT]
        and issued < s[r + R_GENERATED]
        and s[_line(r, issued) + 2] + GENERATE_CYCLES <= now
    ):
        s[r + R_PORT] = 4 * issued + 4 + 2 * (s[r + R_TURN] ^ rolled_back)
        s[r + R_ISSUED] += 1
        s[r + R_IN_FLIGHT] += 1
    if rolled_back:
        s[r + R_ISSUED] = committed
    if s[r + R_CURRENT] != s[r + R_DESCRIBED] and s[r + R_GENERATED] - committed < READ_QUEUE:
        _generate(s, r, now)


@inlined
def _line(r: int, number: int) -> int:
    """Slot of a generated line in the ring of a reader."""
    return r + R_LINES + 3 * (number % READ_LINES)


@inlined
def _check(s: Ints, r: int) -> bool:
    """Commit, discard or fail what the check register holds; true when the reader rolls back.

    Nothing is flushed: reads of before the roll-back go on through the pipeline, and are discarded
    here because they carry the other turn. The turn is one bit, and a commit is a count: neither
    looks at which line it is, although lines can leave the banks out of order.
    """
    checked = s[r + R_CHECK]
    if not checked:
        return False
    expected = (checked >> 1) & 1 == s[r + R_TURN]
    if expected and checked & 1:
        if s[r + R_COMMITTED] != s[r + R_CONSUMED]:
            return False
        s[r + R_COMMITTED] += 1
    s[r + R_CHECK] = 0
    s[r + R_IN_FLIGHT] -= 1
    if expected and not checked & 1:
        s[r + R_TURN] ^= 1
        return True
    return False


@inlined
def _advance_reads(s: Ints, r: int, w: int, now: int) -> None:
    """Move the reads between the port and the check by a register.

    Bank 0 goes first into the check register, unless bank 1 was first to wait for it.
    """
    if s[r + R_BANK_0] or s[r + R_BANK_1]:
        if s[r + R_MERGE_LOCK] < 0:
            s[r + R_MERGE_LOCK] = 0 if s[r + R_BANK_0] else 1
        if not s[r + R_CHECK]:
            bank = r + R_BANK_0 + s[r + R_MERGE_LOCK]
            s[r + R_CHECK] = s[bank]
            s[bank] = 0
            s[r + R_MERGE_LOCK] = -1
    for k in range(2):
        if not s[r + R_BANK_0 + k]:
            s[r + R_BANK_0 + k] = s[r + R_SRAM_0 + k]
            s[r + R_SRAM_0 + k] = 0
    waiting = s[r + R_PORT]
    if waiting and now >= s[P_LINES] // 2:
        number = (waiting >> 2) - 1
        sram = r + R_SRAM_0 + (number & 1)
        if not s[sram]:
            line = _line(r, number)
            s[sram] = waiting + (s[w + W_WRITTEN_0 + s[line]] >= s[line + 1])
            s[r + R_PORT] = 0
            s[r + R_POLLS] += 1


@inlined
def _generate(s: Ints, r: int, now: int) -> None:
    """Push the next line of the current descriptor; after its last line, go on with the next."""
    current = s[r + R_CURRENT]
    d = r + R_DESCRIPTORS + RD_COLUMNS * (current % MAX_DESCRIPTORS)
    if now < s[d + RD_READY]:
        return
    number = s[r + R_NEXT]
    side, position = number & 1, number >> 1
    if s[d + RD_FUSED]:
        side, position = s[d + RD_PART], number
    line = _line(r, s[r + R_GENERATED])
    s[line] = side
    s[line + 1] = s[d + RD_BASE_0 + side] + position + 1
    s[line + 2] = now
    s[r + R_GENERATED] += 1
    s[r + R_NEXT] = number + 1
    if number + 1 == s[d + RD_LENGTH]:
        s[r + R_NEXT] = 0
        s[r + R_CURRENT] = current + 1


@inlined
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
    # A port offers one line a cycle, also when both banks are free.
    served = -1
    busy = 0
    for bank in range(2):
        if s[w + W_BANK_0 + bank] < 0:
            # Round robin: the port after the last one served in this bank goes first.
            for turn in range(2):
                port = (s[w + W_LAST_0 + bank] + 1 + turn) % 2
                skid = w + W_SKID_BANK_0 + 2 * port
                if port != served and s[w + W_SKID_0 + port] > 0 and s[skid] == bank:
                    s[w + W_SKID_0 + port] -= 1
                    s[skid] = s[skid + 1]
                    s[w + W_BANK_0 + bank] = port
                    s[w + W_LAST_0 + bank] = port
                    served = port
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
