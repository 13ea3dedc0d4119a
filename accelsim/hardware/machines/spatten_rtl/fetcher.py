"""Matrix fetcher, crossbar and DRAM (sections 2.6 and 5): the compiled service, run when needed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.blocks._crossbar import RING
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.channel_watch import ChannelWatch
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.facts import ADDRESS_LATENCY
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import (
    advance,
    new_fetcher,
    queue_matrix,
)
from accelsim.hardware.machines.spatten_rtl.fetch_memo import FetchMemo
from accelsim.hardware.machines.spatten_rtl.items import Matrix
from accelsim.hardware.memories.channel import NEVER, is_recording, new_channels
from accelsim.hardware.memories.timing import organisation, ticks_per_1024_cycles
from accelsim.hardware.simulation import Clock, Module, Pause, Process, Stream
from accelsim.hardware.timeline import Recorder

Ints = NDArray[np.int64]

FORK_TO_FETCH = 4
"""From the key fork to the address FIFOs (2.5)."""
WRITTEN = 8
"""From the last response of a beat to its lines in the buffer: 6 of the 14 cycles to their
multiplication come after that (2.6). Nothing depends on a beat before."""
_LOOKAHEAD = FORK_TO_FETCH
"""Cycles after an event within which no matrix that it brings about reaches the address FIFOs: the
fetcher may lead all other blocks by as much."""
_FOREVER = int(NEVER)
_LOOKED_BACK = 1024
"""Fetch beats behind the present one whose times are still asked for; 17 rows are (2.14)."""
_BEATS = RING - _LOOKED_BACK
"""Fetch beats that can be outstanding."""


class MatrixFetcher(Module):
    """Fetches one matrix after the other, in the order in which they are asked for.

    It may lead the other blocks as far as nothing that they do can reach it, and lags behind them
    until a matrix that it cannot have finished would be missed.

    Args:
        env: clock.
        config: of the machine.
        memory: behind it.
        recorder: takes the timeline, if given.
        looks_up: whether fetches that were simulated before may be looked up.

    Attributes:
        state: of the fetch kernel.
        dram: channels, their banks, and the organisation of one.
        shift: log2 of the number of channels.
        rate: memory clock ticks in 1024 core cycles.
        watch: of the channels, with a recorder.
        memo: of fetches, where they are looked up.
    """

    def __init__(
        self,
        env: Clock,
        config: SpattenRtlConfig,
        memory: MemoryConfig,
        recorder: Recorder | None = None,
        looks_up: bool = True,
    ) -> None:
        super().__init__(env, "fetcher", recorder)
        self._clock = env
        self._ports = config.fetch_channels
        org = organisation(memory, writes=False)
        channels, banks = new_channels(config.channels, org)
        self.dram = channels, banks, org
        self.shift = config.channels.bit_length() - 1
        self.rate = ticks_per_1024_cycles(memory, config.frequency_hz)
        # The buffers are cleared after reset, two lines a cycle (2.8).
        self.state = new_fetcher(config.fetch_channels, config.channels, config.buffer_lines // 2)
        self._matrices = Stream(env)
        # A beat is on its way through the memory for so many cycles at least.
        self._round_trip = ADDRESS_LATENCY + int(org[0]["read_latency"]) * 1024 // self.rate
        self.watch = None if recorder is None else ChannelWatch(recorder, config.channels)
        self.memo = None
        if looks_up and self.watch is None and not is_recording(channels, banks):
            self.memo = FetchMemo(org, config.channels, self.shift)
        service = (*self.dram, self.shift, self.rate)
        stands_in = self.watch or self.memo
        self._advance: Callable[[int], int]
        if stands_in is None:
            self._advance = functools.partial(advance, *self.state, *service)
        else:
            self._advance = functools.partial(stands_in.advance, self.state, *service)

    def ask(
        self,
        asker: Module,
        matrix: Matrix,
        transactions: Ints,
        ready: int,
        spread: int = 0,
        row_beats: int = 0,
    ) -> Pause:
        """Ask for a matrix; waits while too many beats are outstanding.

        Args:
            asker: charged while it waits.
            matrix: what is asked for.
            transactions: byte addresses of it, in order.
            ready: cycle in which its first beat may enter the address FIFOs.
            spread: cycles over which its beats become ready.
            row_beats: see :func:`.fetch_kernel.queue_matrix`.

        Raises:
            SimulationError: it has more beats than can be outstanding.
        """
        records, in_flight, addresses, *_ = self.state
        beats = -(-len(transactions) // self._ports)
        matrix.begin = int(records[0]["tail"])
        matrix.end = matrix.begin + beats
        # No beat may be overwritten that is still looked at.
        if matrix.end - int(records[0]["joined"]) > _BEATS:
            return self._ask_later(asker, matrix, transactions, ready, spread, row_beats)
        if self.watch is not None:
            self.watch.queue(self.state, len(transactions), matrix.code)
        lines, kind = matrix.lines, matrix.kind
        if self.memo is not None:
            self.memo.queue(self.state, transactions, ready, row_beats, (lines, spread, kind))
        queue_matrix(
            records, in_flight, addresses, transactions, ready, spread, lines, kind, row_beats
        )
        # An idle fetcher need not look before it can be there.
        self._matrices.put(matrix, ready + beats - 1 + self._round_trip + WRITTEN)
        return ()

    def _ask_later(
        self,
        asker: Module,
        matrix: Matrix,
        transactions: Ints,
        ready: int,
        spread: int,
        row_beats: int,
    ) -> Process:
        beats = matrix.end - matrix.begin
        if beats > _BEATS:
            raise SimulationError(
                f"row {matrix.row} fetches {beats} beats of {self._ports} transactions at once; "
                f"the event engine takes {_BEATS}"
            )
        yield from asker.wait(self._matrices.drained(), "fetcher_busy")
        matrix.asked = self._clock.now
        yield from self.ask(asker, matrix, transactions, ready, spread, row_beats)

    def run(self) -> Process:
        """Advance the compiled service to the end of one matrix after the other."""
        env, state, asked = self._clock, self.state.state[0], self._matrices.items
        charged = 0
        while True:
            if not asked:
                yield self._matrices.filled()
            matrix = asked[0]
            self.turn_to(matrix.code, charged, matrix.asked, "no_request")
            charged = max(charged, matrix.asked)
            # A beat enters and one returns a cycle at most.
            awaited = matrix.end - int(state["joined"])
            unsent = matrix.end - int(state["pushed"])
            if unsent > 0:
                awaited = max(awaited, unsent + self._round_trip)
            look = charged + awaited - 1 + WRITTEN
            if look > env.now:
                yield env.until(look)
            done = self._advance(int(min(env.peek(), _FOREVER)) + _LOOKAHEAD)
            reached = max(int(state["cycle"]), charged)
            self.worked(charged, reached - charged)
            charged = reached
            if done:
                matrix.returned = reached - 1
                matrix.announce(int(state["accepted"][matrix.kind]) >> 10)
                self._matrices.pop()

    def taken(self, beat: int) -> int:
        """Cycle in which the lines of a beat that has come were taken from their buffer."""
        return int(self.state.beats[beat % RING]["taken"])
