"""What must hold of every run, whatever the machine; checked on every result."""

from __future__ import annotations

from accelsim.errors import InvariantError
from accelsim.hardware.activity import Activity
from accelsim.workloads import Workload

BURST_BYTES = 32
"""Of a DRAM burst."""


def check(activity: Activity, workload: Workload) -> None:
    """Check the books of a run.

    Raises:
        InvariantError: a module did more than it can, a queue held more than it holds, cycles of a
            module do not add up, a counter is negative, or an output came before its time; names
            the module.
    """
    where = f"workload '{workload.name}'"
    for name, module in activity.modules.items():
        spent = module.busy_cycles + sum(module.stall_cycles.values())
        negative = [reason for reason, cycles in module.stall_cycles.items() if cycles < 0]
        if spent != activity.cycles or negative or module.busy_cycles < 0:
            raise InvariantError(
                f"{where}: module '{name}': {module.busy_cycles} busy and "
                f"{spent - module.busy_cycles} stalled cycles of {activity.cycles}"
                + (f" (negative: {', '.join(negative)})" if negative else "")
            )
        peak, done = module.peak_operations_per_cycle, module.operations
        if peak is not None and done is not None and done > peak * module.busy_cycles:
            raise InvariantError(
                f"{where}: module '{name}': {done} operations in {module.busy_cycles} busy cycles; "
                f"it can do {peak:g} a cycle"
            )
    counted = activity.counters | {f"read {t}": n for t, n in activity.dram_read_bytes.items()}
    counted |= {"written": activity.dram_write_bytes, "cycles": activity.cycles}
    for name, amount in counted.items():
        if amount < 0:
            raise InvariantError(f"{where}: counter '{name}' is {amount}; nothing is done less")
    for name, queue in activity.queues.items():
        if queue.high_water > queue.depth:
            raise InvariantError(
                f"{where}: queue '{name}' held {queue.high_water:g} {queue.unit}; it holds "
                f"{queue.depth:g}"
            )
    if activity.completion_cycles:
        last = max(activity.completion_cycles)
        if min(activity.completion_cycles) <= 0 or last > activity.cycles:
            raise InvariantError(
                f"{where}: outputs between cycle {min(activity.completion_cycles)} and {last} of "
                f"{activity.cycles}"
            )
        if activity.dependencies == "causal":
            _check_order(activity, workload, where)


def _check_order(activity: Activity, workload: Workload, where: str) -> None:
    """No output of a token or layer before all those of the one before it."""
    step, layer = workload["step"], workload["layer"]
    done = latest = 0
    for row, cycle in enumerate(activity.completion_cycles):
        if row and (step[row] != step[row - 1] or layer[row] != layer[row - 1]):
            done = latest
        if cycle <= done:
            raise InvariantError(
                f"{where}: row {row} (step {step[row]}, layer {layer[row]}) is done in cycle "
                f"{cycle}; the layer before in {done}"
            )
        latest = max(latest, cycle)


def check_bytes(activity: Activity, workload: Workload) -> None:
    """Check that what was fetched is what the decisions name, in whole bursts.

    Raises:
        InvariantError: fewer bytes than the policy's decisions name, or more than bursts explain.
    """
    asked = workload.policy_bytes()
    moved = activity.dram_read_bytes
    vectors = {
        "key_msb": int(workload["keys"].sum()),
        "key_lsb": int(workload["keys"].sum()),
        "value": int(workload["values"].sum()),
    }
    again = activity.counters.get("refetched_bytes", 0)
    for tensor, count in vectors.items():
        # A vector begins and ends inside a burst at worst.
        most = asked[tensor] + 2 * BURST_BYTES * count + again
        # Of a prompt run position by position, only some positions may need LSBs.
        least = 0 if again and tensor == "key_lsb" else asked[tensor]
        if not least <= moved.get(tensor, 0) <= most:
            raise InvariantError(
                f"workload '{workload.name}': {moved.get(tensor, 0)} bytes of {tensor} were "
                f"fetched; the decisions name {asked[tensor]}"
            )
