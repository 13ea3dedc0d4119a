"""Key and value buffers: ring allocator, tagged writes, polling reads (specification 2.3, 2.8)."""

from __future__ import annotations

from typing import Any

from accelsim.hardware.machines.spatten_rtl.cycle._state import (
    MAX_DESCRIPTORS,
    READ_LINES,
    Records,
)
from accelsim.hardware.machines.spatten_rtl.facts import HANDLES, READ_QUEUE
from accelsim.jit import inlined

RELEASE_CYCLES = 4
"""From the acceptance of a release to usable space (flag write, read back, head increment)."""
DESCRIPTOR_CYCLES = 1
"""From a read descriptor at the fork to its first line at the read queue."""
GENERATE_CYCLES = 3
"""From the read queue's input to the issue of the line: one register and a queue."""


@inlined
def allocate(s: Records, buffer: int, lines: int) -> int:
    """Try to allocate ``lines`` in this cycle; the handle, or -1."""
    now = s[0].now
    if now < HANDLES:
        return -1  # the handle table is still being cleared
    a = s[0].allocators[buffer]
    while a.head != a.tail:
        handle = a.head % HANDLES
        released = a.released[handle]
        free = max(released + RELEASE_CYCLES, a.last_free + 1)
        if released < 0 or free > now:
            break
        a.last_free = free
        a.used -= a.size[handle]
        a.head += 1
    if a.tail - a.head == HANDLES or a.used + lines > s[0].buffer_lines:
        return -1
    handle = a.tail % HANDLES
    a.size[handle] = lines
    a.released[handle] = -1
    a.tail += 1
    a.used += lines
    return int(handle)


@inlined
def release(s: Records, buffer: int, handle: int, cycle: int) -> None:
    """Release an allocation; accepted in ``cycle``. Space is recycled in order of allocation."""
    s[0].allocators[buffer].released[handle] = cycle


@inlined
def start_write(s: Records, buffer: int, fused: bool, lines: int) -> None:
    """Load the write descriptors of one matrix (or a fused pair of ``lines`` each)."""
    w = s[0].writers[buffer]
    per_port = lines if fused else lines // 2
    w.pops_left[0] = per_port
    w.pops_left[1] = per_port
    w.fused = fused
    for port in range(2):
        w.base[port] = w.assigned[port]
        w.assigned[port] += per_port
        if fused:
            w.pair_base[port] = w.base[port]


@inlined
def can_start_read(s: Records, buffer: int) -> bool:
    """Whether all lines of the descriptor before are generated."""
    r = s[0].readers[buffer]
    return bool(r.described == r.current)


@inlined
def start_read(s: Records, buffer: int, fused: bool, part: int, lines: int, ahead: bool) -> None:
    """Describe a read of the matrix last described to write, or of a part of the last fused pair.

    LSB passes may come between the two parts of a pair. ``ahead``: of the matrix whose
    write descriptors still wait for the one before.
    """
    r, w = s[0].readers[buffer], s[0].writers[buffer]
    d = r.descriptors[r.described % MAX_DESCRIPTORS]
    d.length = lines
    d.fused = fused
    d.part = part
    for side in range(2):
        if ahead:
            d.base[side] = w.assigned[side]  # where its lines will start
        else:
            d.base[side] = w.pair_base[side] if fused else w.base[side]
    d.ready = s[0].now + DESCRIPTOR_CYCLES
    r.described += 1


@inlined
def line_available(s: Records, buffer: int) -> bool:
    """Whether a checked line waits for the consumer."""
    r = s[0].readers[buffer]
    return bool(r.committed > r.consumed)


@inlined
def step_reader(s: Records, buffer: int) -> None:
    """Check, move the read pipeline, issue, generate; a wrong tag rolls the reader back.

    A line waits for its consumer in the register behind the check, and behind it in the registers
    of the two banks: what was read too early then stays wrong until it is checked.
    """
    r = s[0].readers[buffer]
    now = s[0].now
    committed = r.committed
    rolled_back = False
    if r.in_flight:
        rolled_back = _check(r)
        _advance_reads(s, r, s[0].writers[buffer], now)
    issued = r.issued
    if (
        not r.port
        and issued < r.generated
        and r.lines[issued % READ_LINES].pushed + GENERATE_CYCLES <= now
    ):
        r.port = 4 * issued + 4 + 2 * (r.turn ^ rolled_back)
        r.issued += 1
        r.in_flight += 1
    if rolled_back:
        r.issued = committed
    if r.current != r.described and r.generated - committed < READ_QUEUE:
        _generate(r, now)


