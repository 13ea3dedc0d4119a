"""Matrix fetcher: ports, crossbar and DRAM channels, as one compiled service.

A matrix is a list of transactions. Each fetch beat takes one of them for every port; addresses wait
in a FIFO at each port, the crossbar gives each DRAM channel the lowest waiting port, and a beat is
joined when all its responses are there (SpAtten IV-D; SpAtten's release, sections 2.6, 5.2, 5.3).
Matrices are fetched in the order in which they are asked for. :func:`advance` runs until a matrix
is complete or a given cycle is reached, so that all that is outstanding competes for the channels.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.blocks._crossbar import (
    PADDING,
    RING,
    cross,
    new_crossbar,
    oldest_read,
    run_channel,
    run_channels,
)
from accelsim.hardware.memories.channel import (
    NEVER,
    Banks,
    Channels,
    channel_next_response,
    channel_pop,
    new_channels,
)
from accelsim.hardware.memories.timing import (
    Organisation,
    organisation,
    ticks_per_1024_cycles,
)
from accelsim.hardware.simulation import Milestone, Module, Stream
from accelsim.jit import direct, in_place, inlined

if TYPE_CHECKING:
    from accelsim.hardware.config import MemoryConfig
    from accelsim.hardware.simulation import Clock
    from accelsim.hardware.simulation._module import Process

Ints = NDArray[np.int64]

TRANSACTION_BYTES = 32
"""Of the bus, and of a burst (release, section 2.1)."""
_LOOKED_BACK = 1 << 13
ADDRESS_LATENCY = 2
"""Cycles from an address FIFO's input to its output; the read-address register adds one more."""
CREDIT = 3
"""Cycles from the last response of a beat until it is joined (release, 2.6), and its ports may ask
for one more."""
FILL = 14
"""Cycles from the last response of a beat to the first use of its vectors (release, 2.6)."""
LOOKAHEAD = 4
"""Cycles after any event within which no request that it brings about reaches the address FIFOs, so
that the fetcher may lead all other blocks by as much (release, section 2.5)."""
_FOREVER = int(NEVER)
_NONE = np.zeros(0, np.int64)
MAP_RING = 1024
"""Requests of a DRAM channel whose ports are remembered."""

STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "cycle",  # the present one
            "tail",  # beats queued
            "pushed",  # beats in the address FIFOs or past them
            "loaded",  # beats whose addresses all left the FIFOs
            "joined",  # beats returned
            "credited",  # of them, those whose ports may ask for one more
            "waiting",  # addresses in the read-address registers
            "refused",  # DRAM ports with a parked address
            "address_fifo",  # depth
            "response_fifo",  # depth
            "address_mark",  # most entries seen in an address FIFO
            "response_mark",  # most responses seen in a response FIFO
        )
    ]
)
"""Of the whole fetcher; one record."""

BEAT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "ready",  # cycle from which it may enter the address FIFOs
            "pushed",  # cycle in which it did
            "loaded",  # ports that have taken their address
            "arrived",  # responses, and transactions that are not asked for
            "last",  # whether it is the last of its matrix
            "joined",  # cycle in which it was whole
            "first",  # transactions of its matrix in the beats before it
        )
    ]
)
"""A fetch beat."""


