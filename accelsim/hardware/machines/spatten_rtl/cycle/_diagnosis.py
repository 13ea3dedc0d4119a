"""Why a machine stopped: which block waits for which."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.cycle import _state as c


def describe_stall(machine: c.Machine, cycles: int) -> str:
    """Say which block waits for which, from the registers of a machine that stopped."""
    s = machine.s[0]
    waits = []
    if s["source"] < s["count"] and s["allocated"] < 0:
        waits.append(f"request {s['source']} waits for the key buffer allocator")
    if s["fork"] >= 0:
        branches = ("write descriptor", "matrix fetcher", "read descriptor", "dot product")
        missing = [name for i, name in enumerate(branches) if not int(s["fork_taken"]) >> i & 1]
        waits.append(f"key fork (request {s['fork'] >> 1}) waits for {' and '.join(missing)}")
    if s["value_fork"] >= 0:
        branches = ("write descriptor", "index gather", "read descriptor", "score queue")
        missing = [name for i, name in enumerate(branches) if not int(s["value_taken"]) >> i & 1]
        request = int(s["value_fork"]) >> (c.SHIFT + 1)
        waits.append(f"value fork (request {request}) waits for {' and '.join(missing)}")
    if s["beats_pushed"] > s["beats_joined"]:
        beats = s["beats_pushed"] - s["beats_joined"]
        waits.append(f"fetcher waits for {beats} beats from DRAM")
    if s["decided"] >= 0:
        waits.append("decision stage waits for the ordering queue or the merge after it")
    reasons = "; ".join(waits) or "no block holds work"
    return f"no response for {cycles} cycles at cycle {s['now']}: {reasons}"
