"""What the machine did, counted."""

from __future__ import annotations

from accelsim.hardware.activity import Activity
from accelsim.hardware.memories.channel import counters
from accelsim.hardware.spatten.counts import count_dram, count_requests
from accelsim.hardware.spatten.cycle import _state as c
from accelsim.hardware.spatten.cycle._engine import CycleMachine
from accelsim.hardware.spatten.facts import BITS_ON_CHIP


def activity_of(machine: CycleMachine) -> Activity:
    """Read the activity of a machine that has finished."""
    done = machine.completion_cycles
    activity = Activity(max(done), machine.config.frequency_hz, completion_cycles=done)
    count_requests(activity, machine.workload, machine.config, machine.requests)
    count_dram(activity, counters(machine.state.dram))
    # The tagged buffers poll, so reads exceed the lines that were used (section 2.8).
    line_bytes = machine.config.multipliers * BITS_ON_CHIP // 8
    for buffer, name in ((c.KEY_BUFFER, "key"), (c.VALUE_BUFFER, "value")):
        polls = int(machine.state.s[0]["readers"][buffer]["polls"])
        activity.counters[f"{name}_sram_read_bytes"] = polls * line_bytes
    return activity