@in_place
def queue_matrix(
    s: Any, beats: Any, addresses: Ints, transactions: Ints, size: int, ready: int, spread: int
) -> None:
    """Append a matrix.

    Args:
        s, beats, addresses: state and beats of the fetcher.
        transactions: byte addresses in order; each beat takes one for each port.
        size: how many of them.
        ready: cycle in which the first beat may enter the address FIFOs.
        spread: cycles over which the transactions become known, evenly, the first ones in
            ``ready``; a beat waits for its last one.
    """
    width = addresses.shape[1]
    count = -(-size // width)
    tail = s[0].tail
    for beat in range(count):
        slot = (tail + beat) % RING
        beats[slot].ready = ready
        if spread:
            beats[slot].ready += -(-min((beat + 1) * width, size) * spread // size) - 1
        beats[slot].last = beat == count - 1
        beats[slot].first = beat * width
        for k in range(width):
            at = beat * width + k
            addresses[slot, k] = transactions[at] if at < size else PADDING
    s[0].tail = tail + count


@inlined
def _push_beat(s: Any, beats: Any, addresses: Ints) -> None:
    """Put the next beat into the address FIFOs; padding takes its turn there and nowhere else."""
    slot = s[0].pushed % RING
    padding = 0
    for k in range(addresses.shape[1]):
        padding += addresses[slot, k] == PADDING
    beats[slot].pushed = s[0].cycle
    beats[slot].loaded = 0
    beats[slot].arrived = padding
    s[0].pushed += 1
    s[0].address_mark = max(s[0].address_mark, s[0].pushed - s[0].loaded)


@inlined
def _load_addresses(
    s: Any, beats: Any, addresses: Ints, fetch: Any, channels: int, shift: int
) -> None:
    """Each free read-address register takes the output of its address FIFO.

    Only if there will be room for the response: without such a credit a low port, which the
    crossbar prefers, would run so far ahead that its responses block those of all others.
    """
    pushed, now = s[0].pushed, s[0].cycle
    while s[0].credited < s[0].joined and beats[s[0].credited % RING].joined + CREDIT <= now:
        s[0].credited += 1
    for k in range(len(fetch)):
        head = fetch[k].head
        if fetch[k].channel >= 0 or head >= pushed:
            continue
        slot = head % RING
        if beats[slot].pushed + ADDRESS_LATENCY > now:
            continue
        if head - s[0].credited >= s[0].response_fifo:
            continue
        fetch[k].head = head + 1
        beats[slot].loaded += 1
        address = addresses[slot, k]
        if address == PADDING:
            continue
        fetch[k].channel = (address >> 5) & (channels - 1)
        fetch[k].address = (address >> (5 + shift)) << 5
        s[0].waiting += 1
    while s[0].loaded < pushed and beats[s[0].loaded % RING].loaded == len(fetch):
        s[0].loaded += 1


@inlined
def _clock_channels(
    s: Any,
    beats: Any,
    addresses: Ints,
    fetch: Any,
    drams: Any,
    state: Channels,
    banks: Banks,
    org: Organisation,
    rate: int,
) -> None:
    """Return responses, then let the memory clock run to the end of the cycle.

    A port takes one response a cycle, of the lowest DRAM channel; the others wait in their response
    registers, and keep the next ones in the memory (release, sections 5.2, 5.3).
    """
    target = (s[0].cycle + 1) * rate >> 10
    for d in range(len(drams)):
        dram, c = drams[d], state[d]
        if dram.response:
            k, beat = oldest_read(addresses, fetch, drams, d)
            if fetch[k].served != s[0].cycle:
                fetch[k].served = s[0].cycle
                dram.response = 0
                dram.order_head += 1
                beats[beat % RING].arrived += 1
                fetch[k].returned = beat + 1
                s[0].response_mark = max(s[0].response_mark, beat + 1 - s[0].joined)
        if not dram.response and c.done_head != c.done_tail:
            channel_pop(state, d)
            dram.response = 1
        run_channel(state, banks, org, d, target)


@inlined
def _quiet_until(
    s: Any, beats: Any, drams: Any, state: Channels, org: Organisation, rate: int, limit: int
) -> int:
    """Next cycle in which the front end has work; until then channels run independently."""
    until = np.int64(limit)
    if s[0].pushed < s[0].tail:
        until = min(until, np.int64(beats[s[0].pushed % RING].ready))
    for d in range(len(state)):
        if drams[d].response or state[d].done_head != state[d].done_tail:
            return int(s[0].cycle)
        response = channel_next_response(state, org, d)
        if response < NEVER:
            # The cycle whose ticks reach it: (cycle + 1) * rate >> 10 >= response.
            until = min(until, np.int64(((response << 10) - 1) // rate))
    return int(max(until, s[0].cycle))


@in_place
def advance(
    s: Any,
    beats: Any,
    addresses: Ints,
    fetch: Any,
    drams: Any,
    state: Channels,
    banks: Banks,
    org: Organisation,
    shift: int,
    rate: int,
    limit: int,
) -> int:
    """Run until a matrix is complete or the cycle reaches ``limit``.

    Args:
        s: state of the fetcher.
        beats: [RING].
        addresses: of each beat, [RING, ports].
        fetch, drams: of the crossbar.
        state, banks: of the DRAM channels.
        org: of one DRAM channel.
        shift: log2 of the number of channels (32-byte interleave, release, section 5.1).
        rate: memory clock ticks in 1024 core cycles.
        limit: cycle to stop at.

    Returns:
        1 if a matrix was completed, else 0.
    """
    while s[0].cycle < limit:
        if s[0].joined == s[0].tail:
            run_channels(state, banks, org, limit * rate >> 10)
            s[0].cycle = limit
            return 0
        slot = s[0].joined % RING
        complete = s[0].joined < s[0].pushed and beats[slot].arrived == len(fetch)
        if s[0].waiting == s[0].refused == 0 and s[0].loaded == s[0].pushed and not complete:
            s[0].cycle = _quiet_until(s, beats, drams, state, org, rate, limit)
            run_channels(state, banks, org, s[0].cycle * rate >> 10)
            if s[0].cycle == limit:
                return 0
        now = s[0].cycle
        pushed = s[0].pushed
        room = pushed < s[0].tail and pushed - s[0].loaded < s[0].address_fifo
        if room and beats[pushed % RING].ready <= now:
            _push_beat(s, beats, addresses)
        if s[0].waiting or s[0].refused:
            left, accepted = cross(fetch, drams, state, banks, org)
            s[0].waiting -= left
            s[0].refused += left - accepted
        if s[0].loaded != s[0].pushed:
            _load_addresses(s, beats, addresses, fetch, len(drams), shift)
        _clock_channels(s, beats, addresses, fetch, drams, state, banks, org, rate)
        s[0].cycle = now + 1
        if s[0].joined < s[0].pushed and beats[slot].arrived == len(fetch):
            beats[slot].joined = now
            s[0].joined += 1
            if beats[slot].last:
                return 1
    return 0


class Matrix(Milestone):
    """A matrix that was asked for; reached in the cycle in which its last beat is joined.

    Args:
        env: clock.
        code: its name in a timeline.
        asked: cycle in which it was asked for.

    Attributes:
        begin, end: its first fetch beat, and that after its last, once it was asked for.
        before: transactions in front of its vectors.
        transactions: of the vectors.
        usable: cycle from which all its vectors can be used, once it was announced.
    """

    __slots__ = ("asked", "before", "begin", "code", "end", "transactions", "usable")

    def __init__(self, env: Clock, code: int, asked: int) -> None:
        super().__init__(env)
        self.code, self.asked = code, asked
        self.before = self.transactions = 0
        self.begin: int
        self.end: int
        self.usable: int


class MatrixFetcher(Module):
    """Fetches matrices from DRAM, one after the other.

    Args:
        env: clock.
        ports: transactions of a beat.
        channels: of DRAM.
        memory: of each channel.
        frequency_hz: core clock.
        address_fifo, response_fifo: entries at each port.
        recorder: takes the timeline, if given.

    Attributes:
        requests: matrices that were asked for, in order.
        state, beats: of the compiled service, for whoever looks at arrival times.
        service: all arguments of the compiled service but the last.
        watch: sees what the channels do, if set.
    """

    peak_operations_per_cycle: int

    def __init__(
        self,
        env: Clock,
        ports: int,
        channels: int,
        memory: MemoryConfig,
        frequency_hz: float,
        address_fifo: int,
        response_fifo: int,
        recorder: Any = None,
    ) -> None:
        super().__init__(env, "fetcher", recorder)
        self._clock = env
        self.requests = Stream(env)
        self.ports = ports
        self.state = np.zeros(1, STATE)
        self.state[0]["address_fifo"], self.state[0]["response_fifo"] = address_fifo, response_fifo
        self.beats = np.zeros(RING, BEAT)
        self.addresses = np.zeros((RING, ports), np.int64)
        fetch, drams = new_crossbar(ports, channels, MAP_RING)
        org = organisation(memory, writes=False)
        self.channels, banks = new_channels(channels, org)
        rate = ticks_per_1024_cycles(memory, frequency_hz)
        self.service = (
            self.state,
            self.beats,
            self.addresses,
            fetch,
            drams,
            self.channels,
            banks,
            org,
            channels.bit_length() - 1,
            rate,
        )
        self._cycle, self._pushed, self._returned = (
            self.state[name] for name in ("cycle", "pushed", "joined")
        )
        queue = direct(queue_matrix, self.state, self.beats, self.addresses, _NONE)
        self._queue = functools.partial(queue, self.state, self.beats, self.addresses)
        self._advance = direct(advance, *self.service[:-2])
        self.round_trip = ADDRESS_LATENCY + int(org[0]["read_latency"]) * 1024 // rate
        self.peak_operations_per_cycle = ports
        self.operations = self._tail = self._joined = 0
        self.watch: Any = None

    def ask(
        self, matrix: Matrix, transactions: Ints, count: int, ready: int, spread: int = 0
    ) -> None:
        """Queue a matrix.

        Args:
            matrix: what is asked for.
            transactions: byte addresses, in order.
            count: how many of them.
            ready: cycle in which its first beat may enter the address FIFOs.
            spread: cycles over which its beats become ready.
        """
        beats = -(-count // self.ports)
        matrix.begin = self._tail
        matrix.end = self._tail = matrix.begin + beats
        if matrix.end - self._joined > RING - _LOOKED_BACK:
            raise SimulationError(
                f"{matrix.end - self._joined} fetch beats are outstanding; the fetcher keeps "
                f"{RING - _LOOKED_BACK}"
            )
        if self.watch is not None:
            self.watch.queue(matrix.begin, beats, matrix.code)
        self._queue(transactions, count, ready, spread)
        self.operations += count
        # An idle fetcher need not look before it can be there.
        self.requests.put(matrix, ready + self.round_trip - LOOKAHEAD)

    def run(self) -> Process:
        """Advance the compiled service when it must be.

        It may lead the other blocks by ``LOOKAHEAD`` cycles, and lag until a matrix that it cannot
        have finished would be missed.
        """
        env, asked = self._clock, self.requests.items
        joined, pushed, cycle = self._returned.item, self._pushed.item, self._cycle.item
        advance = functools.partial(self._advance, *self.service)
        if self.watch is not None:
            advance = self.watch.advance
        charged = 0
        while True:
            if not asked:
                yield self.requests.filled()
            matrix: Matrix = asked[0]
            if matrix.asked > charged:
                self.turn_to(matrix.code, charged, matrix.asked, "no_request")
                charged = matrix.asked
            self.item = matrix.code
            # A beat enters and one returns a cycle at most.
            self._joined = joined()
            awaited = matrix.end - self._joined
            unsent = matrix.end - pushed()
            if unsent > 0 and unsent + self.round_trip > awaited:
                awaited = unsent + self.round_trip
            # Nothing depends on a matrix before its last beat is in the buffer.
            look = charged + awaited - 1 + FILL - 3
            if look > env.now and not env.passes(look):
                yield env.until(look)
            done = advance(int(min(env.peek(), _FOREVER)) + LOOKAHEAD)
            reached = cycle()
            if reached > charged:
                self.worked(charged, reached - charged)
                charged = reached
            if done:
                asked.popleft()
                matrix.usable = charged - 1 + FILL
                matrix.announce(charged - 1)

    def queues(self) -> dict[str, tuple[float, float]]:
        """Depth and high-water mark of each queue, in entries."""
        state = self.state[0]
        return {
            f"{name}_fifo": (int(state[f"{name}_fifo"]), int(state[f"{name}_mark"]))
            for name in ("address", "response")
        }


def bytes_per_cycle(memory: MemoryConfig, channels: int, frequency_hz: float) -> float:
    """Peak of all channels at their nominal rate, bytes a core cycle."""
    return (
        channels * memory.bytes_per_tick * memory.clock_hz / frequency_hz
        if math.isfinite(memory.bytes_per_tick)
        else math.inf
    )
