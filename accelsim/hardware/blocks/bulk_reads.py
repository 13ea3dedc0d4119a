"""Bulk reads of consecutive bytes through all channels of the bank model.

For machines that copy whole matrices on chip (A3, MNNFast) or stream weights. Consecutive bursts go
to consecutive channels; each channel takes one request a cycle and gives one response a cycle, so
the time is what banks, refresh and the request window leave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks.matrix_fetcher import bytes_per_cycle
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories.channel import (
    ACT,
    CONFLICTS,
    HITS,
    MISSES,
    PRE,
    RD,
    REFAB,
    Banks,
    Channels,
    channel_can_push,
    channel_pop,
    channel_push,
    channel_tick,
    counters,
    new_channels,
)
from accelsim.hardware.memories.timing import Organisation, organisation, ticks_per_1024_cycles
from accelsim.hardware.timeline import NO_ITEM, Recorder
from accelsim.jit import kernel
from accelsim.workloads import Workload

_TICKS_PER_READ = 2000
"""A read that takes longer on average than this never ends."""


class BulkReads:
    """The memory of one machine, and what has been read from it.

    Args:
        channels: over which consecutive bursts are spread.
        memory: of each of them.
        frequency_hz: core clock.
        recorder: takes what the channels do, if given.

    Attributes:
        atom: bytes of a burst.
        peak_bytes_per_cycle: of all channels at their nominal rate.
    """

    def __init__(
        self,
        channels: int,
        memory: MemoryConfig,
        frequency_hz: float,
        recorder: Recorder | None = None,
    ) -> None:
        self.channels = channels
        self._recorder = recorder
        self._tracks: list[int] = []
        self.peak_bytes_per_cycle = bytes_per_cycle(memory, channels, frequency_hz)
        self._rate = ticks_per_1024_cycles(memory, frequency_hz)
        self.atom = memory.transaction_bytes
        self._org = organisation(memory)
        self._state, self._banks = new_channels(channels, self._org)

    def read(self, address: int, size: int, start: int, item: int = NO_ITEM) -> tuple[int, int]:
        """Read ``size`` bytes from byte ``address`` on, not before cycle ``start``.

        Args:
            address, size, start: what, and when; no earlier than the end of the read before.
            item: what is read, for the timeline.

        Returns:
            The cycle in which the last response is there, and the bytes moved (whole bursts).

        Raises:
            SimulationError: a timing table that can never be met.
        """
        if size < 1:
            return start, 0
        first, last = address // self.atom, (address + size - 1) // self.atom
        if self._recorder is not None and not self._tracks:
            # All modules have their tracks by now.
            self._tracks = [self._recorder.channel(c) for c in range(self.channels)]
        begin = start * self._rate >> 10
        end = begin
        for channel in range(self.channels):
            skip = (channel - first) % self.channels
            if first + skip > last:
                continue
            local = (first + skip) // self.channels
            count = (last - first - skip) // self.channels + 1
            limit = begin + _TICKS_PER_READ * (count + 10)
            finished = int(
                _read_run(
                    self._state,
                    self._banks,
                    self._org,
                    channel,
                    local,
                    count,
                    self.atom,
                    begin,
                    limit,
                )
            )
            if finished < 0:
                raise SimulationError(
                    f"memory: {count} reads of channel {channel} do not end; check the timing table"
                )
            end = max(end, finished)
            if self._recorder is not None:
                until = -(-(finished << 10) // self._rate)
                self._recorder.add_reads(self._tracks[channel], start, until, item, count)
        return -(-(end << 10) // self._rate), int(last - first + 1) * self.atom

    def count(self, activity: Activity) -> None:
        """Add the DRAM commands so far to an activity."""
        counted = counters(self._state)
        for name, column in {
            "dram_activations": ACT,
            "dram_precharges": PRE,
            "dram_reads": RD,
            "dram_refreshes": REFAB,
            "row_hits": HITS,
            "row_misses": MISSES,
            "row_conflicts": CONFLICTS,
        }.items():
            activity.count(name, int(counted[column]))


@kernel
def _read_run(
    state: Channels,
    banks: Banks,
    org: Organisation,
    channel: int,
    first: int,
    count: int,
    atom: int,
    start: int,
    limit: int,
) -> int:
    """Read consecutive bursts of one channel; the tick of the last response, or -1."""
    while state[channel].tick < start:
        # Nothing happens before the next event (a refresh): skip to it in one step.
        free = min(start, state[channel].next_event - 1) - state[channel].tick
        if free > 0:
            state[channel].tick += free
        else:
            channel_tick(state, banks, org, channel)
    offered, received = 0, 0
    while state[channel].tick < limit:
        if offered < count and channel_can_push(state, org, channel):
            channel_push(state, banks, org, channel, (first + offered) * atom, offered, False)
            offered += 1
        if channel_pop(state, channel) >= 0:
            received += 1
            if received == count:
                return int(state[channel].tick)
        channel_tick(state, banks, org, channel)
    return -1


def matrix_slots(workload: Workload, row_bytes: int) -> NDArray[np.int64]:
    """Byte address of the matrices of each workload row.

    A layer and head keep their place over the steps, as a KV cache does; places are 4 KiB aligned
    and as large as the longest context.
    """
    region = -(-workload.cache_shape.keys * row_bytes // 4096) * 4096
    return workload.cache_slots * region
