"""DRAM requests of a run, tick by tick, beside the log of the authors' RTL.

A log (``dram_log.csv.gz`` beside a case file) has the columns ``id,channel,event,tick,address``:
``push`` when a channel accepts a read, ``pop`` when it hands it back; ticks since reset; addresses
in bytes within the channel. Its numbering of the channels is its own, and lines may be missing.

The shipped log has 31,179 of the 31,680 events of its 12 cases. The others were garbled where the
outputs of the channels met, or their partner was: kept is what has a tick in order, an address of
the test bench, and for a push the pop of the same address 11 to 400 ticks later.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.cycle import CycleMachine
from accelsim.hardware.memories.channel import (
    channel_pop,
    channel_push,
    channel_tick,
    new_channels,
    record_requests,
)
from accelsim.hardware.memories.timing import organisation
from accelsim.validation._table import CaseFileError
from accelsim.workloads import Workload

FILE = "dram_log.csv.gz"
COLUMNS = ("id", "channel", "event", "tick", "address")
PUSH, POP = "push", "pop"

Event = tuple[str, int, int]
"""Push or pop, tick, address in the channel."""
Log = dict[int, set[Event]]
"""Events of each channel. A channel has at most one of each kind a tick."""


def read_logs(path: Path) -> dict[str, Log]:
    """Read the logs of all cases in a file.

    Raises:
        CaseFileError: not such a file.
    """
    logs: dict[str, Log] = {}
    number = 1
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                number += 1
                log = logs.setdefault(row["id"], {}).setdefault(int(row["channel"]), set())
                log.add((row["event"], int(row["tick"]), int(row["address"])))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise CaseFileError(f"{path}: cannot be read as gzip-compressed CSV ({error})") from None
    except (KeyError, TypeError, ValueError):
        raise CaseFileError(
            f"{path}: line {number}: expected the columns {','.join(COLUMNS)}, with integers in "
            "the second and the last two"
        ) from None
    return logs


def simulated_log(workload: Workload, config: SpattenRtlConfig, memory: MemoryConfig) -> Log:
    """Run a workload on the cycle engine and note what every channel accepts and hands back."""
    (pushes, pops), _ = record_requests(lambda: _watch(CycleMachine(workload, config, memory)))
    return {
        channel: _with_addresses(pushes.get(channel, {}), pops.get(channel, set()), memory)
        for channel in range(config.channels)
    }


def agreeing(reference: Log, ours: Log) -> int:
    """Events of the reference that ours also has, tick by tick.

    Each of its channels is compared with the channel of ours that has most of it; two channels of
    the reference cannot share one.
    """
    free, found = dict(ours), 0
    for events in reference.values():
        channel = max(free, key=lambda candidate: len(events & free[candidate]))
        found += len(events & free.pop(channel))
    return found


Pushes = dict[int, dict[int, int]]
Pops = dict[int, set[int]]


def _watch(machine: CycleMachine) -> tuple[Pushes, Pops]:
    """Per channel: address by tick of the push, and ticks of the pops."""
    dram, banks = machine.state.dram, machine.state.banks
    seen = ["log_next", "done_head"]
    pushes: Pushes = {}
    pops: Pops = {}
    finished = False
    while not finished:
        tick = int(machine.state.s[0]["now"])
        before = dram[seen].copy()
        finished = machine.run(until=tick + 1)
        pushed, popped = (dram[name] != before[name] for name in seen)
        for channel in pushed.nonzero()[0]:
            at = before[channel]["log_next"]
            # The run that only counts has no room for addresses.
            address = int(banks[channel, at]) >> 1 if at < banks.shape[1] else 0
            pushes.setdefault(int(channel), {})[tick] = address
        for channel in popped.nonzero()[0]:
            pops.setdefault(int(channel), set()).add(tick)
    return pushes, pops


def _with_addresses(pushes: dict[int, int], pops: set[int], memory: MemoryConfig) -> set[Event]:
    """Give each pop its address: the machine only counts responses, so the channel runs again."""
    org = organisation(memory)
    state, banks = new_channels(1, org)
    events: set[Event] = set()
    for tick in range(max(pops, default=-1) + 1):
        state[0]["tick"] = tick
        if tick in pushes:
            channel_push(state, banks, org, 0, pushes[tick], pushes[tick], False)
            events.add((PUSH, tick, pushes[tick]))
        if tick in pops:
            events.add((POP, tick, channel_pop(state, 0)))
        channel_tick(state, banks, org, 0)
    return events
