"""Why a machine stopped: which block waits for which."""

from __future__ import annotations

from accelsim.hardware.spatten.cycle import _state as c


def describe_stall(machine: c.Machine, cycles: int) -> str:
    """Say which block waits for which, from the registers of a machine that stopped."""
    s = machine.s
    waits = []
    if s[c.SOURCE] < s[c.P_REQUESTS] and s[c.ALLOCATED] < 0:
        waits.append(f"request {s[c.SOURCE]} waits for the key buffer allocator")
    if s[c.FORK] >= 0:
        branches = ("write descriptor", "matrix fetcher", "read descriptor", "dot product")
        missing = [name for i, name in enumerate(branches) if not int(s[c.FORK_TAKEN]) >> i & 1]
        waits.append(f"key fork (request {s[c.FORK] >> 1}) waits for {' and '.join(missing)}")
    if s[c.VALUE_FORK] >= 0:
        branches = ("write descriptor", "index gather", "read descriptor", "score queue")
        missing = [name for i, name in enumerate(branches) if not int(s[c.VALUE_TAKEN]) >> i & 1]
        request = int(s[c.VALUE_FORK]) >> (c.SHIFT + 1)
        waits.append(f"value fork (request {request}) waits for {' and '.join(missing)}")
    if s[c.BEATS_PUSHED] > s[c.BEATS_JOINED]:
        beats = s[c.BEATS_PUSHED] - s[c.BEATS_JOINED]
        waits.append(f"fetcher waits for {beats} beats from DRAM")
    if s[c.DECIDED] >= 0:
        waits.append("decision stage waits for the ordering queue or the merge after it")
    reasons = "; ".join(waits) or "no block holds work"
    return f"no response for {cycles} cycles at cycle {s[c.NOW]}: {reasons}"
