"""SpAtten as SimPy processes: the key side, the value side, and the memory between them.

Time passes in the simulation where its order decides: in the ring allocator and the value fork,
which ask for matrices, in the fetcher, and in the LSB passes that come back. What follows from that
in one way only (dot product, decision, top-k, weighted sum) is worked out in cycles of its own as
soon as its inputs are known, which is before they come. What happens inside an item is computed by
compiled functions (the fetch through crossbar and DRAM, the quick-select passes). Section numbers
refer to the specification of the released hardware (docs/accelerators/spatten.md).
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks._crossbar import RING
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._spatten import count_dram
from accelsim.hardware.machines.spatten_rtl.addresses import AddressMap
from accelsim.hardware.machines.spatten_rtl.channel_watch import ChannelWatch
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.counts import count_requests
from accelsim.hardware.machines.spatten_rtl.facts import (
    ADDRESS_LATENCY,
    ATOM,
    DOT_STAGES,
    HANDLES,
    MULTIPLY_STAGES,
    READ_QUEUE,
    SCORE_ROWS,
)
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import (
    KEY,
    VALUE,
    advance,
    new_fetcher,
    queue_matrix,
)
from accelsim.hardware.machines.spatten_rtl.fetch_memo import FetchMemo
from accelsim.hardware.machines.spatten_rtl.items import Item, Matrix, Row
from accelsim.hardware.machines.spatten_rtl.requests import Request, requests
from accelsim.hardware.memories.channel import NEVER, counters, is_recording, new_channels
from accelsim.hardware.memories.timing import organisation, ticks_per_1024_cycles
from accelsim.hardware.simulation import FirstOf, Follower, Milestone, Module, Stream
from accelsim.hardware.simulation._module import Following, Pause, Process
from accelsim.hardware.timeline import (
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
_FORK_TO_LINES = 8
"""From the key fork to the first line of keys that are there already: read descriptor, read queue
and read pipeline (2.8)."""
_DECISION_TO_VALUE = 7
"""Ordering, rebatch, index reload and trim of a normal item (2.12)."""
_TOPK_FIFO = 2
_GATHER_TO_FETCH = 5
"""From the value fork to the address FIFOs, plus rows gathered (2.14)."""
_WRITTEN = 8
"""From the last response of a beat to its lines in the buffer: 6 of the 14 cycles to their
multiplication come after that (2.6)."""
_READ_AHEAD = READ_QUEUE - 1 + 5
"""Lines between the read queue's input and the multipliers: those of the queue, and 5 in the read
pipeline (2.8)."""
_REFETCH_DELAY = 2
"""From the report to the key fork (2.16)."""
_KEY_RELEASE = 5
"""From the report to usable space (2.16)."""
_LOOKAHEAD = _FORK_TO_FETCH
"""Cycles after an event within which no matrix that it brings about reaches the address FIFOs: the
fetcher may run ahead of all other blocks by as much."""


_FOREVER = int(NEVER)
_LOOKED_BACK = 1024
"""Fetch beats behind the present one whose times are still asked for; 17 rows are (2.14)."""
_QUEUE = RING - _LOOKED_BACK
"""Fetch beats that can be outstanding."""


class Spatten:
    """One run of one accelerator on one workload.

    Args:
        workload: what to run.
        config: of the machine.
        memory: behind it.
        recorder: takes the timeline, if given.
        looks_up: whether fetches that were simulated before may be looked up.
    """

    def __init__(
        self,
        workload: Workload,
        config: SpattenRtlConfig,
        memory: MemoryConfig,
        recorder: Recorder | None = None,
        looks_up: bool = True,
    ) -> None:
        self.workload = workload
        self.config = config
        self.env = env = simpy.Environment()
        self.table = requests(workload, config)
        self.requests = self.table.each()
        self.items = len(self.requests) + int(self.table.refetch.sum())
        self.addresses = AddressMap(workload, config, self.table)
        self.org = organisation(memory, writes=False)
        self.channels, self.banks = new_channels(config.channels, self.org)
        self.rate = ticks_per_1024_cycles(memory, config.frequency_hz)
        # The buffers are cleared after reset, two lines a cycle (2.8).
        self.fetcher = new_fetcher(config.fetch_channels, config.channels, config.buffer_lines // 2)
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
        self.shift = config.channels.bit_length() - 1
        self.memo = None
        looks_up &= self.watch is None
        if looks_up and not is_recording(self.channels, self.banks):
            self.memo = FetchMemo(self.org, config.channels, self.shift)
        dram = self.channels, self.banks, self.org
        stands_in = self.watch or self.memo
        self.advance: Callable[[int], int]
        if stands_in is None:
            self.advance = functools.partial(advance, *self.fetcher, *dram, self.shift, self.rate)
        else:
            self.advance = functools.partial(
                stands_in.advance, self.fetcher, *dram, self.shift, self.rate
            )
        self.lsb_passes = Stream(env)
        self.fetches = Stream(env)
        self.key_lines = Stream(env)
        self.decided = Stream(env)
        self.ordered = Stream(env)
        self.decision_latency = _DECISION + self.log_width
        # Beats of scores after the first in a row of indexes.
        self.gather = config.fetch_channels // config.vectors_per_line - 1
        self.score_queue = SCORE_ROWS * config.fetch_channels // config.vectors_per_line
        # A beat is on its way through the memory for so many cycles at least.
        read_latency = int(self.org[0]["read_latency"]) * 1024 // self.rate
        self.round_trip = ADDRESS_LATENCY + read_latency
        self.decided_rows: dict[int, Item] = {}
        self.next_row = self.in_order = 0
        self.accepted = self.softmax_free = self.decision_free = self.decision_ready = 0
        self.topk_free = self.dropped = self.values_free = 0
        self.completions = [0] * len(self.requests)

    def run(self) -> Activity:
        """Simulate to the last response.

        Raises:
            SimulationError: the processes wait for one another.
        """
        followers = [Follower(self.multiply_keys()), Follower(self.merge())]
        processes = self.allocate(), self.fetch(), self.fetch_values()
        running = [self.env.process(process) for process in processes]
        try:
            self.env.run(until=running[-1])
        except RuntimeError:
            if self.env.peek() < math.inf:
                raise
            # SimPy: nothing is scheduled any more.
            waiting = [p.name for p in running if p.is_alive]
            waiting += [f.name for f in followers if f.is_alive]
            raise SimulationError(
                f"workload '{self.workload.name}': no progress after cycle {int(self.env.now)}, "
                f"{sum(cycle > 0 for cycle in self.completions)} of {len(self.requests)} requests "
                f"done; waiting: {', '.join(waiting)}"
            ) from None
        total = max(self.completions)
        return self._activity(total)

    # -- key side ---------------------------------------------------------------------------

    def allocate(self) -> Process:
        """Ring allocator, and LSB passes before new requests: one at a time through the fork."""
        module, env = self.modules["allocator"], self.env
        used = 0
        live: deque[tuple[int, Milestone]] = deque()
        new = self.requests[::-1]
        last: Item | None = None
        # The table of handles is cleared after reset (2.3).
        yield from module.busy(HANDLES + _ALLOCATION)
        capacity = self.config.buffer_lines
        for _ in range(self.items):
            module.item = NO_ITEM
            while True:
                while live and live[0][1].reached:
                    used -= live.popleft()[0]
                if self.lsb_passes.items or not new:
                    item: Item = yield from module.take(self.lsb_passes, "awaiting_requant")
                    break
                lines = new[-1].ring_lines
                if used + lines <= capacity and len(live) < HANDLES:
                    item = self._item(new.pop())
                    used += lines
                    live.append((lines, item.released))
                    break
                blocked = FirstOf(self.lsb_passes.filled(), live[0][1].awaited())
                yield from module.wait(blocked, "buffer_full")
            module.item = item.code
            if last is not None:
                # The fork holds its source until the dot product takes the last line (2.4).
                yield from module.wait_for(last.decided, "serial_key_fork")
            last = item
            yield from self._issue_keys(module, item)
            item.issued = int(env.now)
            self.key_lines.put(item)
            yield from module.busy(1)

    def _item(self, request: Request, first: Item | None = None) -> Item:
        return Item(self.env, request, first)

    def _issue_keys(self, module: Module, item: Item) -> Pause:
        request = item.request
        if item.lsb_pass:
            transactions = self.addresses.key_lsbs(request.row)
            beats = request.rescore_lines
        elif request.key_part:
            return ()
        else:
            transactions = self.addresses.keys(request.row)
            beats = request.score_lines
        lines = min(request.key_lines + request.key_lines % 2, beats)
        now = int(self.env.now)
        item.matrix = Matrix(self.env, item, KEY, item.code, lines, now)
        return self._ask(module, item.matrix, transactions, now + _FORK_TO_FETCH)

    def fetch(self) -> Process:
        """Matrix fetcher, crossbar and DRAM: the compiled model, advanced when it must be.

        It may run ahead of the other blocks as far as nothing that they do can reach it, and lag
        behind them until a matrix that it cannot have finished would be missed.
        """
        module, env = self.modules["fetcher"], self.env
        state, asked = self.fetcher.state[0], self.fetches.items
        charged = 0
        while True:
            if not asked:
                yield self.fetches.filled()
            matrix: Matrix = asked[0]
            module.turn_to(matrix.code, charged, matrix.given, "no_request")
            charged = max(charged, matrix.given)
            # A beat enters and one returns a cycle at most.
            awaited = matrix.end - int(state["joined"])
            unsent = matrix.end - int(state["pushed"])
            if unsent > 0:
                awaited = max(awaited, unsent + self.round_trip)
            sleep = charged + awaited - 1 + _WRITTEN - int(env.now)
            if sleep > 0:
                yield env.timeout(sleep)
            kind = self.advance(int(min(env.peek(), _FOREVER)) + _LOOKAHEAD)
            reached = max(int(state["cycle"]), charged)
            module.worked(charged, reached - charged)
            charged = reached
            if kind:
                taken = int(state["accepted"][matrix.kind]) >> 10
                drained = matrix.item.drained
                if matrix.kind == VALUE and drained.cycle is None:
                    drained.announce(self._drained(matrix, taken))
                matrix.returned_at = reached - 1
                matrix.announce(taken)
                self.fetches.pop()

    def _ask(
        self,
        module: Module,
        matrix: Matrix,
        transactions: NDArray[np.int64],
        ready: int,
        spread: int = 0,
        row_beats: int = 0,
    ) -> Pause:
        """Ask the fetcher for a matrix, for ``module``; waits while its queue is full.

        Args:
            module: charged while it waits.
            matrix: what is asked for.
            transactions: of it, in order.
            ready: cycle in which its first beat may enter the address FIFOs.
            spread: cycles over which its beats become ready.
            row_beats: see :func:`queue_matrix`.
        """
        beats = -(-len(transactions) // self.config.fetch_channels)
        state, in_flight, addresses, *_ = self.fetcher
        matrix.begin = int(state[0]["tail"])
        matrix.end = matrix.begin + beats
        # No beat may be overwritten that is still looked at.
        if matrix.end - int(state[0]["joined"]) > _QUEUE:
            return self._ask_later(module, matrix, transactions, ready, spread, row_beats)
        if self.watch is not None:
            self.watch.queue(self.fetcher, len(transactions), matrix.code)
        lines, kind = matrix.lines, matrix.kind
        if self.memo is not None:
            self.memo.queue(self.fetcher, transactions, ready, row_beats, (lines, spread, kind))
        queue_matrix(
            state, in_flight, addresses, transactions, ready, spread, lines, kind, row_beats
        )
        # An idle fetcher need not look before it can be there.
        self.fetches.put(matrix, ready + beats - 1 + self.round_trip + _WRITTEN)
        return ()

    def _ask_later(self, module: Module, matrix: Matrix, *asked: Any) -> Process:
        beats = matrix.end - matrix.begin
        if beats > _QUEUE:
            raise SimulationError(
                f"workload '{self.workload.name}': row {matrix.item.request.row} fetches "
                f"{beats} beats of {self.config.fetch_channels} transactions at once; the event "
                f"engine takes {_QUEUE}"
            )
        yield from module.wait(self.fetches.drained(), "fetcher_busy")
        matrix.given = int(self.env.now)
        yield from self._ask(module, matrix, *asked)

    def _drained(self, matrix: Matrix, taken: int) -> int:
        """Cycle in which the last score found room in the score queue.

        A score leaves the queue when its value is multiplied (2.14).

        Args:
            matrix: the values.
            taken: cycle in which its last line is taken.
        """
        beats, lines = matrix.end - matrix.begin, matrix.item.request.value_lines
        waiting = lines - self.score_queue
        # Further queries take the lines that are there by then, one a cycle.
        later = max(waiting - matrix.lines + 1, 0)
        beat = matrix.begin + (waiting - later) * beats // matrix.lines
        room = int(self.fetcher.beats[beat % RING]["taken"]) + later
        return min(room, max(taken, matrix.given + lines))

    def multiply_keys(self) -> Following:
        """Key buffer and dot product: one line a cycle, as they arrive; then the decision."""
        module = self.modules["qk_unit"]
        # The maximum tree behind the dot product holds twice log2(S) lines (2.9).
        in_pipeline = DOT_STAGES + 2 * self.log_width
        free = decides = decided_before = 0
        merging: Milestone | None = None
        for _ in range(self.items):
            yield self.key_lines
            item: Item = self.key_lines.pop()
            request = item.request
            start = max(item.issued, free)
            module.turn_to(item.code, free, start, "no_keys")
            beats = item.score_beats
            lines = request.key_lines
            if item.matrix is None:
                module.stalled(start, _FORK_TO_LINES, "awaiting_keys")
                start += _FORK_TO_LINES
                end = start + beats
                module.worked(start, beats)
            else:
                yield item.matrix
                arrived = item.matrix.cycle or 0
                work = min(lines, beats)
                # Its lines stand behind the last one of the item before, but for those in the
                # pipeline.
                end = max(arrived, start + work, self.accepted + work - in_pipeline, decides)
                module.worked_on_arrivals(start, end, work, "awaiting_keys")
            if request.queries > 1 and beats > lines:
                module.worked(end, beats - lines)
                end += beats - lines
            item.decided.announce(end)
            # Two rows stand before the decision.
            free = max(end, decided_before)
            module.stalled(end, free - end, "decision_full")
            if merging is not None:
                yield merging
                self._await_merge(merging.cycle or 0)
            decided_before, decides = decides, self.decide(item, free)
            # Nothing stands between the decision and the merge for an LSB pass (2.12).
            merging = item.passed if item.lsb_pass else None

    def _await_merge(self, passed: int) -> None:
        """Keep the decision until the merge has let an LSB pass go."""
        self.modules["decision"].stalled(
            self.decision_ready, passed - self.decision_ready, "merge_busy"
        )
        self.decision_ready = max(self.decision_ready, passed)
        self.decision_free = max(self.decision_free, self.decision_ready)

    def decide(self, item: Item, given: int) -> int:
        """Softmax and quantization decision: pipelined, one item behind the other.

        Args:
            item: whose scores come.
            given: cycle in which the dot product hands over its last line.

        Returns:
            Cycle in which it is taken.
        """
        softmax, module = self.modules["softmax"], self.modules["decision"]
        now = max(self.decision_ready, given)
        module.turn_to(item.code, self.decision_ready, now, "no_scores")
        softmax.item = item.code
        latency = self.decision_latency
        lines = item.score_beats
        # The dot product hands over a row with its last line, so a row's own lines have
        # already passed; what is left is the rate at which rows can follow one another.
        start = max(self.softmax_free, now - (lines - 1))
        self.softmax_free = start + lines
        softmax.worked(start, lines)
        # The last score is accepted when the row before has left the decision, a beat a cycle;
        # a row is decided one pipeline length after that (2.9, 2.11).
        decided = max(max(self.softmax_free, now + 1) - 1 + latency, self.decision_free)
        self.decision_free = decided + lines
        self.accepted = decided - latency
        if item.request.refetch and not item.lsb_pass:
            # That the merge has let an LSB pass go may become known later than it happens.
            delay = max(decided + _REFETCH_DELAY - int(self.env.now), 0)
            event = self.env.timeout(delay)
            assert event.callbacks is not None
            event.callbacks.append(lambda _: self.lsb_passes.put(self._item(item.request, item)))
        else:
            self._order(item, decided)
        self.decision_ready = max(now, self.softmax_free, self.accepted + 1)
        module.worked(now, self.decision_ready - now)
        return now

    def _order(self, item: Item, decided: int) -> None:
        """Let an item's keys go, and what is decided pass on in the order of the requests."""
        item.released.announce(decided + _KEY_RELEASE)
        item.in_order = decided
        self.decided_rows[item.request.row] = item
        while ordered := self.decided_rows.pop(self.next_row, None):
            self.next_row += 1
            ordered.in_order = self.in_order = max(self.in_order, ordered.in_order)
            self.decided.put(ordered)

    def merge(self) -> Following:
        """Rows in the order of the requests, a beat a cycle, as released (2.12).

        A row that keeps everything stands in its registers until the top-k stand-in has let go of
        all that others keep, and one that does not as long as the queue of the stand-in is full.
        """
        inside: deque[tuple[int, Milestone]] = deque()
        room = self.config.buffer_lines
        free = 0
        for _ in self.requests:
            yield self.decided
            item: Item = self.decided.pop()
            item.ordered_at = item.in_order = now = max(free, item.in_order)
            self.ordered.put(item)
            awaited: list[Milestone] = []
            if not item.request.prunes:
                awaited = [item.forked, item.drained]
            else:
                inside.append((item.score_beats, item.dropped))
                room -= item.score_beats
                while room < 0 and len(inside) > 1:
                    beats, dropped = inside.popleft()
                    awaited.append(dropped)
                    room += beats
            for milestone in awaited:
                yield milestone
                now = max(now, milestone.cycle or 0)
            free = max(item.ordered_at + item.score_beats, now)
            item.passed.announce(free)

    # -- value side -------------------------------------------------------------------------

    def fetch_values(self) -> Process:
        """Value fork: one value matrix after the other, ahead of the multipliers if buffers allow.

        As released, the descriptors hold one matrix: the next is described when the one before has
        been written and read (2.14).
        """
        module, env = self.modules["value_fork"], self.env
        # Cycles in which the last rows left the queue before it.
        left = deque([0] * max(self.config.buffer_lines // 64, 2))
        free = 0
        for _ in self.requests:
            if not self.ordered.items:
                yield self.ordered.filled()
            item: Item = self.ordered.pop()
            request = item.request
            taken = max(self.select(item, left.popleft()), free)
            left.append(taken)
            start = max(taken, item.at_value_fork, int(env.now))
            module.turn_to(item_code(request.row, VALUES), free, start, "no_probabilities")
            item.forked.announce(start)
            if request.value_part or request.value_lines <= self.score_queue:
                item.drained.announce(start)
                self._drop(item, start)
            yield from module.sleep_until(start)
            row = Row(item, start)
            if request.value_part == 0:
                yield from self._ask_values(module, row)
            row.issued = now = int(env.now)
            module.worked(now, 1)
            free = now + 1
            yield from row.known()
            if item.dropped.cycle is None:
                self._drop(item, start)
            finished = self.multiply_values(row)
            module.stalled(free, finished - free, "one_value_matrix")
            free = max(free, finished)

    def select(self, item: Item, room: int) -> int:
        """Top-k: a search per row, then one beat a cycle; rows that keep everything pass by.

        As released, the next search starts when the scores that were not kept are dropped too; a
        row that keeps everything passes as soon as the last kept score has (3.1).

        Args:
            item: whose scores come.
            room: cycle in which there is room for it before the value fork.

        Returns:
            Cycle in which it gets there.
        """
        module, request = self.modules["topk"], item.request
        now = max(self.topk_free, item.in_order)
        module.turn_to(item_code(request.row, SCORES), self.topk_free, now, "no_scores")
        if request.select_cycles:
            module.worked(now, request.select_cycles)
            now += request.select_cycles
        arrives = item.ordered_at + _DECISION_TO_VALUE
        if request.prunes:
            starts = max(now, arrives + _TOPK_FIFO)
            module.stalled(now, starts - now, "no_scores")
            now = max(starts, self.dropped) + request.topk_cycles
            module.worked(starts, now - starts)
        item.at_value_fork = max(arrives, now)
        self.topk_free = max(now, room)
        module.stalled(now, self.topk_free - now, "value_side_busy")
        return self.topk_free

    def _drop(self, item: Item, forked: int) -> None:
        """Drain the scores of a row from its search, those that are kept first."""
        module, request = self.modules["topk"], item.request
        now = self.dropped
        if request.prunes:
            now = max(self.topk_free, forked)
            module.stalled(self.topk_free, now - self.topk_free, "value_side_busy")
            module.worked(now, request.value_lines)
            now += request.value_lines
            drained = max(now, item.drained.cycle or 0)
            module.stalled(now, drained - now, "value_side_busy")
            self.topk_free = drained
            self.dropped = drained + max(request.score_lines - request.value_lines, 0)
        item.dropped.announce(self.dropped)

    def _ask_values(self, module: Module, row: Row) -> Pause:
        item, now = row.item, row.forked
        request = item.request
        lines = request.gathered_lines
        code = item_code(request.row, VALUES)
        row.matrix = Matrix(self.env, item, VALUE, code, lines, now)
        # A row of indexes gathers one beat of scores a cycle; while it does, the arbiter stays with
        # this matrix (2.6, 2.14).
        ready = now + self.gather + _GATHER_TO_FETCH
        transactions = self.addresses.values(request.row)
        return self._ask(module, row.matrix, transactions, ready, lines, self._row_beats(request))

    def _row_beats(self, request: Request) -> int:
        """Fetch beats of a row of values, if scores must wait for values taken (2.14)."""
        return -(-request.value_bits * request.value_fused * self.workload.head_dim // (8 * ATOM))

    def multiply_values(self, row: Row) -> int:
        """Value buffer, multiply and accumulate: one line a cycle, as they arrive.

        Returns:
            Cycle in which the descriptors are free: all is written, and all reads are in the read
            queue.
        """
        module = self.modules["pv_unit"]
        arrived = written = row.forked
        if row.matrix is not None:
            arrived = row.matrix.cycle or 0
            written = row.matrix.returned_at + _WRITTEN
        lines = row.item.request.value_lines
        taken = max(row.issued, self.values_free)
        code = item_code(row.item.request.row, VALUES)
        module.turn_to(code, self.values_free, taken, "no_values")
        self.values_free = end = max(arrived, taken + lines)
        module.worked_on_arrivals(taken, end, lines, "awaiting_values")
        tail = MULTIPLY_STAGES + self.log_width
        self.completions[row.item.request.row] = end + tail + self.config.reset_cycles
        return max(written, end - _READ_AHEAD)

    # -- results ----------------------------------------------------------------------------

    def _activity(self, total: int) -> Activity:
        activity = Activity(total, self.config.frequency_hz)
        count_requests(activity, self.workload, self.table, self.addresses.bytes)
        count_dram(activity, counters(self.channels))
        activity.modules = {name: m.finish(total) for name, m in self.modules.items()}
        activity.completion_cycles = self.completions
        return activity


def simulate(
    workload: Workload,
    config: SpattenRtlConfig,
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