@inlined
def _check(r: Any) -> bool:
    """Commit, discard or fail what the check register holds; true when the reader rolls back.

    Nothing is flushed: reads of before the roll-back go on through the pipeline, and are discarded
    here because they carry the other turn. The turn is one bit, and a commit is a count: neither
    looks at which line it is, although lines can leave the banks out of order.
    """
    checked = r.check
    if not checked:
        return False
    expected = (checked >> 1) & 1 == r.turn
    if expected and checked & 1:
        if r.committed != r.consumed:
            return False
        r.committed += 1
    r.check = 0
    r.in_flight -= 1
    if expected and not checked & 1:
        r.turn ^= 1
        return True
    return False


@inlined
def _advance_reads(s: Records, r: Any, w: Any, now: int) -> None:
    """Move the reads between the port and the check by a register.

    Bank 0 goes first into the check register, unless bank 1 was first to wait for it.
    """
    if r.bank[0] or r.bank[1]:
        if r.merge_lock < 0:
            r.merge_lock = 0 if r.bank[0] else 1
        if not r.check:
            r.check = r.bank[r.merge_lock]
            r.bank[r.merge_lock] = 0
            r.merge_lock = -1
    for k in range(2):
        if not r.bank[k]:
            r.bank[k] = r.sram[k]
            r.sram[k] = 0
    waiting = r.port
    if waiting and now >= s[0].buffer_lines // 2:
        number = (waiting >> 2) - 1
        if not r.sram[number & 1]:
            line = r.lines[number % READ_LINES]
            r.sram[number & 1] = waiting + (w.written[line.side] >= line.needs)
            r.port = 0
            r.polls += 1


@inlined
def _generate(r: Any, now: int) -> None:
    """Push the next line of the current descriptor; after its last line, go on with the next."""
    current = r.current
    d = r.descriptors[current % MAX_DESCRIPTORS]
    if now < d.ready:
        return
    number = r.next
    side, position = number & 1, number >> 1
    if d.fused:
        side, position = d.part, number
    line = r.lines[r.generated % READ_LINES]
    line.side = side
    line.needs = d.base[side] + position + 1
    line.pushed = now
    r.generated += 1
    r.next = number + 1
    if number + 1 == d.length:
        r.next = 0
        r.current = current + 1


@inlined
def step_writer(s: Records, buffer: int) -> None:
    """SRAM write, bank arbitration and the two skid registers; takes the write-data register."""
    w = s[0].writers[buffer]
    if w.data[0] + w.data[1] + w.busy == 0:
        return
    if s[0].now >= s[0].buffer_lines // 2:
        for bank in range(2):
            port = w.bank[bank]
            if port >= 0:
                w.written[port] += 1
                w.bank[bank] = -1
    room = (w.skid[0] < 2, w.skid[1] < 2)
    # A port offers one line a cycle, also when both banks are free.
    served = -1
    busy = 0
    for bank in range(2):
        if w.bank[bank] < 0:
            # Round robin: the port after the last one served in this bank goes first.
            for turn in range(2):
                port = (w.last[bank] + 1 + turn) % 2
                waiting = w.skid_bank[port]
                if port != served and w.skid[port] > 0 and waiting[0] == bank:
                    w.skid[port] -= 1
                    waiting[0] = waiting[1]
                    w.bank[bank] = port
                    w.last[bank] = port
                    served = port
                    break
        busy |= w.bank[bank] >= 0
    for port in range(2):
        if w.data[port] and w.pops_left[port] > 0 and room[port]:
            line = w.assigned[0] - w.base[0] - w.pops_left[port]
            bank = line & 1 if w.fused else port
            w.skid_bank[port, w.skid[port]] = bank
            w.skid[port] += 1
            w.data[port] = 0
            w.pops_left[port] -= 1
    w.busy = busy or w.skid[0] + w.skid[1] > 0
