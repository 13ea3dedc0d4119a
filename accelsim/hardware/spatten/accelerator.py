"""SpAtten as SimPy processes: the key side, the value side, and the memory between them.

One event per item and module; what happens inside an item is computed by compiled functions
(the fetch through crossbar and DRAM, the quick-select passes). Section numbers refer to the
microarchitecture specification of the released hardware (docs/accelerators/spatten.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import simpy
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig, SpattenConfig
from accelsim.hardware.memories._channel import counters, new_channels
from accelsim.hardware.memories._timing import organisation, ticks_per_1024_cycles
from accelsim.hardware.simulation import Module, Stream
from accelsim.hardware.simulation._module import Process
from accelsim.hardware.spatten._addresses import AddressMap
from accelsim.hardware.spatten._counts import count_dram, count_requests
from accelsim.hardware.spatten._fetch_kernel import (
    ACCEPTED,
    CYCLE,
    KEY,
    VALUE,
    advance,
    new_fetcher,
    queue_matrix,
)
from accelsim.hardware.spatten._record import ChannelWatch
from accelsim.hardware.spatten._requests import ATOM, LSB_BITS, Request, requests
from accelsim.hardware.timeline import (
    KEYS_LSB,
    KEYS_MSB,
    NO_ITEM,
    SCORES,
    VALUES,
    Recorder,
    item_code,
)
from accelsim.workloads import Workload

_FORK_TO_FETCH = 4
"""From the key fork to the address FIFOs (2.5)."""
_ALLOCATION = 2
"""From a new request to the key fork (2.5)."""
_DECISION = 10
"""From the last line to the first decided beat, plus log2(S) (2.11)."""
_DECISION_TO_VALUE = 7
"""Ordering, rebatch, index reload and trim of a normal item (2.12)."""
_TOPK_FIFO = 2
_GATHER_TO_FETCH = 5
"""From the value fork to the address FIFOs, plus rows gathered (2.14)."""
_MULTIPLY_VALUE = 3
"""Broadcast, multiply and accumulate registers, plus log2(S) (2.15)."""
_WRITTEN_TO_TAKEN = 6
"""From a line in the buffer to its multiplication (2.6)."""
_READ_QUEUE = 15 + 5
"""Lines between the read queue's input and the multipliers (2.8)."""
_REQUANT_REISSUE = 2
"""From the report to the key fork (2.16)."""
_KEY_RELEASE = 5
"""From the report to usable space (2.16)."""
_HANDLES = 16
"""Live allocations; as released, the table of them is cleared first, one a cycle (2.3)."""
_INFLIGHT_ITEMS = 9
"""New items that may await their decision (2.4)."""


@dataclass
class _Item:
    """A request on its way, and the events of its life."""

    request: Request
    released: simpy.Event
    decided: simpy.Event
    finished: simpy.Event
    lsb_pass: bool = False
    fetched: simpy.Event | None = None
    ordered_at: int = 0
    at_value_fork: int = 0
    forked: simpy.Event | None = None

    @property
    def code(self) -> int:
        """Name of the item in a timeline."""
        return item_code(self.request.row, KEYS_LSB if self.lsb_pass else KEYS_MSB)


@dataclass
class _Matrix:
    """A matrix to fetch: its transactions, when its first beat is ready, whom to tell."""

    beats: np.ndarray
    lines: int
    ready: int
    spread: int
    kind: int
    done: simpy.Event = field(repr=False)
    code: int
    row_beats: int = 0


