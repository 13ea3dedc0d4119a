"""Why a machine stopped: which block waits for what."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle import _state as c


def describe_stall(machine: c.Machine, cycles: int) -> str:
    """Say which block waits for what, from the state of a machine that stopped."""
    s, queues = machine.s[0], machine.queues
    waits = []
    if s["barrier"] >= 0:
        waits.append(f"key fork waits for the decision of piece {s['barrier']}")
    elif s["lsb_head"] != s["lsb_tail"] or s["next_matrix"] < s["first_passes"]:
        waits.append(
            f"key fork (matrix {s['next_matrix']}) waits for its group or for the key buffer "
            f"({s['key_count']} matrices, {s['key_used']} of {s['lines']} lines)"
        )
    if s["qk_head"] != s["qk_tail"]:
        matrix = queues.qk[s["qk_head"]]
        row = machine.matrices["row"][matrix]
        full = s["pipe_tail"] - s["pipe_head"]
        waits.append(
            f"query x key unit (row {machine.rows['query_request'][row]}) waits "
            f"for keys, queries or the softmax ({full} beats in its pipeline)"
        )
    if s["out_head"] != s["out_tail"]:
        job = queues.out[s["out_head"] % len(queues.out)]["job"]
        source = machine.jobs["source"][job]
        waits.append(f"softmax (row {source}) waits for top-k, selector or weighted sum")
    if s["filter_next"] != s["topk_tail"]:
        source = machine.jobs["source"][queues.topk[s["filter_next"]]]
        waits.append(f"filter (row {source}) waits for the weighted sum or the value buffer")
    if s["w_head"] != s["w_tail"]:
        source = machine.jobs["source"][queues.weighted[s["w_head"]]["job"]]
        waits.append(f"weighted sum (row {source}) waits for its filter or its values")
    if s["slot_head"] != s["slot_tail"] or s["next_early"] < s["early_tiles"]:
        waits.append(
            f"value fork waits for the value buffer ({s['value_count']} matrices, "
            f"{s['value_used']} of {s['lines']} lines), keys or filters"
        )
    if s["pushed"] > s["joined"]:
        waits.append(f"fetcher waits for {s['pushed'] - s['joined']} beats from DRAM")
    reasons = "; ".join(waits) or "no block holds work"
    return f"nothing happened for {cycles} cycles at cycle {s['now']}: {reasons}"
