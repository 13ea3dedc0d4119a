"""Why a machine stopped: which block waits for what."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle import _state as c


def describe_stall(machine: c.Machine, cycles: int) -> str:
    """Say which block waits for what, from the state of a machine that stopped."""
    s, queues = machine.s, machine.queues
    waits = []
    if s[c.BARRIER] >= 0:
        waits.append(f"key fork waits for the decision of piece {s[c.BARRIER]}")
    elif s[c.LSB_HEAD] != s[c.LSB_TAIL] or s[c.NEXT_MATRIX] < s[c.P_MATRICES]:
        waits.append(
            f"key fork (matrix {s[c.NEXT_MATRIX]}) waits for its group or for the key buffer "
            f"({s[c.KEY_COUNT]} matrices, {s[c.KEY_USED]} of {s[c.P_LINES]} lines)"
        )
    if s[c.QK_HEAD] != s[c.QK_TAIL]:
        matrix = queues.qk[s[c.QK_HEAD]]
        full = s[c.PIPE_TAIL] - s[c.PIPE_HEAD]
        waits.append(
            f"query x key unit (row {machine.rows[machine.matrices[matrix, c.M_ROW], 1]}) waits "
            f"for keys, queries or the softmax ({full} beats in its pipeline)"
        )
    if s[c.OUT_HEAD] != s[c.OUT_TAIL]:
        job = queues.out[s[c.OUT_HEAD] % len(queues.out), c.Q_B]
        source = machine.jobs[job, c.J_SOURCE]
        waits.append(f"softmax (row {source}) waits for top-k, selector or weighted sum")
    if s[c.FILTER_NEXT] != s[c.TOPK_TAIL]:
        source = machine.jobs[queues.topk[s[c.FILTER_NEXT]], c.J_SOURCE]
        waits.append(f"filter (row {source}) waits for the weighted sum or the value buffer")
    if s[c.W_HEAD] != s[c.W_TAIL]:
        source = machine.jobs[queues.weighted[s[c.W_HEAD], c.Q_A], c.J_SOURCE]
        waits.append(f"weighted sum (row {source}) waits for its filter or its values")
    if s[c.SLOT_HEAD] != s[c.SLOT_TAIL] or s[c.NEXT_EARLY] < s[c.P_EARLY_TILES]:
        waits.append(
            f"value fork waits for the value buffer ({s[c.VALUE_COUNT]} matrices, "
            f"{s[c.VALUE_USED]} of {s[c.P_LINES]} lines), keys or filters"
        )
    if s[c.PUSHED] > s[c.JOINED]:
        waits.append(f"fetcher waits for {s[c.PUSHED] - s[c.JOINED]} beats from DRAM")
    reasons = "; ".join(waits) or "no block holds work"
    return f"nothing happened for {cycles} cycles at cycle {s[c.NOW]}: {reasons}"