class Spatten:
    """One run of one accelerator on one workload."""

    def __init__(
        self,
        workload: Workload,
        config: SpattenConfig,
        memory: MemoryConfig,
        recorder: Recorder | None = None,
    ) -> None:
        self.workload = workload
        self.config = config
        self.env = env = simpy.Environment()
        self.table = requests(workload, config)
        self.requests = self.table.each()
        self.items = len(self.requests) + int(self.table.requant.sum())
        self.addresses = AddressMap(workload, config)
        self.org = organisation(memory)
        self.channels = new_channels(config.channels, self.org)
        self.rate = ticks_per_1024_cycles(memory, config.frequency_hz)
        # As released, the buffers and the table of handles are cleared after reset.
        self.cleared = config.requant_bits == "forced"
        warmup = config.buffer_lines // 2 if self.cleared else 0
        self.fetcher = new_fetcher(config.fetch_channels, config.channels, warmup)
        self.log_width = int(np.log2(config.vectors_per_line))
        names = (
            "allocator",
            "fetcher",
            "qk_unit",
            "softmax",
            "decision",
            "topk",
            "value_fork",
            "pv_unit",
        )
        self.modules = {name: Module(env, name, recorder) for name in names}
        self.watch = None if recorder is None else ChannelWatch(recorder, config.channels)
        self.step = advance if self.watch is None else self.watch.advance
        self.shift = config.channels.bit_length() - 1
        self.admitted = Stream(env, _INFLIGHT_ITEMS)
        self.requant = Stream(env, len(self.requests) + 1)
        self.fetches = Stream(env, 16)
        self.key_lines = Stream(env, max(config.key_prefetch_depth, 1))
        self.scores = Stream(env, 2)
        self.ordered = Stream(env, 16 * config.buffer_lines)
        self.probabilities = Stream(env, max(config.buffer_lines // 64, 2))
        self.value_rows = Stream(env, max(config.key_prefetch_depth, 1))
        self.matrix_done: dict[int, list[simpy.Event]] = {KEY: [], VALUE: []}
        self.bytes = dict.fromkeys(("query", "key_msb", "key_lsb", "value"), 0)
        self.completions = [0] * len(self.requests)

    def run(self) -> Activity:
        """Simulate to the last response.

        Raises:
            SimulationError: the processes wait for one another.
        """
        processes = (
            self.allocate(),
            self.fetch(),
            self.multiply_keys(),
            self.decide(),
            self.select(),
            self.fetch_values(),
            self.multiply_values(),
        )
        running = [self.env.process(process) for process in processes]
        try:
            self.env.run(until=running[-1])
        except RuntimeError:  # SimPy: nothing is scheduled any more
            waiting = [p.name for p in running if p.is_alive]
            raise SimulationError(
                f"workload '{self.workload.name}': no progress after cycle {int(self.env.now)}, "
                f"{sum(cycle > 0 for cycle in self.completions)} of {len(self.requests)} requests "
                f"done; waiting: {', '.join(waiting)}"
            ) from None
        total = max(self.completions)
        return self._activity(total)

    # -- key side ---------------------------------------------------------------------------

    def allocate(self) -> Process:
        """Ring allocator and requant-or-new arbiter: one item at a time through the key fork."""
        module, env = self.modules["allocator"], self.env
        used = 0
        live: list[tuple[int, simpy.Event]] = []
        new = list(self.requests)[::-1]
        last: _Item | None = None
        clearing = _HANDLES if self.cleared else 0
        yield from module.busy(clearing + _ALLOCATION)
        capacity = self.config.buffer_lines
        for _ in range(self.items):
            module.item = NO_ITEM
            while True:
                while live and live[0][1].processed:
                    used -= live.pop(0)[0]
                if self.requant.store.items or not new:
                    item: _Item = yield from module.take(self.requant, "awaiting_requant")
                    break
                request = new[-1]
                lines = self._buffer_lines(request)
                waiting = len(self.admitted.store.items) >= _INFLIGHT_ITEMS
                if used + lines <= capacity and len(live) < _HANDLES and not waiting:
                    new.pop()
                    item = _Item(request, env.event(), env.event(), env.event())
                    used += lines
                    live.append((lines, item.released))
                    break
                again = self.requant.store.get()
                blocked = live[0][1] if live else env.timeout(1)
                yield from module.wait(again | blocked, "buffer_full")
                if again.triggered:  # perhaps in the very cycle of the release
                    item = cast(_Item, again.value)
                    break
                again.cancel()
            module.item = item.code
            if (
                self.config.key_prefetch_depth == 0
                and last is not None
                and not last.decided.triggered
            ):
                # The fork holds its source until the dot product takes the last line (2.4).
                yield from module.wait(last.decided, "serial_key_fork")
            last = item
            item.decided = env.event()
            yield from self._issue_keys(module, item)
            yield from module.give(self.key_lines, item, "key_queue_full")
            yield from module.busy(1)

    def _buffer_lines(self, request: Request) -> int:
        if request.key_part:
            return 0
        lines = -(-request.keys // self.config.vectors_per_line)
        return (lines + lines % 2) * request.key_fused

    def _issue_keys(self, module: Module, item: _Item) -> Process:
        request = item.request
        item.fetched = None
        if request.key_part and not item.lsb_pass:
            return
        if item.lsb_pass:
            addresses = self.addresses.keys(request.row, request.keys, LSB_BITS, True)
            self.bytes["key_lsb"] += len(addresses) * ATOM
            beats = request.rescore_lines
        else:
            bits = request.key_bits * request.key_fused
            addresses = self.addresses.keys(request.row, request.keys, bits, False)
            self.bytes["key_msb"] += len(addresses) * ATOM
            beats = request.score_lines
        if self.config.query_traffic and not item.lsb_pass:
            queries = self.addresses.queries(request.row)
            self.bytes["query"] += len(queries) * ATOM
            addresses = np.concatenate((queries, addresses))
        if not item.lsb_pass:
            addresses = self._with_policy_reads(request.row, addresses)
        lines = -(-request.keys // self.config.vectors_per_line)
        item.fetched = self.env.event()
        ready = int(self.env.now) + _FORK_TO_FETCH
        matrix = _Matrix(
            self.addresses.beats(addresses),
            min(lines + lines % 2, beats),
            ready,
            0,
            KEY,
            item.fetched,
            item.code,
        )
        yield from module.give(self.fetches, matrix, "fetcher_busy")

    def _with_policy_reads(self, row: int, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """Put what a policy reads beside the vectors (page bounds, scales) in front of them."""
        for plane, name in enumerate(("metadata", "residual"), start=4):
            size = int(self.workload[f"{name}_bytes"][row])
            if size:
                extra = self.addresses.contiguous(row, plane, size)
                self.bytes[name] = self.bytes.get(name, 0) + len(extra) * ATOM
                addresses = np.concatenate((extra, addresses))
        return addresses

    def fetch(self) -> Process:
        """Matrix fetcher, crossbar and DRAM: advances the compiled model between events."""
        module, env = self.modules["fetcher"], self.env
        outstanding: list[int] = []
        while True:
            if not outstanding:
                matrix = yield from module.take(self.fetches, "no_request")
                self._advance(int(env.now))
                outstanding.append(self._queue(matrix))
            while self.fetches.store.items:
                outstanding.append(self._queue((yield self.fetches.store.get())))
            horizon = min(env.peek(), env.now + (1 << 40))
            limit = int(max(horizon, env.now + 1))
            finished = self._advance(limit)
            module.item = outstanding[0]
            yield from module.busy_until(int(self.fetcher.scalars[CYCLE]))
            if finished:
                outstanding.pop(0)
                kind = finished - 1
                self.matrix_done[kind].pop(0).succeed(
                    int(self.fetcher.scalars[ACCEPTED + kind]) >> 10
                )

    def _advance(self, limit: int) -> int:
        return self.step(self.fetcher, self.channels, self.org, self.shift, self.rate, limit)

    def _queue(self, matrix: _Matrix) -> int:
        if self.watch is not None:
            self.watch.queue(self.fetcher, len(matrix.beats), matrix.code)
        queue_matrix(
            self.fetcher,
            matrix.beats,
            matrix.ready,
            matrix.spread,
            matrix.lines,
            matrix.kind,
            matrix.row_beats,
        )
        self.matrix_done[matrix.kind].append(matrix.done)
        return matrix.code

    def multiply_keys(self) -> Process:
        """Key buffer and dot product: one line a cycle, as they arrive."""
        module, env = self.modules["qk_unit"], self.env
        for _ in range(self.items):
            item = yield from module.take(self.key_lines, "no_keys")
            request = item.request
            start = int(env.now)
            beats = request.rescore_lines if item.lsb_pass else request.score_lines
            lines = -(-request.keys // self.config.vectors_per_line)
            if item.fetched is None:
                yield from module.busy(beats)
            else:
                arrived = yield item.fetched
                end = max(arrived, int(env.now) + 1)
                work = min(lines, beats)
                yield from module.work_on_arrivals(start, end, work, "awaiting_keys")
            extra = beats - lines
            if request.queries > 1:
                yield from module.busy(max(extra, 0))
            item.decided.succeed()
            yield from module.give(self.scores, item, "decision_full")

    def decide(self) -> Process:
        """Softmax and quantization decision: pipelined, one item behind the other."""
        softmax, module = self.modules["softmax"], self.modules["decision"]
        per_line, parallelism = self.config.vectors_per_line, self.config.softmax_parallelism
        self.decided_rows: dict[int, _Item] = {}
        self.next_row = softmax_free = 0
        for _ in range(self.items):
            item = yield from module.take(self.scores, "no_scores")
            request = item.request
            lines = own = request.rescore_lines if item.lsb_pass else request.score_lines
            if self.config.softmax_latency:
                # The unit takes as many scores a cycle as it has lanes (SpAtten Table I).
                lines = max(own, -(-own * per_line // parallelism))
            # The dot product hands over a row with its last line, so a row's own lines have
            # already passed; what is left is the rate at which rows can follow one another.
            start = max(softmax_free, int(self.env.now) - (own - 1))
            softmax_free = start + lines
            softmax.item = item.code
            softmax.worked(start, lines)
            behind = max(softmax_free - int(self.env.now) - 1, 0)
            self.env.process(self._decided(item, behind))
            yield from module.busy_until(max(softmax_free, int(self.env.now) + 1))

    def _decided(self, item: _Item, behind: int) -> Process:
        """What happens one pipeline length after the softmax has taken an item's last score.

        It is ``behind`` cycles late where it takes scores more slowly than they come.
        """
        yield self.env.timeout(behind + self.config.softmax_latency + _DECISION + self.log_width)
        if item.request.requant and not item.lsb_pass:
            yield from self._reissue(item)
            return
        self._succeed(item.released, int(self.env.now) + _KEY_RELEASE)
        self.decided_rows[item.request.row] = item
        given = []
        while self.next_row in self.decided_rows:
            ordered = self.decided_rows.pop(self.next_row)
            ordered.ordered_at = int(self.env.now)
            given.append(self.ordered.store.put(ordered))
            self.next_row += 1
        yield from given

    def _reissue(self, item: _Item) -> Process:
        yield self.env.timeout(_REQUANT_REISSUE)
        again = _Item(item.request, item.released, self.env.event(), item.finished, lsb_pass=True)
        yield self.requant.store.put(again)

    # -- value side -------------------------------------------------------------------------

    def select(self) -> Process:
        """Top-k: a search per row, then one beat a cycle; rows that keep everything pass by.

        As released, the next search starts when the scores that were not kept are dropped too; a
        row that keeps everything passes as soon as the last kept score has (3.1).
        """
        module, env = self.modules["topk"], self.env
        serial = self.config.topk.drain == "serial"
        engines = self.config.topk.engines
        dropped = 0
        for _ in self.requests:
            item = yield from module.take(self.ordered, "no_scores")
            request = item.request
            module.item = item_code(request.row, SCORES)
            if request.select_cycles and engines == 1:
                yield from module.busy(request.select_cycles)
            arrives = item.ordered_at + _DECISION_TO_VALUE
            if request.prunes:
                yield from module.wait_until(arrives + _TOPK_FIFO, "no_scores")
                yield from module.busy_until(dropped)
                yield from module.busy(
                    request.topk_cycles if serial else max(request.topk_cycles, 1)
                )
            item.at_value_fork = max(arrives, int(env.now))
            item.forked = env.event()
            yield from module.give(self.probabilities, item, "value_side_busy")
            if request.prunes and serial:
                yield from module.wait(item.forked, "value_side_busy")
                yield from module.busy(request.value_lines)
                dropped = int(env.now) + max(request.score_lines - request.value_lines, 0)

    def fetch_values(self) -> Process:
        """Value fork: one value matrix after the other, ahead of the multipliers if buffers allow.

        As released, the descriptors hold one matrix: the next is described when the one before has
        been written and read (2.14).
        """
        module, env = self.modules["value_fork"], self.env
        rows_of_beats = self.config.fetch_channels // self.config.vectors_per_line
        for _ in self.requests:
            item = yield from module.take(self.probabilities, "no_probabilities")
            request = item.request
            module.item = item_code(request.row, VALUES)
            yield from module.wait_until(item.at_value_fork, "no_probabilities")
            start = int(env.now)
            item.forked.succeed()
            done = None
            if request.value_part == 0:
                addresses = self.addresses.values(
                    request.row, request.values, request.value_bits * request.value_fused
                )
                self.bytes["value"] += len(addresses) * ATOM
                lines = -(-request.values // self.config.vectors_per_line)
                done = env.event()
                # A row of indexes gathers one beat of scores a cycle; while it does, the arbiter
                # stays with this matrix (2.6, 2.14).
                ready = start + rows_of_beats - 1 + _GATHER_TO_FETCH
                yield from module.give(
                    self.fetches,
                    _Matrix(
                        self.addresses.beats(addresses),
                        lines,
                        ready,
                        lines,
                        VALUE,
                        done,
                        module.item,
                        self._row_beats(request),
                    ),
                    "fetcher_busy",
                )
            yield from module.give(self.value_rows, (item, start, done), "value_buffer_full")
            yield from module.busy(1)
            if self.config.key_prefetch_depth == 0:
                yield from module.wait(item.finished, "one_value_matrix")

    def _row_beats(self, request: Request) -> int:
        """Fetch beats of a row of values, if scores must wait for values taken (2.14)."""
        if self.config.key_prefetch_depth:
            return 0
        return -(-request.value_bits * request.value_fused * self.workload.head_dim // (8 * ATOM))

    def multiply_values(self) -> Process:
        """Value buffer, multiply and accumulate: one line a cycle, as they arrive."""
        module, env = self.modules["pv_unit"], self.env
        tail = _MULTIPLY_VALUE + self.log_width
        for _ in self.requests:
            item, start, done = yield from module.take(self.value_rows, "no_values")
            module.item = item_code(item.request.row, VALUES)
            taken = int(env.now)
            lines = item.request.value_lines
            arrived = start if done is None else (yield done)
            end = max(arrived, max(start, taken) + lines)
            # The descriptors are free once all is written, and all reads are in the read queue.
            self._succeed(item.finished, max(arrived - _WRITTEN_TO_TAKEN, end - _READ_QUEUE))
            yield from module.work_on_arrivals(taken, end, lines, "awaiting_values")
            self.completions[item.request.row] = int(env.now) + tail + self.config.reset_cycles

    def _succeed(self, event: simpy.Event, cycle: int) -> None:
        """Let an event happen in a cycle, now if that has passed."""
        if cycle <= self.env.now:
            event.succeed()
        else:
            self.env.process(self._succeed_later(event, int(cycle - self.env.now)))

    def _succeed_later(self, event: simpy.Event, cycles: int) -> Process:
        yield self.env.timeout(cycles)
        event.succeed()

    # -- results ----------------------------------------------------------------------------

    def _activity(self, total: int) -> Activity:
        activity = Activity(total, self.config.frequency_hz)
        count_requests(activity, self.workload, self.config, self.table, self.bytes)
        count_dram(activity, counters(self.channels))
        activity.modules = {name: m.finish(total) for name, m in self.modules.items()}
        activity.completion_cycles = self.completions
        return activity


def simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    recorder: Recorder | None = None,
) -> Activity:
    """Run a workload through one SpAtten with the event engine.

    Raises:
        WorkloadError: rows that the machine refuses.
    """
    machine = Spatten(workload, config, memory, recorder)
    activity = machine.run()
    if recorder is not None and machine.watch is not None:
        machine.watch.finish(machine.fetcher, machine.channels)
        recorder.finish(workload, config.frequency_hz, activity.cycles, config.reset_cycles)
    return activity
