"""SpAtten as published, wired: key fork, fetcher, query x key, softmax, top-k, weighted sum.

    groups -> key fork -> fetcher -> [key buffer] -> dot product -> softmax -> decision -> top-k
                ^                                                      |          |         |
                +------------------- LSB pass -----------------------------------+         v
              outputs <- weighted sum <- [value buffer] <- fetcher <------------------ value fork

SimPy processes are what asks DRAM for something, and DRAM: there the order of events decides. All
other blocks follow from what they are given; their times are worked out as soon as that is known,
ahead of simulated time, by :mod:`.pipeline`. Sections: docs/accelerators/spatten-published.md.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Literal

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import EventPriority

from accelsim.errors import SimulationError
from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks.buffer_pool import BufferPool
from accelsim.hardware.blocks.dot_product import DotProduct
from accelsim.hardware.blocks.matrix_fetcher import (
    FILL,
    TRANSACTION_BYTES,
    Matrix,
    MatrixFetcher,
    bytes_per_cycle,
)
from accelsim.hardware.blocks.ring_buffer import RingBuffer
from accelsim.hardware.blocks.softmax import Softmax
from accelsim.hardware.blocks.top_k import TopK
from accelsim.hardware.blocks.weighted_sum import WeightedSum
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten import pipeline
from accelsim.hardware.machines.spatten.config import BITS_ON_CHIP, SpattenConfig
from accelsim.hardware.machines.spatten.layout import Layout
from accelsim.hardware.machines.spatten.pipeline import DECIDED, FILTERED, GIVEN, OUT, SIZE
from accelsim.hardware.machines.spatten.rows import Group, rows_of
from accelsim.hardware.machines.spatten.tracks import Tracks
from accelsim.hardware.simulation import Follower, Milestone, Module, Stream
from accelsim.hardware.simulation._module import Following, Process
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

Ints = NDArray[np.int64]
Dependencies = Literal["causal", "streamed"]

FORK = 2
"""First cycle in which the key fork can issue (release, section 2.5)."""
FORK_TO_FETCH = 4
"""From the key fork to the address FIFOs (release, section 2.5)."""
VALUES_TO_FETCH = 5
"""From the value fork to the address FIFOs (release, section 2.14)."""
_FAR = 1 << 50
"""A cycle that is never reached."""
_AFTER_KEYS = EventPriority(2)
"""Priority of SimPy events that come after all others of their cycle."""
REISSUE = 2
"""From the decision to the key fork (release, section 2.16)."""
RELEASE = 5
"""From a decision to usable lines (release, section 2.16)."""


def _ahead(before: Group, group: Group) -> bool:
    """Whether keys of a group may be fetched before the group before it is done (section 3)."""
    return group.late and before.late and group.step == before.step


class Layer:
    """A group at run time.

    Attributes:
        group: which.
        start: cycle from which queries are read.
        keys: cycle from which keys are asked for.
        unread: rows that are not read out of the softmax yet.
        undone: rows without all outputs.
        done: last output so far.
        step_start: start of its step's first group.
    """

    __slots__ = ("done", "group", "keys", "start", "step_start", "undone", "unread")

    def __init__(self, env: simpy.Environment, group: Group) -> None:
        self.group = group
        self.start, self.keys = Milestone(env), Milestone(env)
        self.unread = self.undone = 0
        self.done = self.step_start = 0


class Row:
    """A row on its way; see section 1.

    Attributes:
        index: of the workload.
        layer: its group.
        first, last: queries.
        keys, values: vectors.
        late, two_pass, planes: what it is.
        streams: its queries use the first of its values, and need not wait for all.
        tiles, value_tiles: how many.
        refetches: queries that need the LSB plane.
        queries: request of the query vectors, if they are not read with the first keys.
        decision: of the last query in the first pass, with an LSB plane.
        slots: of a late row, by tile: request of the values.
        kept, slotted: of a two-pass row: all its queries have been filtered; all its value tiles
            have slots.
    """

    __slots__ = (
        "decision",
        "first",
        "index",
        "kept",
        "keys",
        "last",
        "late",
        "layer",
        "planes",
        "queries",
        "refetches",
        "released",
        "reread",
        "slots",
        "slotted",
        "split",
        "streams",
        "tiles",
        "two_pass",
        "value_tiles",
        "values",
    )

    def __init__(self, index: int, layer: Layer, first: int, last: int) -> None:
        self.index, self.layer, self.first, self.last = index, layer, first, last
        self.keys = self.values = self.refetches = 0
        self.late = self.two_pass = self.planes = self.streams = False
        self.reread = self.split = False
        self.tiles = self.value_tiles = 1
        self.queries: Matrix | None = None
        self.decision: Any = None
        self.slots: dict[int, Values] = {}
        self.kept: Any = None
        self.slotted: Any = None
        self.released: Milestone | None = None


class Keys:
    """A key tile: what the key fork issues.

    Attributes:
        row: whose.
        tile: which.
        again: the pass with the LSB plane.
        matrix: in memory.
        released: its lines are free.
        scored: cycle in which its last score is there.
        values: tile of values that goes with it, once it is known that it is needed.
    """

    __slots__ = ("again", "matrix", "released", "row", "scored", "tile", "values")

    def __init__(self, row: Row, tile: int, again: bool = False) -> None:
        self.row, self.tile, self.again = row, tile, again
        self.matrix: Any = None
        self.released: Any = None
        self.scored = 0
        self.values: Values | None = None


class Values:
    """A value tile.

    Attributes:
        row: whose.
        tile: which.
        slot: cycle from which it has lines; ``None`` if not known yet.
        phases: 1 if queries of the LSB pass will come on their own, else 2.
        given: times of the queries over this tile, if those over the next would overwrite them.
        ready, spread: cycle in which it is asked for, and cycles over which it becomes known.
        filtered: of a late row: it is known when its queries are filtered; of an early one: the
            matrix is asked for.
        matrix: in memory.
        weighed: of a late row: it is known when its queries are multiplied, but for those of an
            LSB pass that come on their own.
    """

    __slots__ = (
        "filtered",
        "given",
        "matrix",
        "phases",
        "ready",
        "row",
        "slot",
        "spread",
        "tile",
        "weighed",
    )

    def __init__(self, env: simpy.Environment, row: Row, tile: int) -> None:
        self.row, self.tile = row, tile
        self.slot: int | None = None
        self.phases = 2
        self.given: Ints | None = None
        self.ready = self.spread = 0
        self.matrix: Any = None
        self.weighed = Milestone(env)
        self.filtered = Milestone(env)


class Again:
    """The queries of an LSB pass, whose values are in the buffer already.

    Attributes:
        values: the tile.
        ready: cycle in which the first of them reaches the weighted sum.
        weighed: it is known when they are multiplied.
    """

    __slots__ = ("ready", "values", "weighed")

    def __init__(self, env: simpy.Environment, values: Values, ready: int) -> None:
        self.values, self.ready = values, ready
        self.weighed = Milestone(env)


class Spatten:
    """One run of the published SpAtten on one workload.

    Args:
        workload: what to run.
        config: of the machine.
        memory: behind it.
        dependencies: ``causal``: a layer waits for the layer before and a token for the token
            before; ``streamed``: rows follow each other as fast as the machine takes them.
        recorder: takes the timeline, if given.
    """

    def __init__(
        self,
        workload: Workload,
        config: SpattenConfig,
        memory: MemoryConfig,
        dependencies: Dependencies = "causal",
        recorder: Recorder | None = None,
    ) -> None:
        self.workload, self.config = workload, config
        self.causal = dependencies == "causal"
        self.env = env = simpy.Environment()
        self.recorder = recorder
        self.rows = rows = rows_of(workload, config)
        self.layout = Layout(workload, rows, config.query_traffic)
        self.peak = bytes_per_cycle(memory, config.channels, config.frequency_hz)
        # The blocks.
        head_dim = workload.head_dim
        self.dot_product = DotProduct(config.multipliers, head_dim, config.scores_per_cycle)
        self.softmax = Softmax(config.softmax_parallelism, config.softmax_fifo)
        self.top_k = TopK(config.topk.parallelism, config.topk.rows)
        self.weighted_sum = WeightedSum(config.multipliers, self.dot_product.scores)
        self.fetcher = MatrixFetcher(
            env,
            config.fetch_channels,
            config.channels,
            memory,
            config.frequency_hz,
            config.address_fifo,
            config.response_fifo,
            recorder,
        )
        self.key_fork = Module(env, "allocator", recorder)
        self.value_fork = Module(env, "value_fork", recorder)
        self.key_buffer = RingBuffer(config.buffer_lines, 1 + config.key_prefetch_depth)
        self.value_buffer = BufferPool(env, config.buffer_lines, 1 + config.value_prefetch_depth)
        # What flows between them.
        self.lsb_passes = Stream(env)
        self.key_tiles = Stream(env)
        self.scored = Stream(env)
        self.read = Stream(env)
        self.kept_rows = Stream(env)
        self.early_values = Stream(env)
        self.value_tiles = Stream(env)
        # State of the compiled blocks.
        self.dot = self.dot_product.new_state()
        self.soft, self.fifo = self.softmax.new_state()
        self.topk, self.row_buffers = self.top_k.new_state()
        self.selector, self.begun = TopK(config.topk.parallelism, 2).new_state()
        self.sums = self.weighted_sum.new_state()
        self.tracks = Tracks(self, recorder) if recorder is not None else None
        self.times = np.zeros((len(rows.query_keys), 5), np.int64)
        self.line = self.dot_product.vectors_per_line
        self.tile = min(
            config.buffer_lines // 2 * self.line,
            config.softmax_fifo * config.softmax_parallelism,
        )
        self.layers = [Layer(env, group) for group in rows.groups]
        self.all_rows = self._rows()
        self.rows_left = len(self.all_rows)
        self.finished = env.event()
        self.slot_taken: simpy.Event | None = None
        self.next_layer = dict(zip(self.layers, self.layers[1:], strict=False))
        self.completions = [0] * workload.rows
        self.issued = self.asked = 0
        self.values_asked = -1
        self.spilled_reads = self.spilled_writes = self.refetched = 0
        # Bytes of keys, LSBs and values of rows that are run query by query.
        self.moved: dict[int, list[int]] = {}
        # Late tiles whose weighted sum is not known yet, and two-pass rows likewise.
        self.unweighed: deque[Values | Again] = deque()
        self.kept_row: Row | None = None
        self.slotless: deque[Values] = deque()
        # Rows with an LSB plane that are not decided, as far as is known.
        self.undecided: deque[Milestone] = deque()

    def _rows(self) -> list[Row]:
        rows, config = self.rows, self.config
        found: list[Row] = []
        column = {
            name: getattr(rows, name).tolist()
            for name in ("keys", "values", "late", "prunes", "lsb_bits", "refetches", "start")
        }
        for layer in self.layers:
            for index in range(layer.group.first, layer.group.end):
                first, last = column["start"][index], column["start"][index + 1]
                split = [(first, last)]
                long = column["keys"][index] > self.tile
                if long and not column["late"][index] and config.loop_order == "query-outer":
                    position = rows.position[first:last]
                    edges = np.flatnonzero(np.diff(position)) + 1 + first
                    ends = [first, *edges.tolist(), last]
                    split = list(itertools.pairwise(ends))
                for begin, end in split:
                    row = Row(index, layer, begin, end)
                    row.keys, row.values = column["keys"][index], column["values"][index]
                    row.late = column["late"][index] or len(split) > 1
                    row.planes = column["lsb_bits"][index] > 0
                    row.refetches = column["refetches"][index]
                    prunes = column["prunes"][index]
                    if len(split) > 1:
                        row.refetches = int(rows.query_refetch[begin:end].sum())
                        row.keys = int(rows.query_keys[begin:end].max())
                        used = rows.query_values[begin:end]
                        prunes = bool((used < rows.query_keys[begin:end]).any())
                        row.values = row.keys
                        if prunes:
                            row.values = min(column["values"][index], int(used.sum()))
                        row.reread = begin > first
                    row.split = len(split) > 1
                    row.streams = not prunes or end - begin == 1
                    row.tiles = -(-row.keys // self.tile)
                    row.two_pass = row.tiles > 1 and (prunes or row.planes)
                    row.value_tiles = -(-row.values // self.tile) if row.two_pass else row.tiles
                    if row.two_pass:
                        row.kept, row.slotted = Milestone(self.env), Milestone(self.env)
                    found.append(row)
                    layer.undone += 1
            layer.unread = layer.undone
        return found

    def run(self) -> Activity:
        """Simulate to the last output.

        Raises:
            SimulationError: the blocks wait for one another.
        """
        env = self.env
        if not self.causal:
            for layer in self.layers:
                layer.start.announce(0)
                layer.keys.announce(0)
        else:
            self._start(self.layers[0], 0)
        followers = [
            Follower(self.multiply_keys()),
            Follower(self.select()),
            Follower(self.place_kept()),
            Follower(self.multiply_values()),
        ]
        issue = env.process(self.issue_keys())
        processes = [
            issue,
            env.process(self.fetcher.run()),
            env.process(self.ask_early_values()),
        ]
        try:
            env.run(until=self.finished)
        except RuntimeError:
            if env.peek() < math.inf:
                raise
            waiting = [p.name for p in processes[:1] if p.is_alive]
            waiting += [f.name for f in followers if f.is_alive]
            done = sum(cycle > 0 for cycle in self.completions)
            raise SimulationError(
                f"workload '{self.workload.name}': no progress after cycle {int(env.now)}, "
                f"{done} of {self.workload.rows} requests done; waiting: {', '.join(waiting)}"
            ) from None
        return self._activity()

    # -- key side ---------------------------------------------------------------------------

    def issue_keys(self) -> Process:
        """Key fork: LSB passes first, then key tiles in order (section 4)."""
        module, env = self.key_fork, self.env
        new = deque(Keys(row, tile) for row in self.all_rows for tile in range(row.tiles))
        passes = sum((row.tiles if row.two_pass else 1) for row in self.all_rows if row.refetches)
        yield from module.busy(FORK)
        for _ in range(len(new) + passes):
            while True:
                blocked: Any
                if self.lsb_passes.items:
                    item: Keys = self.lsb_passes.items[0]
                    needed = self._lines(item) if item.row.two_pass else 0
                elif new:
                    item = new[0]
                    layer = item.row.layer
                    if not layer.keys.reached:
                        reason = "awaiting_layer"
                        blocked = self.lsb_passes.filled() | layer.keys.awaited()
                        yield from module.wait(blocked, reason)
                        continue
                    undecided = self._undecided(item)
                    if undecided is not None:
                        blocked = self.lsb_passes.filled() | undecided.awaited(REISSUE)
                        yield from module.wait(blocked, "awaiting_decision")
                        continue
                    needed = self._lines(item)
                else:
                    yield from module.wait(self.lsb_passes.filled(), "awaiting_decision")
                    continue
                if needed:
                    in_the_way = self.key_buffer.in_the_way(needed)
                    if in_the_way is not None:
                        blocked = in_the_way.awaited()
                        if not self.lsb_passes.items:
                            blocked = self.lsb_passes.filled() | blocked
                        yield from module.wait(blocked, "buffer_full")
                        continue
                    item.released = Milestone(env)
                    self.key_buffer.allocate(needed, item.released)
                break
            if item.again:
                self.lsb_passes.pop()
            else:
                new.popleft()
            self.issued += 1
            self._ask_keys(item)
            yield from module.busy(1)
            row = item.row
            if row.two_pass and row.planes and item.tile == row.tiles - 1 and not item.again:
                # What comes behind would take the lines that its LSB pass needs (section 6).
                yield from module.wait(row.decision.awaited(REISSUE), "awaiting_decision")
        while True:
            # Nothing is left to issue; the followers end the run.
            yield env.event()

    def _undecided(self, item: Keys) -> Milestone | None:
        """A decision that must come before keys are asked for.

        Keys of a next layer, or of a row whose scores are kept, would stand in front of the LSB
        passes of the rows before, and wait for them.
        """
        row = item.row
        first = item.tile == 0 and row.index == row.layer.group.first and self.causal
        if not (first or (row.two_pass and row.planes and item.tile == 0)):
            return None
        while self.undecided:
            decided = self.undecided[0]
            if decided.cycle is None or decided.cycle + REISSUE > self.env.now:
                return decided
            self.undecided.popleft()
        return None

    def _lines(self, item: Keys) -> int:
        return -(-self._tile_size(item.row.keys, item.tile) // self.line)

    def _tile_size(self, vectors: int, tile: int) -> int:
        return min(vectors - tile * self.tile, self.tile)

    def _ask_keys(self, item: Keys) -> None:
        row, env, layout = item.row, self.env, self.layout
        now = int(env.now)
        begin = item.tile * self.tile
        end = begin + self._tile_size(row.keys, item.tile)
        parts: list[Ints] = []
        if item.again:
            if row.two_pass:
                parts.append(layout.keys(row.index, begin, end))
                self.refetched += len(parts[0]) * TRANSACTION_BYTES
            parts.append(layout.key_lsbs(row.index, begin, end))
            self._move(row, 1, parts[-1])
        else:
            keys = layout.keys(row.index, begin, end)
            parts.append(keys)
            self._move(row, 0, keys)
        # With both planes, a vector is there when its LSBs are, which come last.
        wanted = len(parts[-1])
        if item.tile == 0 and not item.again:
            if not row.reread:
                parts.insert(0, layout.before_keys(row.index))
            start = row.layer.start
            if start.reached:
                parts.insert(len(parts) - 1, self._queries(row))
            else:
                start.awaited().callbacks.append(lambda _: self._ask_queries(row))
                row.queries = Matrix(env, item_code(row.index, KEYS_MSB), now)
        code = item_code(row.index, KEYS_LSB if item.again else KEYS_MSB)
        item.matrix = matrix = Matrix(env, code, now)
        transactions = parts[0] if len(parts) == 1 else np.concatenate(parts)
        matrix.before = len(transactions) - wanted
        matrix.transactions = wanted
        self.fetcher.ask(matrix, transactions, now + FORK_TO_FETCH)
        if row.planes and item.tile == 0 and not item.again:
            row.decision = Milestone(env)
            self.undecided.append(row.decision)
        if not row.late and not row.two_pass and not item.again:
            row.slots[item.tile] = Values(env, row, item.tile)
            self.early_values.put(row.slots[item.tile])
        if (row.late or row.two_pass) and not item.again and item.tile < row.value_tiles:
            values = row.slots[item.tile] = Values(env, row, item.tile)
            self.slotless.append(values)
        self.key_tiles.put(item)

    def _move(self, row: Row, plane: int, transactions: Ints) -> None:
        if row.split:
            planes = self.moved.setdefault(row.index, [0, 0, 0])
            planes[plane] += len(transactions) * TRANSACTION_BYTES

    def refetched_bytes(self) -> int:
        """Bytes beyond one fetch of each plane of a row, tile by tile."""
        total = self.refetched
        for row, planes in self.moved.items():
            whole = self.layout.once(row, self.tile)
            pairs = zip(planes, whole, strict=True)
            total += sum(max(found - once, 0) for found, once in pairs)
        return total

    def _queries(self, row: Row) -> Ints:
        every = self.layout.queries(row.index)
        share = self.rows.start[row.index + 1] - self.rows.start[row.index]
        if row.last - row.first == share or not len(every):
            return every
        # A position of a prompt that is run query by query.
        first = (row.first - int(self.rows.start[row.index])) * len(every) // share
        end = (row.last - int(self.rows.start[row.index])) * len(every) // share
        return every[first:end]

    def _ask_queries(self, row: Row) -> None:
        matrix, transactions = row.queries, self._queries(row)
        assert matrix is not None
        now = int(self.env.now)
        if len(transactions):
            self.fetcher.ask(matrix, transactions, now + FORK_TO_FETCH)
        else:
            matrix.announce(now - FILL)

    # -- scores, top-k ----------------------------------------------------------------------

    def multiply_keys(self) -> Following:
        """Dot product: key tiles in the order of the fork, as the softmax takes their scores."""
        keeping: deque[Row] = deque()
        while True:
            yield self.key_tiles
            item: Keys = self.key_tiles.pop()
            row = item.row
            yield item.matrix
            matrix = item.matrix
            arrived = matrix.cycle + FILL
            ready = 0
            if row.queries is not None:
                yield row.queries
                ready = (row.queries.cycle or 0) + FILL
            elif self.causal:
                ready = row.layer.start.cycle or 0
            if row.two_pass and item.tile == 0 and not item.again:
                # The scores of two rows are kept at most.
                while len(keeping) > 1:
                    before = keeping.popleft()
                    yield before.kept
                    ready = max(ready, before.kept.cycle or 0)
                keeping.append(row)
            scored = row.first
            code = item_code(row.index, KEYS_LSB if item.again else KEYS_MSB)

            score = functools.partial(self._score, item, ready)
            while True:
                query = scored
                scored = self._observed(score, query, row.last, code)
                if scored == row.last:
                    break
                self.scored.put((item, query, scored))
                while scored < row.last and not self.read.items:
                    yield self.read
                self.read.items.clear()
            free = int(self.dot[0]["free"])
            self._release_keys(item, max(free, arrived))
            item.scored = free - 1 + self.dot_product.latency
            self.scored.put((item, query, scored))

    def _score(self, item: Keys, ready: int, query: int, last: int) -> int:
        """Multiply queries with a key tile; the first that the softmax may not take yet."""
        row, rows, matrix = item.row, self.rows, item.matrix
        return pipeline.score(
            self.dot,
            self.soft,
            self.fifo,
            self.fetcher.beats,
            rows.query_keys,
            rows.query_refetch,
            query,
            last,
            item.tile * self.tile,
            self.tile,
            item.again,
            row.two_pass,
            matrix.begin,
            matrix.end,
            matrix.before,
            matrix.transactions,
            self._tile_size(row.keys, item.tile),
            matrix.cycle + FILL,
            ready,
        )

    def select(self) -> Following:
        """Softmax, decision, top-k, in the order of the scores; early rows go on to the weighted
        sum."""
        while True:
            yield self.scored
            item, query, scored = self.scored.pop()
            row = item.row
            if row.two_pass:
                if item.tile == row.tiles - 1:
                    self._select_kept(item)
                continue
            drops = row.planes and not item.again
            if item.values is None and not (drops and row.refetches == row.last - row.first):
                values = item.values = row.slots[item.tile]
                if self.kept_row is not None and not self.kept_row.slotted.known:
                    yield self.kept_row.slotted
                if drops and scored == row.last and not (row.late and self._has_room(values)):
                    self._foresee(item, query)
                if row.late:
                    yield from self._take_slot(values)
                else:
                    yield from self._early_values(values)
            self._select(item, item.values, query, scored)
            if not self.read.items:
                self.read.put(None)
            if scored == row.last:
                self._selected(item, item.values)

    def _release_keys(self, item: Keys, used: int) -> None:
        row = item.row
        if row.planes and not row.two_pass:
            if item.again:
                assert row.released is not None
                row.released.announce(used + RELEASE)
            else:
                row.released = item.released
        else:
            item.released.announce(used)

    def _early_values(self, values: Values) -> Generator[Any, None, None]:
        """Wait until it is known when the values of an early row are there, and the weighted sum of
        all late rows before."""
        while self.unweighed:
            yield self.unweighed[0].weighed
            self.unweighed.popleft()
        yield values.filtered
        yield values.matrix

    def _take_slot(self, values: Values) -> Generator[Any, None, None]:
        """Lines of the value buffer for a late row (section 8)."""
        if values.slot is not None:
            return
        size = self._tile_size(values.row.values, values.tile)
        lines = -(-size // self.line)
        values.slot = yield from self.value_buffer.reserve(lines)
        if values in self.slotless:
            self.slotless.remove(values)
            if self.slot_taken is not None:
                waiting, self.slot_taken = self.slot_taken, None
                waiting.succeed()

    def _select(
        self,
        item: Keys,
        values: Values | None,
        query: int,
        scored: int,
        foreseeing: bool = False,
    ) -> None:
        row, rows, layer = item.row, self.rows, item.row.layer
        early = not row.late
        extra = 1 if item.tile else 0
        spill = 0
        if early and item.tile:
            # Written after every tile but the last, read before every one but the first.
            moved = 2 * self._partial_bytes()
            spill = math.ceil(moved / self.peak)
        begin = end = transactions = vectors = 0
        at = slot = _FAR if foreseeing else 0
        if row.late and values is not None and not foreseeing:
            slot = values.slot or 0
        if early and values is not None and not foreseeing:
            matrix = values.matrix
            begin, end, transactions = matrix.begin, matrix.end, matrix.transactions
            vectors = self._tile_size(row.values, item.tile)
            at = matrix.cycle + FILL

        def select(first: int, last: int) -> int:
            pipeline.select(
                self.soft,
                self.fifo,
                self.topk,
                self.row_buffers,
                self.selector,
                self.begun,
                self.sums,
                rows.query_keys,
                rows.query_values,
                rows.query_refetch,
                rows.search,
                self.times,
                first,
                last,
                item.tile * self.tile,
                self.tile,
                row.planes and not item.again,
                item.again,
                early,
                slot,
                self.fetcher.beats,
                begin,
                end,
                transactions,
                vectors,
                at,
                row.streams,
                extra,
                spill,
                self._selects(layer),
            )
            return last

        self._observed(select, query, scored, item_code(row.index, SCORES))

    def _observed(self, call: Callable[[int, int], int], query: int, last: int, code: int) -> int:
        """Run a call for some queries; one by one for a timeline."""
        if self.tracks is None:
            return call(query, last)
        while query < last:
            before = self.tracks.look()
            reached = call(query, query + 1)
            self.tracks.add(before, code)
            if reached == query:
                break
            query = reached
        return query

    def _partial_bytes(self) -> int:
        """Of one query: its result so far, maximum and sum (section 2)."""
        return (self.workload.head_dim + 2) * self.config.partial_bits // 8

    def _selects(self, layer: Layer) -> int:
        """Cycles of the token search after every query of a group."""
        if self.config.token_selection == "per-layer":
            return 0
        following = self._after(layer)
        return 0 if following is None else following.group.token_cycles

    def _after(self, layer: Layer) -> Layer | None:
        return self.next_layer.get(layer)

    def _selected(self, item: Keys, values: Values | None) -> None:
        """All queries of a one-pass tile, or of its LSB pass, are known up to their filters."""
        row = item.row
        first, last = row.first, row.last
        drops = row.planes and not item.again and row.refetches > 0
        if row.planes and not item.again and not row.decision.known:
            self._decide(row, int(self.times[first:last, DECIDED].max()))
        if row.late:
            self._ask_late(item, values, drops)
        elif values is not None and not drops:
            self._release_values(values, int(self.sums[0]["free"]))
        if drops or item.tile < row.tiles - 1:
            return
        self._row_read(row)
        if not row.late:
            self._row_done(row)

    def _release_values(self, values: Values, cycle: int) -> None:
        size = self._tile_size(values.row.values, values.tile)
        self.value_buffer.release(-(-size // self.line), cycle)

    def _decide(self, row: Row, decided: int) -> None:
        """The last query of a row is decided; its LSB pass follows, or its keys go."""
        row.decision.announce(decided)
        if row.refetches:
            self._reissue(Keys(row, 0, True), decided)
        else:
            assert row.released is not None
            row.released.announce(decided + RELEASE)

    def _has_room(self, values: Values) -> bool:
        """Whether a value tile finds lines without waiting for a release."""
        size = self._tile_size(values.row.values, values.tile)
        return self.value_buffer.fits(-(-size // self.line))

    def _foresee(self, item: Keys, query: int) -> None:
        """Decide a row before it is known when its values come, or find room, if that makes no
        difference: what waits for them waits behind the decision."""
        row = item.row
        states = (
            self.soft,
            self.fifo,
            self.topk,
            self.row_buffers,
            self.selector,
            self.begun,
            self.sums,
            self.times[row.first : row.last],
        )
        kept = [state.copy() for state in states]
        tracks, self.tracks = self.tracks, None
        self._select(item, row.slots[item.tile], query, row.last, foreseeing=True)
        decided = int(self.times[row.first : row.last, DECIDED].max())
        self.tracks = tracks
        for state, before in zip(states, kept, strict=True):
            state[...] = before
        if decided < _FAR:
            self._decide(row, decided)

    def _reissue(self, item: Keys, decided: int) -> None:
        event = self.env.timeout(max(decided + REISSUE - int(self.env.now), 0))
        event.callbacks.append(lambda _: self.lsb_passes.put(item))

    def _ask_late(self, item: Keys, values: Values | None, drops: bool) -> None:
        """When the values of a late row are asked for (section 8)."""
        row = item.row
        if values is None:
            return
        queries = slice(row.first, row.last)
        keys = self.rows.query_keys[queries]
        prunes = bool((self.rows.query_values[queries] < keys).any())
        times = self.times[queries]
        now_known = ~(self.rows.query_refetch[queries].astype(bool)) if drops else slice(None)
        fresh = values.ready == 0
        if row.tiles > 1:
            values.given = times.copy()
        if not prunes:
            here = times[now_known] if fresh else times[self.rows.query_refetch[queries] > 0]
            used = (keys[now_known] if fresh else keys[self.rows.query_refetch[queries] > 0]) > (
                item.tile * self.tile
            )
            ready = max(int(here[used, GIVEN].min()), 1) if used.any() else 1
            if fresh:
                values.ready = ready
                values.phases = 1 if drops else 2
                self._put_late(values)
            else:
                self._put_late(Again(self.env, values, ready))
        elif not drops:
            values.phases = 2
            filtered, size = int(times[:, FILTERED].max()), int(times[:, SIZE].max())
            if row.last - row.first == 1:
                values.ready, values.spread = filtered, size
            else:
                values.ready = int((times[:, FILTERED] + times[:, SIZE]).max())
            self._put_late(values)
        if not values.filtered.known and values.ready:
            values.filtered.announce(0)

    def _put_late(self, item: Values | Again) -> None:
        slot = item.slot if isinstance(item, Values) else item.values.slot
        item.ready = max(item.ready, slot or 0)
        self.unweighed.append(item)
        leaves = self._to_fetcher(item.ready)
        assert leaves.callbacks is not None
        leaves.callbacks.append(lambda _: self._leave_late(item))

    def _select_kept(self, item: Keys) -> None:
        """Softmax, decision, top-k of a row whose scores were kept (section 2, two passes)."""
        row, rows, config = item.row, self.rows, self.config
        on_chip = config.softmax_fifo * config.softmax_parallelism if row.late else 0
        before = None if self.tracks is None else self.tracks.look()
        written = pipeline.select_kept(
            self.soft,
            self.topk,
            self.row_buffers,
            self.selector,
            self.begun,
            rows.query_keys,
            rows.query_values,
            rows.query_refetch,
            rows.search,
            self.times,
            row.first,
            row.last,
            row.planes and not item.again,
            item.again,
            item.scored,
            on_chip,
            BITS_ON_CHIP,
            self.peak,
            self._selects(row.layer),
        )
        self._note(before, item_code(row.index, SCORES))
        self.spilled_writes += written
        self.spilled_reads += self._kept_reads(row, item, on_chip)
        if row.planes and not item.again:
            decided = int(self.times[row.first : row.last, DECIDED].max())
            if row.refetches:
                for tile in range(row.tiles):
                    self._reissue(Keys(row, tile, True), decided)
            row.decision.announce(decided)
            if row.refetches:
                return
        self.kept_row = row
        times = self.times[row.first : row.last]
        row.kept.announce(int((times[:, FILTERED] + times[:, SIZE]).max()))
        self._row_read(row)
        self.kept_rows.put(row)

    def place_kept(self) -> Following:
        """Slots of the value tiles of two-pass rows."""
        while True:
            yield self.kept_rows
            row: Row = self.kept_rows.pop()
            for tile in range(row.value_tiles):
                values = row.slots.setdefault(tile, Values(self.env, row, tile))
                yield from self._take_slot(values)
                values.ready = row.kept.cycle
                values.filtered.announce(0)
                self._put_late(values)
            row.slotted.announce(row.kept.cycle)

    def _kept_reads(self, row: Row, item: Keys, on_chip: int) -> int:
        queries = slice(row.first, row.last)
        keys, refetch = self.rows.query_keys[queries], self.rows.query_refetch[queries] > 0
        away = -(-np.maximum(keys - on_chip, 0) * BITS_ON_CHIP // 8)
        dropped = refetch if row.planes and not item.again else np.zeros_like(refetch)
        used = refetch if item.again else np.ones_like(refetch)
        prunes = (self.rows.query_values[queries] < keys) & ~dropped
        return int((away * used * (1 + prunes)).sum())

    # -- values -----------------------------------------------------------------------------

    def ask_early_values(self) -> Process:
        """Value fork of early rows: behind their keys, as far as the buffer has room."""
        module, env = self.value_fork, self.env
        while True:
            if not self.early_values.items:
                yield self.early_values.filled()
            values: Values = self.early_values.pop()
            row = values.row
            while self.slotless and self.slotless[0].row.index < row.index:
                # A late row before it must find a slot first.
                self.slot_taken = env.event()
                yield self.slot_taken
            size = self._tile_size(row.values, values.tile)
            lines = -(-size // self.line)
            while not self.value_buffer.fits(lines):
                if not self.value_buffer.returned.items:
                    yield self.value_buffer.returned.filled()
                    continue
                yield from module.sleep_until(self.value_buffer.returned.items[0][1])
                self.value_buffer.take_back()
            self.value_buffer.allocate(lines)
            yield self._to_fetcher(int(env.now))
            self._ask_values(module, values)
            values.filtered.announce(0)

    def _to_fetcher(self, cycle: int) -> simpy.Event:
        """The event in which a request of the value fork is as far from the fetcher as one that
        leaves the key fork; keys go first."""
        event = self.env.event()
        event._ok, event._value = True, None
        delay = max(cycle + VALUES_TO_FETCH - FORK_TO_FETCH - int(self.env.now), 0)
        self.env.schedule(event, priority=_AFTER_KEYS, delay=delay)
        return event

    def _leave_late(self, item: Values | Again) -> None:
        """A late row's tile leaves the value fork; queries of an LSB pass follow their tile."""
        if isinstance(item, Again):
            self.value_tiles.put(item)
        else:
            self._ask_values(self.value_fork, item)

    def _ask_values(self, module: Module, values: Values) -> None:
        row = values.row
        # One matrix a cycle.
        now = self.values_asked = max(int(self.env.now), self.values_asked + 1)
        module.item = code = item_code(row.index, VALUES)
        values.matrix = matrix = Matrix(self.env, code, now)
        begin = values.tile * self.tile
        end = begin + self._tile_size(row.values, values.tile)
        transactions = self.layout.values(row.index, begin, end)
        self._move(row, 2, transactions)
        matrix.transactions = len(transactions)
        self.fetcher.ask(matrix, transactions, now + FORK_TO_FETCH, values.spread)
        self.asked += 1
        module.worked(now, 1)
        if row.late or row.two_pass:
            self.value_tiles.put(values)

    def multiply_values(self) -> Following:
        """Weighted sum of late rows, in the order in which their values are asked for."""
        rows = self.rows
        while True:
            yield self.value_tiles
            item: Values | Again = self.value_tiles.pop()
            again = isinstance(item, Again)
            values = item.values if isinstance(item, Again) else item
            yield values.matrix
            yield values.filtered
            row, matrix = values.row, values.matrix
            # Queries of the LSB pass come on their own, if the others did not wait for them.
            which = 1 if again else (0 if values.phases == 1 else 2)
            part, parts = (values.tile, row.value_tiles) if row.two_pass else (0, 0)
            arrived = matrix.cycle + FILL
            before = None if self.tracks is None else self.tracks.look()
            final = pipeline.weigh_late(
                self.sums,
                self.fetcher.beats,
                rows.query_keys,
                rows.query_values,
                rows.query_refetch,
                self.times[row.first : row.last] if values.given is None else values.given,
                self.times,
                row.first,
                row.last,
                0 if row.two_pass else values.tile * self.tile,
                1 << 40 if row.two_pass else self.tile,
                part,
                parts,
                row.streams,
                which,
                matrix.begin,
                matrix.end,
                matrix.transactions,
                self._tile_size(row.values, values.tile),
                arrived,
            )
            self._note(before, item_code(row.index, VALUES))
            item.weighed.announce(final + 1)
            if which == 0:
                continue
            last = values.tile == row.value_tiles - 1
            if last:
                self._row_done(row)
            self._release_values(values, max(final + 1, arrived))

    # -- dependencies -----------------------------------------------------------------------

    def _row_read(self, row: Row) -> None:
        """All queries of a row are read out of the softmax."""
        layer = row.layer
        layer.unread -= 1
        if layer.unread:
            return
        following = self._after(layer)
        if following is None:
            return
        group = following.group
        if self.config.token_selection == "per-layer" and group.token_cycles:
            last = int((self.times[row.first : row.last, [GIVEN, SIZE]].sum(axis=1)).max())
            self._search(last - 1, group.token_cycles)
        if not self.causal:
            return
        if _ahead(layer.group, group) and group.token_cycles and not group.head_cycles:
            following.keys.announce(max(self._tokens_known(group), layer.step_start))

    def _start(self, layer: Layer, cycle: int) -> None:
        """A group starts; keys of groups behind it that are known by then may be asked for."""
        layer.start.announce(cycle)
        if not layer.keys.known:
            layer.keys.announce(cycle)
        behind = self._after(layer)
        while behind is not None and _ahead(layer.group, behind.group):
            behind.step_start = layer.step_start
            group = behind.group
            if group.token_cycles or group.head_cycles or behind.keys.known:
                break
            behind.keys.announce(layer.step_start)
            layer, behind = behind, self._after(behind)

    def _search(self, ready: int, cycles: int) -> int:
        """One search of the selector."""
        before = None if self.tracks is None else self.tracks.look()
        state = self.selector[0]
        begin = max(int(state["free"]), ready)
        state["no_scores"] += begin - state["free"]
        state["busy"] += cycles
        state["free"] = begin + cycles
        self._note(before, NO_ITEM)
        return begin + cycles

    def _note(self, before: dict[str, Any] | None, code: int) -> None:
        if before is not None and self.tracks is not None:
            self.tracks.add(before, code)

    def _tokens_known(self, group: Group) -> int:
        return int(self.selector[0]["free"]) if group.token_cycles else 0

    def _row_done(self, row: Row) -> None:
        """All outputs of a row are known."""
        done = int(self.times[row.first : row.last, OUT].max())
        self.completions[row.index] = max(
            self.completions[row.index], done + self.config.reset_cycles
        )
        layer = row.layer
        self.rows_left -= 1
        if not self.rows_left:
            self.finished.succeed()
        layer.done = max(layer.done, done)
        layer.undone -= 1
        if layer.undone:
            return
        following = self._after(layer)
        if following is None:
            return
        group = following.group
        start = max(layer.done, self._tokens_known(group))
        if group.head_cycles:
            start = max(start, self._search(layer.done, group.head_cycles))
        if not self.causal:
            return
        following.step_start = layer.step_start
        if group.step != layer.group.step:
            following.step_start = start
        if not following.keys.known and _ahead(layer.group, group):
            # Which heads are left is known before all outputs are needed.
            keys = max(self._tokens_known(group), start if group.head_cycles else 0)
            following.keys.announce(max(keys, layer.step_start))
        self._start(following, start)

    # -- results ----------------------------------------------------------------------------

    def _activity(self) -> Activity:
        from accelsim.hardware.machines.spatten.counts import activity_of

        return activity_of(self)


def simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    dependencies: Dependencies = "causal",
    recorder: Recorder | None = None,
) -> Activity:
    """Run a workload through the published SpAtten with the event engine.

    Raises:
        WorkloadError: rows that the machine refuses.
        SimulationError: the blocks wait for one another.
    """
    machine = Spatten(workload, config, memory, dependencies, recorder)
    activity = machine.run()
    if recorder is not None and machine.tracks is not None:
        machine.tracks.watch.finish()
        recorder.finish(workload, config.frequency_hz, activity.cycles, config.reset_cycles)
    return activity
