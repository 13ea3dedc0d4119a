"""What the machine did, counted."""

from __future__ import annotations

from accelsim.hardware.activity import Activity
from accelsim.hardware.machines._spatten import BITS_ON_CHIP, count_dram
from accelsim.hardware.machines.spatten_rtl.counts import count_requests
from accelsim.hardware.machines.spatten_rtl.cycle import _state as c
from accelsim.hardware.machines.spatten_rtl.cycle._engine import CycleMachine
from accelsim.hardware.memories.channel import counters


def activity_of(machine: CycleMachine) -> Activity:
    """Read the activity of a machine that has finished."""
    done = machine.completion_cycles
    activity = Activity(max(done), machine.config.frequency_hz, completion_cycles=done)
    count_requests(activity, machine.workload, machine.requests)
    count_dram(activity, counters(machine.state.dram))
    # The tagged buffers poll, so reads exceed the lines that were used (section 2.8).
    line_bytes = machine.config.multipliers * BITS_ON_CHIP // 8
    for buffer, name in ((c.KEY_BUFFER, "key"), (c.VALUE_BUFFER, "value")):
        polls = int(machine.state.s[0]["readers"][buffer]["polls"])
        activity.counters[f"{name}_sram_read_bytes"] = polls * line_bytes
    return activity
