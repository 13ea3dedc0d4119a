"""From a workload to the tables of the machine: tiles, passes, jobs and transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._spatten import BITS_ON_CHIP
from accelsim.hardware.machines.spatten._search import head_selection
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.cycle import _state as c
from accelsim.hardware.machines.spatten.rows import Rows, as_many_heads, rows_of
from accelsim.jit import kernel
from accelsim.workloads import Workload

Ints = NDArray[np.int64]

ATOM = 32
"""Bytes of a transaction (rel. 2.1)."""
_KEYS, _LSBS, _VALUES, _QUERIES, _METADATA, _RESIDUAL = range(6)
"""Planes: regions of a layer and head."""
_REGION_STEP = 0x10000


@dataclass
class Plan:
    """Tables and transactions of a run, and what is counted without running.

    Attributes:
        groups, rows, matrices, pieces, tiles, jobs, requests: see :mod:`._state`.
        value_jobs, early_tiles: see :class:`._state.Queues`.
        transactions, vectors: see :class:`._state.Fetch`.
        beats: of all requests.
        weighted: items of the weighted sum.
        bytes: read, by tensor.
        counters: of the activity.
    """

    groups: c.Records
    rows: c.Records
    matrices: c.Records
    pieces: c.Records
    tiles: c.Records
    jobs: c.Records
    requests: c.Records
    value_jobs: Ints
    early_tiles: Ints
    transactions: Ints
    vectors: Ints
    beats: int
    weighted: int
    bytes: dict[str, int]
    counters: dict[str, int]


@dataclass
class _Row:
    """A row as it is run: of a query-outer prompt there is one for each position."""

    source: int
    group: int
    queries: Ints
    keys: Ints
    values: Ints
    early: bool
    first: bool
    """Metadata and residuals come with it."""


def make_plan(workload: Workload, config: SpattenConfig, memory: MemoryConfig) -> Plan:
    """Return the tables for a workload.

    Raises:
        WorkloadError: what the machine does not take, with the row.
    """
    return _Planner(workload, config, memory).plan()


@dataclass
class _Layout:
    """Runs of vectors to lay out in DRAM, and the requests that consist of them."""

    requests: list[int] = field(default_factory=list)
    """For each the request that it is a part of; -1: none."""
    runs: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    """Request, first index, vectors, bytes of a vector, base, part (0: prefix, 1: vectors)."""
    indexes: list[NDArray[np.integer]] = field(default_factory=list)
    count: int = 0

    def request(self) -> int:
        self.requests.append(-1)
        return len(self.requests) - 1

    def add(
        self, request: int, indexes: NDArray[np.integer], size: int, base: int, part: int
    ) -> None:
        self.indexes.append(indexes)
        self.runs.append((request, self.count, len(indexes), size, base, part))
        self.count += len(indexes)

    def add_bytes(self, request: int, base: int, size: int) -> int:
        """Add bytes from ``base`` on to the prefix; return the transactions."""
        first, end = base // ATOM, -(-(base + size) // ATOM)
        if size:
            self.add(request, np.arange(first, end), ATOM, 0, 0)
            return end - first
        return 0


class _Planner:
    def __init__(self, workload: Workload, config: SpattenConfig, memory: MemoryConfig) -> None:
        self.workload, self.config = workload, config
        # Values that are narrower than keys lie padded in lines of as many vectors.
        self.dim: list[int] = workload.key_dims.tolist()
        self.value_dim: list[int] = workload.value_dims.tolist()
        self.lines = [config.multipliers // dim for dim in self.dim]
        self.scores = [min(lines, config.scores_per_cycle) for lines in self.lines]
        kept = config.softmax_fifo * config.softmax_parallelism
        self.tile = [min(config.buffer_lines // 2 * lines, kept) for lines in self.lines]
        self.kept_scores = kept
        rate = memory.bytes_per_tick * memory.clock_hz / config.frequency_hz
        self.peak = rate * config.channels
        self.table: Rows = rows_of(workload, config)
        cache = workload.cache_shape
        self.slot = workload.cache_slots.tolist()
        self.slots = cache.slots
        self.region = -(-cache.tokens * cache.key_dim * 2 // _REGION_STEP) * _REGION_STEP
        self.layout = _Layout()
        self.out: dict[str, list[dict[str, int]]] = {
            name: [] for name in ("rows", "matrices", "pieces", "tiles", "jobs")
        }
        self.value_jobs: list[int] = []
        self.early_tiles: list[int] = []
        self.spill_read = self.spill_write = 0
        self.late_lsb: list[dict[str, int]] = []
        self.two_pass: list[int] = []
        self.exponentials = self.qk_macs = self.pv_macs = self.passes = 0
        self.weighted = 0
        self.sources: list[int] = []

    def plan(self) -> Plan:
        for row in self._rows():
            self._add_row(row)
        # First passes are forked in order; the matrices of LSB passes stand behind them.
        first = len(self.out["matrices"])
        self._place_lsb_matrices(first)
        transactions, vectors = self._lay_out()
        requests = np.zeros(len(self.layout.requests), c.REQUEST)
        groups = self._groups()
        arrays = {
            "rows": _array(self.out["rows"], c.ROW),
            "matrices": _array(self.out["matrices"], c.MATRIX),
            "pieces": _array(self.out["pieces"], c.PIECE),
            "tiles": _array(self.out["tiles"], c.TILE),
            "jobs": _array(self.out["jobs"], c.JOB),
        }
        self._finish_requests(requests, arrays["tiles"], arrays["pieces"])
        counters = {
            "qk_macs": self.qk_macs,
            "pv_macs": self.pv_macs,
            "exponentials": self.exponentials,
            "topk_passes": self.passes + _selector_passes(groups),
            "spill_read_bytes": self.spill_read,
            "spill_write_bytes": self.spill_write,
            "refetched_bytes": self._refetched(),
        }
        return Plan(
            groups,
            arrays["rows"],
            arrays["matrices"],
            arrays["pieces"],
            arrays["tiles"],
            arrays["jobs"],
            requests,
            np.asarray(self.value_jobs, np.int64),
            np.asarray(self.early_tiles, np.int64),
            transactions,
            vectors,
            self.total_beats,
            self.weighted,
            self.bytes,
            counters,
        )

    # Rows -----------------------------------------------------------------------------------

    def _rows(self) -> list[_Row]:
        table, found = self.table, []
        for number, group in enumerate(table.groups):
            for source in range(group.first, group.end):
                found += self._rows_of(source, number)
        return found

    def _rows_of(self, source: int, group: int) -> list[_Row]:
        table = self.table
        queries = np.arange(table.start[source], table.start[source + 1])
        queries = queries[table.query_keys[queries] > 0]
        if not len(queries):
            raise WorkloadError(
                f"workload '{self.workload.name}': row {source} has no query with keys; expected "
                "at least one"
            )
        keys = self._indices("key_indices", source, int(table.keys[source]))
        values = self._indices("value_indices", source, int(table.values[source]))
        early = not bool(table.late[source])
        outer = self.config.loop_order == "query-outer" and early and len(keys) > self.tile[source]
        if not outer:
            return [_Row(source, group, queries, keys, values, early, True)]
        found: list[_Row] = []
        for position in np.unique(table.position[queries]).tolist():
            mine = queries[table.position[queries] == position]
            most = int(table.query_keys[mine].max())
            if (table.query_values[mine] < table.query_keys[mine]).any():
                some = values[: min(most, int(table.query_values[mine].sum()))]
            else:
                some = values[:most]
            found.append(_Row(source, group, mine, keys[:most], some, False, not found))
        return found

    def _indices(self, name: str, row: int, count: int) -> Ints:
        lists = getattr(self.workload, name)
        if lists is None:
            return np.arange(count, dtype=np.int64)
        found = np.asarray(lists[row], np.int64)
        if len(found) != count:
            raise WorkloadError(
                f"workload '{self.workload.name}': row {row}: {len(found)} {name}; expected {count}"
            )
        return found

    def _place(self, plane: int, source: int) -> int:
        return int((plane * self.slots + self.slot[source]) * self.region)

    # Key side -------------------------------------------------------------------------------

    def _add_row(self, row: _Row) -> None:
        table, source = self.table, row.source
        number = len(self.out["rows"])
        self.out["rows"].append(
            {
                "group": row.group,
                "query_request": -1,
                "queries_at": -1,
            }
        )
        self.sources.append(source)
        n, tiles = len(row.keys), -(-len(row.keys) // self.tile[source])
        plane = bool(table.lsb_bits[source] > 0)
        keys, values = table.query_keys[row.queries], table.query_values[row.queries]
        flagged = table.query_refetch[row.queries] > 0
        if flagged.any() and not plane:
            raise WorkloadError(
                f"workload '{self.workload.name}': row {source}: a query needs the LSB plane, but "
                "key_lsb_bits is 0"
            )
        prunes = bool((values < keys).any())
        two = tiles > 1 and (prunes or plane)
        if values.max() > len(row.values) or keys.max() > n:
            raise WorkloadError(
                f"workload '{self.workload.name}': row {source}: a query with {keys.max()} keys "
                f"and {values.max()} values; the row fetches {n} and {len(row.values)}"
            )
        first_matrix = len(self.out["matrices"])
        if tiles == 1 or two:
            piece = self._add_piece(row, keys, values, flagged, plane, two, 0, first_matrix)
            for tile in range(tiles):
                self._add_matrix(row, number, piece, tile, tiles, two, plane)
            if flagged.any():
                self._add_lsb_matrices(row, number, piece, tiles, two, first_matrix)
            return
        no = np.zeros(len(row.queries), bool)
        for tile in range(tiles):
            piece = self._add_piece(row, keys, values, no, False, False, tile, first_matrix + tile)
            self._add_matrix(row, number, piece, tile, tiles, False, False)

    def _add_matrix(
        self, row: _Row, number: int, piece: int, tile: int, tiles: int, two: bool, plane: bool
    ) -> None:
        table, source = self.table, row.source
        request = self.layout.request()
        first = tile == 0
        prefix_queries = 0
        if first:
            prefix_queries = self._add_prefix(row, number, request)
        own = self.tile[source]
        keys = row.keys[tile * own : (tile + 1) * own]
        size = -(-int(table.key_bits[source]) * self.dim[source] // 8)
        self.layout.add(request, keys, size, self._place(_KEYS, source), 1)
        job_0, job_1 = self.jobs_of_piece[0]
        last = tile == tiles - 1
        me = len(self.out["matrices"])
        self.out["matrices"].append(
            {
                "row": number,
                "group": row.group,
                "request": request,
                "vectors": len(keys),
                "lines": -(-len(keys) // self.lines[source]),
                "scores": self.scores[source],
                "job_0": job_0,
                "job_1": job_1,
                "offset": tile * own if two else 0,
                "first": int(first),
                "lsb": 0,
                "two": int(two),
                "last_tile": int(last),
                "barrier": int(two and plane and last),
                "owner": me,
                "hold": int(plane and not two),
                "prefix_queries": prefix_queries,
                "piece": piece,
                "asked": c.NEVER,
                "free": c.NEVER,
            }
        )

    def _add_prefix(self, row: _Row, number: int, request: int) -> int:
        """Residuals, metadata and queries in front of the keys; transactions of the queries."""
        source, workload, layout = row.source, self.workload, self.layout
        if row.first:
            for plane, column in ((_RESIDUAL, "residual_bytes"), (_METADATA, "metadata_bytes")):
                base = self._place(plane, source)
                layout.add_bytes(request, base, int(workload[column][source]))
        if not self.config.query_traffic:
            return 0
        size = -(-self.dim[source] * BITS_ON_CHIP // 8)
        place = int(row.queries[0] - self.table.start[source])
        count = int(row.queries[-1] - row.queries[0]) + 1
        base = self._place(_QUERIES, source) + place * size
        found = layout.add_bytes(request, base, count * size)
        own = layout.request()
        # The same transactions, if they are asked for on their own.
        layout.requests[own] = request
        self.out["rows"][number]["query_request"] = own
        self.out["rows"][number]["queries_at"] = own
        return found

    def _add_lsb_matrices(
        self, row: _Row, number: int, piece: int, tiles: int, two: bool, first: int
    ) -> None:
        table, source, layout = self.table, row.source, self.layout
        job_0, job_1 = self.jobs_of_piece[1]
        own = self.tile[source]
        for tile in range(tiles):
            request = layout.request()
            keys = row.keys[tile * own : (tile + 1) * own]
            if two:
                size = -(-int(table.key_bits[source]) * self.dim[source] // 8)
                layout.add(request, keys, size, self._place(_KEYS, source), 2)
            size = -(-int(table.lsb_bits[source]) * self.dim[source] // 8)
            layout.add(request, keys, size, self._place(_LSBS, source), 1)
            self.late_lsb.append(
                {
                    "row": number,
                    "group": row.group,
                    "request": request,
                    "vectors": len(keys),
                    "lines": -(-len(keys) // self.lines[source]),
                    "scores": self.scores[source],
                    "job_0": job_0,
                    "job_1": job_1,
                    "offset": tile * own if two else 0,
                    "first": 0,
                    "lsb": 1,
                    "two": int(two),
                    "last_tile": int(tile == tiles - 1),
                    "barrier": 0,
                    "owner": -1 if two else first,
                    "hold": 0,
                    "prefix_queries": 0,
                    "piece": piece,
                    "asked": c.NEVER,
                    "free": c.NEVER,
                }
            )

    def _place_lsb_matrices(self, first: int) -> None:
        pieces = self.out["pieces"]
        self.first_passes = first
        for number, matrix in enumerate(self.late_lsb, start=first):
            if matrix["owner"] < 0:
                matrix["owner"] = number
            piece = pieces[matrix["piece"]]
            if piece["lsb_0"] == piece["lsb_1"]:
                piece["lsb_0"] = piece["lsb_1"] = number
            piece["lsb_1"] += 1
            self.out["matrices"].append(matrix)

    # Value side -----------------------------------------------------------------------------

    def _add_piece(
        self,
        row: _Row,
        keys: Ints,
        values: Ints,
        flagged: NDArray[np.bool_],
        plane: bool,
        two: bool,
        tile: int,
        matrix: int,
    ) -> int:
        """Add what shares value tiles, with its jobs; the index of the piece."""
        n, most = len(row.keys), self.tile[row.source]
        one_tile_of_many = n > most and not two
        offset = tile * most if one_tile_of_many else 0
        here = keys > offset
        piece = len(self.out["pieces"])
        late = two or not row.early
        prunes = values < keys
        some = bool((prunes & here).any())
        fetched = row.values[offset : offset + most] if one_tile_of_many else row.values
        count = -(-len(fetched) // most)
        with_values = np.flatnonzero(here & ~flagged)
        again = np.flatnonzero(here & flagged)
        mode = c.AT_PROBABILITY
        if two or (late and some and here.sum() > 1):
            mode = c.AFTER_FILTERS
        elif late and some:
            mode = c.WITH_FILTER
        before = -1
        if two:
            if len(self.two_pass) > 1:
                before = self.two_pass[-2]
            self.two_pass.append(piece)
        job_0 = len(self.out["jobs"])
        value_0 = len(self.value_jobs)
        for query in np.flatnonzero(here).tolist():
            dropped = bool(flagged[query])
            if not dropped:
                self.value_jobs.append(len(self.out["jobs"]))
            self._add_job(
                row, piece, query, keys, values, dropped, plane, two, one_tile_of_many, tile, count
            )
        job_1 = len(self.out["jobs"])
        for query in again.tolist():
            self.value_jobs.append(len(self.out["jobs"]))
            self._add_job(
                row, piece, query, keys, values, False, False, two, one_tile_of_many, tile, count
            )
        job_2 = len(self.out["jobs"])
        self.jobs_of_piece = ((job_0, job_1), (job_1, job_2))
        tile_0 = len(self.out["tiles"])
        jobs = len(with_values) + len(again)
        total_values = np.clip(keys - offset, 0, most) if one_tile_of_many else values
        self.out["pieces"].append(
            {
                "late": int(late),
                "tile_0": tile_0,
                "tiles": count,
                "union": int(some and len(row.queries) > 1),
                "mode": mode,
                "job_0": value_0,
                "job_1": len(self.value_jobs),
                "lsb_0": 0,
                "lsb_1": 0,
                "matrix": matrix,
                "tx_total": 0,
                "two": int(two),
                "two_before": before,
                "follows": int(late and not two and not here.any()),
                "filter_left": jobs,
                "filter_end": c.NEVER,
                "decide_left": job_1 - job_0 if plane else 0,
                "decided": c.NEVER,
                "scores_at": c.NEVER,
                "queued": 0,
                "slots": 0,
                "due": c.NEVER,
                "gradual": -1,
            }
        )
        for part in range(count):
            self._add_tile(row, piece, fetched, part, count, late, matrix, total_values[here])
        return piece

    def _add_tile(
        self,
        row: _Row,
        piece: int,
        fetched: Ints,
        part: int,
        count: int,
        late: bool,
        matrix: int,
        values: Ints,
    ) -> None:
        request = self.layout.request()
        most = self.tile[row.source]
        vectors = fetched[part * most : (part + 1) * most]
        size = -(-int(self.table.value_bits[row.source]) * self.value_dim[row.source] // 8)
        self.layout.add(request, vectors, size, self._place(_VALUES, row.source), 1)
        mine = values * (part + 1) // count - values * part // count
        uses = int((mine > 0).sum())
        if part == 0:
            uses += int((values == 0).sum())
        self.weighted += uses
        if not late:
            self.early_tiles.append(len(self.out["tiles"]))
        lines = -(-len(vectors) // self.lines[row.source])
        self.out["tiles"].append(
            {
                "piece": piece,
                "request": request,
                "vectors": len(vectors),
                "lines": lines,
                "scores": self.scores[row.source],
                "matrix": matrix,
                "uses": uses,
                "asked": c.NEVER,
                "free": c.NEVER,
            }
        )

    def _add_job(
        self,
        row: _Row,
        piece: int,
        query: int,
        keys: Ints,
        values: Ints,
        dropped: bool,
        decides: bool,
        two: bool,
        one_tile_of_many: bool,
        tile: int,
        count: int,
    ) -> None:
        config, total, most = self.config, int(keys[query]), self.tile[row.source]
        offset = tile * most if one_tile_of_many else 0
        here = min(total - offset, most) if one_tile_of_many else total
        used = here if one_tile_of_many else int(values[query])
        prunes = used < here
        index = int(row.queries[query])
        output = not dropped and (not one_tile_of_many or total <= offset + most)
        extra = w_extra = 0
        if two:
            gone = here if row.early else max(0, here - self.kept_scores)
            size = -(-gone * BITS_ON_CHIP // 8)
            reads = 2 if prunes and not dropped else 1
            self.spill_write += size
            self.spill_read += size * reads
            extra = int(np.ceil(size * (1 + reads) / self.peak))
        elif one_tile_of_many and tile > 0:
            w_extra = 1
            if row.early:
                size = (self.value_dim[row.source] + 2) * config.partial_bits // 8
                self.spill_write += size
                self.spill_read += size
                w_extra += int(np.ceil(2 * size / self.peak))
        shares = [used * (t + 1) // count - used * t // count for t in range(max(count, 1))]
        beats = max(1, sum(-(-number // self.scores[row.source]) for number in shares))
        self.qk_macs += here * self.dim[row.source]
        self.exponentials += here
        if not dropped:
            self.pv_macs += used * self.value_dim[row.source]
            if prunes:
                self.passes += int(self.table.passes[index])
        self.out["jobs"].append(
            {
                "piece": piece,
                "group": row.group,
                "source": row.source,
                "keys": here,
                "beats": -(-here // config.softmax_parallelism),
                "values": used,
                "w_beats": beats,
                "dropped": int(dropped),
                "prunes": int(prunes),
                "search": int(self.table.search[index]),
                "extra": extra,
                "w_extra": w_extra,
                "decides": int(decides),
                "two": int(two),
                "output": int(output),
                "sum": c.NEVER,
                "last": c.NEVER,
                "searched": c.NEVER,
                "filter": c.NEVER,
                "passed": 0,
                "w_done": 0,
                "buffer": -1,
            }
        )

    # Groups ---------------------------------------------------------------------------------

    def _groups(self) -> c.Records:
        table = self.table
        found = np.zeros(len(table.groups), c.GROUP)
        found["done"] = found["tokens_end"] = found["heads_end"] = c.NEVER
        found["select"] = found["heads"] = -1
        outputs = [job["group"] for job in self.out["jobs"] if job["output"]]
        counts = np.bincount(outputs, minlength=len(table.groups))
        found["jobs_left"] = found["outputs_left"] = counts
        per_query = self.config.token_selection == "per-query"
        found["tokens"] = 1
        step_first = 0
        for number, group in enumerate(table.groups):
            if number == 0:
                continue
            before = table.groups[number - 1]
            if before.step != group.step:
                step_first = number
            found["step_first"][number] = step_first
            found["ahead"][number] = before.step == group.step and before.late and group.late
            sizes = self.workload["select_size"][group.first : group.end]
            if sizes.max() > 0:
                found["select"][number - 1] = group.token_cycles
                passes = np.maximum(self.workload["select_passes"][group.first : group.end], 0)
                here = passes[sizes > 0]
                if group.once:
                    found["select_passes"][number - 1] = here.sum()
                else:
                    found["select_passes"][number - 1] = here[0]
                    found["each"][number - 1] = per_query
                    found["tokens"][number - 1] = counts[number - 1] if per_query else 1
            fewer = before.step == group.step and group.heads < before.heads
            if fewer and as_many_heads(self.workload, before.layer, group.layer):
                found["heads"][number - 1] = group.head_cycles
                passes, _, _ = head_selection(before.heads, group.heads, group.step, group.layer)
                found["heads_passes"][number - 1] = passes
        return found

    # Transactions ---------------------------------------------------------------------------

    def _lay_out(self) -> tuple[Ints, Ints]:
        layout = self.layout
        runs = np.asarray(layout.runs, np.int64)
        indexes = np.concatenate(layout.indexes, dtype=np.int64)
        room = int((runs[:, 2] * (runs[:, 3] // ATOM + 2)).sum())
        count = len(layout.requests)
        transactions, vectors, starts = _transactions(runs, indexes, count, room)
        self._starts = starts
        return transactions, vectors

    def _finish_requests(self, requests: c.Records, tiles: c.Records, pieces: c.Records) -> None:
        starts, ports = self._starts, self.config.fetch_channels
        queries = self._query_sizes()
        tensor = dict.fromkeys(("query", "key_msb", "key_lsb", "value"), 0)
        tensor |= dict.fromkeys(("metadata", "residual"), 0)
        own = self.layout.requests
        requests["start"] = starts[:, 0]
        requests["length"] = starts[:, 2]
        requests["start_2"] = starts[:, 1]
        requests["length_2"] = starts[:, 3]
        requests["vector_0"] = starts[:, 5]
        requests["arrives"] = c.NEVER
        requests["piece"] = -1
        for row in self.out["rows"]:
            number = row["query_request"]
            if number < 0:
                continue
            first = own[number]
            size = queries[first]
            requests["length"][first] -= size
            requests["start"][number] = starts[first, 0] + starts[first, 2] - size
            requests["length"][number] = size
            requests["length_2"][number] = 0
        total = requests["length"] + requests["length_2"]
        room = total.copy()
        for first, size in queries.items():
            room[first] += size
        beats = -(-room // ports)
        requests["beat_0"] = np.concatenate(([0], np.cumsum(beats)[:-1]))
        self.total_beats = int(beats.sum())
        for tile in tiles:
            piece, request = tile["piece"], tile["request"]
            if pieces["mode"][piece] == c.WITH_FILTER:
                requests["piece"][request] = piece
                requests["tx_base"][request] = pieces["tx_total"][piece]
            pieces["tx_total"][piece] += total[request]
        self.bytes = self._bytes(requests, queries, tensor)

    def _query_sizes(self) -> dict[int, int]:
        matrices = self.out["matrices"]
        return {m["request"]: m["prefix_queries"] for m in matrices if m["prefix_queries"]}

    def _bytes(
        self, requests: c.Records, queries: dict[int, int], tensor: dict[str, int]
    ) -> dict[str, int]:
        source = self.workload
        tensor["query"] = sum(queries.values()) * ATOM
        for number, matrix in enumerate(self.out["matrices"]):
            request = matrix["request"]
            whole = int(self._starts[request, 3]) * ATOM
            if number < self.first_passes:
                tensor["key_msb"] += whole
                prefix = int(requests["length"][request]) * ATOM
                if prefix:
                    row = self.sources[matrix["row"]]
                    residual = -(-int(source["residual_bytes"][row]) // ATOM) * ATOM
                    tensor["residual"] += residual
                    tensor["metadata"] += prefix - residual
            else:
                again = int(self._starts[request, 4]) * ATOM
                tensor["key_msb"] += again
                tensor["key_lsb"] += whole - again
        for tile in self.out["tiles"]:
            tensor["value"] += int(self._starts[tile["request"], 3]) * ATOM
        return tensor

    def _refetched(self) -> int:
        """Bytes of keys and values beyond one fetch of each plane of a row, tile by tile."""
        # The MSBs that come again with the LSBs of several tiles.
        again = 0
        moved: dict[int, list[int]] = {}
        parts = np.bincount(self.sources, minlength=self.workload.rows)
        for number, matrix in enumerate(self.out["matrices"]):
            start = self._starts[matrix["request"]]
            again += int(start[4]) * ATOM
            source = self.sources[matrix["row"]]
            if parts[source] > 1:
                planes = moved.setdefault(source, [0, 0, 0])
                planes[int(number >= self.first_passes)] += int(start[3] - start[4]) * ATOM
        for tile in self.out["tiles"]:
            piece = self.out["pieces"][tile["piece"]]
            source = self.sources[self.out["matrices"][piece["matrix"]]["row"]]
            if parts[source] > 1:
                moved[source][2] += int(self._starts[tile["request"], 3]) * ATOM
        for source, planes in moved.items():
            pairs = zip(planes, self._once(source), strict=True)
            again += sum(max(0, found - once) for found, once in pairs)
        return again

    def _once(self, source: int) -> list[int]:
        """Bytes of one fetch of a row's key MSBs, key LSBs and values, tile by tile."""
        table, totals = self.table, []
        for name, bits, count, dim in (
            ("key_indices", table.key_bits, table.keys, self.dim[source]),
            ("key_indices", table.lsb_bits, table.keys, self.dim[source]),
            ("value_indices", table.value_bits, table.values, self.value_dim[source]),
        ):
            size = -(-int(bits[source]) * dim // 8)
            vectors = self._indices(name, source, int(count[source]))
            total = 0
            for first in range(0, len(vectors), self.tile[source]):
                part = vectors[first : first + self.tile[source]]
                atoms = [np.arange(i * size // ATOM, -(-(i + 1) * size // ATOM)) for i in part]
                total += len(np.unique(np.concatenate(atoms))) * ATOM
            totals.append(total)
        return totals


def _selector_passes(groups: c.Records) -> int:
    """Passes of all token and head searches, also of those that end after the last output."""
    tokens = groups["tokens"] * groups["select_passes"]
    return int((tokens + groups["heads_passes"]).sum())


def _array(rows: Sequence[Mapping[str, int]], kind: np.dtype[np.void]) -> c.Records:
    """Rows as a table."""
    found = np.zeros(len(rows), kind)
    for name in kind.names or ():
        found[name] = [row[name] for row in rows]
    return found


@kernel
def _transactions(runs: Ints, indexes: Ints, requests: int, room: int) -> tuple[Ints, Ints, Ints]:
    """Transactions that cover runs of vectors; neighbours in one transaction read it once.

    Args:
        runs: [runs, 6], a request's together: request, first index, vectors, bytes of a vector,
            base, part (0: prefix; 1: vectors; 2: vectors of a first plane, to which a run of part 1
            adds the second).
        indexes: of the vectors of all runs.
        requests: how many.
        room: most transactions.

    Returns:
        Byte addresses; the last transaction of each vector of a part 1, from the start of the
        parts 1 and 2 on; and [requests, 6]: where the prefix starts, where the vectors start, their
        transactions, those of a first plane among the latter, where its vectors start.
    """
    found = np.empty(room, np.int64)
    last_of = np.empty(len(indexes), np.int64)
    starts = np.zeros((requests, 6), np.int64)
    count = n_vectors = 0
    before = np.int64(-1)
    for run in range(len(runs)):
        request, first, vectors, size, base, part = runs[run]
        if request != before:
            starts[request, 0] = count
            starts[request, 1] = count
            starts[request, 5] = n_vectors
            before = request
        run_start = count
        last = np.int64(-1)
        for i in range(first, first + vectors):
            low, high = indexes[i] * size // 32, ((indexes[i] + 1) * size - 1) // 32 + 1
            for atom in range(low, high):
                if atom != last:
                    found[count] = base + atom * 32
                    count += 1
                    last = np.int64(atom)
            if part == 1:
                last_of[n_vectors] = count - 1 - starts[request, 1]
                n_vectors += 1
        if part == 0:
            starts[request, 2] += count - run_start
            starts[request, 1] = count
        else:
            starts[request, 3] += count - run_start
            if part == 2:
                starts[request, 4] += count - run_start
    return found[:count], last_of[:n_vectors], starts
