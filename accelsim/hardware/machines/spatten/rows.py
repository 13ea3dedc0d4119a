"""A workload as SpAtten sees it: rows, their queries, groups of a layer, costs of selection."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.hardware.machines.spatten._search import head_selection, search_cycles
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.workloads import BEAT, QueryTable, Workload
from accelsim.workloads.benchmarks import quick_select_work

Ints = NDArray[np.int64]

LSB_BITS = 4
"""Of the LSB plane (SpAtten III-D)."""


@dataclass(frozen=True)
class Group:
    """The rows of one layer of one step.

    Attributes:
        step, layer: as in the workload.
        first, end: rows.
        late: all its rows are late.
        heads: query heads.
        token_cycles: of the search that selects the tokens of this group; 0 if there is none.
        head_cycles: of the search that selects its heads; 0 if there is none.
        prefill: it belongs to a step with early rows.
        once: its tokens are searched once, whatever the machine does for a cascade.
        head_work: elements read and passes of the search for heads.
    """

    step: int
    layer: int
    first: int
    end: int
    late: bool
    heads: int
    token_cycles: int
    head_cycles: int
    prefill: bool
    once: bool = False
    head_work: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Rows:
    """All rows, ready to run; arrays int64.

    Attributes:
        keys, values: vectors fetched, [rows].
        key_bits, lsb_bits, value_bits: widths, [rows]; ``lsb_bits`` 0 where there is no plane.
        late: all queries have one position, [rows].
        prunes: some query prunes values, [rows].
        refetches: queries that need the LSB plane, [rows].
        start: first query of each row, [rows + 1].
        query_keys, query_values, query_refetch: [queries].
        search: cycles of the value top-k, [queries].
        passes, elements: of it, [queries].
        groups: in order.
        key_dims, value_dims: elements of a vector, [rows].
    """

    keys: Ints
    values: Ints
    key_bits: Ints
    lsb_bits: Ints
    value_bits: Ints
    late: NDArray[np.bool_]
    prunes: NDArray[np.bool_]
    refetches: Ints
    start: Ints
    query_keys: Ints
    query_values: Ints
    query_refetch: Ints
    position: Ints
    search: Ints
    passes: Ints
    elements: Ints
    groups: list[Group]
    key_dims: Ints
    value_dims: Ints

    @property
    def widths(self) -> set[int]:
        """Elements of a key, of all rows."""
        return set(np.unique(self.key_dims).tolist())

    def tiles(self, config: SpattenConfig) -> Ints:
        """Most vectors in a tile of each row."""
        dims, place = np.unique(self.key_dims, return_inverse=True)
        return np.array([config.tile(dim) for dim in dims.tolist()])[place]


def rows_of(workload: Workload, config: SpattenConfig) -> Rows:
    """Return what each row asks of the machine.

    Raises:
        WorkloadError: a width that the converter does not take, or a ``head_dim`` that does not
            divide the multipliers.
    """
    for dim in np.unique(workload.key_dims).tolist():
        config.dot_product(dim)
    column = {name: workload[name].astype(np.int64) for name in workload.columns}
    table = workload.query_table or _shared_out(workload)
    start = table.start.astype(np.int64)
    keys = table.keys.astype(np.int64)
    values = np.minimum(table.values.astype(np.int64), keys)
    position = table.position.astype(np.int64)
    key_bits, value_bits = (_widths(workload, config, n) for n in ("key_bits", "value_bits"))
    lsb_bits = column["key_lsb_bits"]
    refetch = table.refetch.astype(np.int64)
    prunes = values < keys
    passes, beats, elements = _passes(workload, table, keys, values)
    topk = config.topk
    search = search_cycles(passes, beats, elements, topk.parallelism, topk.pass_overhead)
    late = np.minimum.reduceat(position, start[:-1]) == np.maximum.reduceat(position, start[:-1])
    return Rows(
        keys=column["keys"],
        values=np.minimum(column["values"], column["keys"]),
        key_bits=key_bits,
        lsb_bits=lsb_bits,
        value_bits=value_bits,
        late=late,
        prunes=np.logical_or.reduceat(prunes, start[:-1]),
        refetches=np.add.reduceat(refetch, start[:-1]),
        start=start,
        query_keys=keys,
        query_values=values,
        query_refetch=refetch,
        position=position,
        search=np.where(prunes, search, 0),
        passes=np.where(prunes, passes, 0),
        elements=np.where(prunes, elements, 0),
        groups=_groups(workload, config, start, position, late),
        key_dims=workload.key_dims,
        value_dims=workload.value_dims,
    )


def _widths(workload: Workload, config: SpattenConfig, name: str) -> Ints:
    bits = np.where(workload[name] == -1, 12, workload[name]).astype(np.int64)
    bad = np.flatnonzero(~np.isin(bits, config.stored_bits))
    if bad.size:
        row = int(bad[0])
        raise WorkloadError(
            f"workload '{workload.name}': row {row}: {name} = {bits[row]}; this accelerator takes "
            f"{', '.join(map(str, config.stored_bits))}"
        )
    return bits


def _shared_out(workload: Workload) -> QueryTable:
    """Queries of a workload without a table: those of a row share its sums equally."""
    queries = workload["queries"].astype(np.int64)
    start = np.concatenate(([0], np.cumsum(queries)))
    rank = np.arange(start[-1]) - np.repeat(start[:-1], queries)

    def share(name: str) -> Ints:
        total = np.repeat(workload[name].astype(np.int64), queries)
        every = np.repeat(queries, queries)
        return np.asarray((rank + 1) * total // every - rank * total // every)

    context = np.repeat(workload["context_tokens"].astype(np.int64), queries)
    return QueryTable.of(
        queries,
        {
            "position": np.maximum(context - np.repeat(queries, queries) + rank, rank),
            "keys": share("query_keys"),
            "values": share("query_values"),
            "refetch": rank < np.repeat(workload["refetch_queries"].astype(np.int64), queries),
            "topk_passes": np.full(start[-1], -1),
            "topk_beats": np.full(start[-1], -1),
        },
    )


def _passes(
    workload: Workload, table: QueryTable, keys: Ints, values: Ints
) -> tuple[Ints, Ints, Ints]:
    """Passes, cycles of 16 comparators and scores read of each query's value top-k."""
    passes = table.topk_passes.astype(np.int64)
    beats = table.topk_beats.astype(np.int64)
    counts = np.diff(table.start)
    row = np.repeat(np.arange(len(counts)), counts)
    # A row's scores are shared out as its beats are.
    total = np.repeat(np.add.reduceat(np.maximum(beats, 0), table.start[:-1]), counts)
    scored = workload["topk_elements"].astype(np.int64)[row]
    elements = np.where(total > 0, beats * scored // np.maximum(total, 1), 0)
    # Not recorded: as many as the beats have room for.
    elements = np.where(scored < 0, BEAT * np.maximum(beats, 0), elements)
    missing = np.flatnonzero((values < keys) & (passes <= 0))
    place = np.arange(len(row)) - table.start[row]
    for query in missing.tolist():
        seed = [int(workload[name][row[query]]) for name in ("step", "layer", "head")]
        rng = np.random.default_rng((*seed, int(place[query])))
        drawn = quick_select_work(int(keys[query]), max(int(values[query]), 1), 1, rng)
        passes[query], elements[query], beats[query] = (int(number[0]) for number in drawn)
    return passes, beats, elements


def as_many_heads(workload: Workload, before: int, layer: int) -> bool:
    """Whether two layers have as many query heads, pruned ones counted."""
    shapes = workload.layers
    return not shapes or shapes[before].query_heads == shapes[layer].query_heads


def _groups(
    workload: Workload,
    config: SpattenConfig,
    start: Ints,
    position: Ints,
    late: NDArray[np.bool_],
) -> list[Group]:
    step, layer = workload["step"].astype(np.int64), workload["layer"].astype(np.int64)
    change = np.flatnonzero((np.diff(step) != 0) | (np.diff(layer) != 0)) + 1
    begins = np.concatenate(([0], change))
    early_steps = set(step[~late].tolist())
    topk = config.topk
    selects = search_cycles(
        workload["select_passes"].astype(np.int64),
        workload["select_beats"].astype(np.int64),
        workload["select_elements"].astype(np.int64),
        topk.parallelism,
        topk.pass_overhead,
    )
    selects = np.where(workload["select_size"] > 0, selects, 0)
    counts = np.diff(start)
    # Positions of a row: queries follow each other by position.
    moved = np.concatenate(([True], np.diff(position) != 0))
    moved[start[:-1]] = True
    positions = np.add.reduceat(moved.astype(np.int64), start[:-1])
    alive_heads = np.add.reduceat(np.maximum(counts // positions, 1), begins).tolist()
    all_late = np.logical_and.reduceat(late, begins).tolist()
    searched_once = np.logical_or.reduceat(workload["select_once"] != 0, begins).tolist()
    all_searches = np.add.reduceat(selects, begins).tolist()
    first_search = _first_of(selects, begins)
    edges = [*begins.tolist(), len(step)]
    groups: list[Group] = []
    for place, (first, end) in enumerate(itertools.pairwise(edges)):
        here, of = int(step[first]), int(layer[first])
        alive, once = alive_heads[place], searched_once[place]
        head_cycles, head_work = 0, (0, 0)
        # Fewer heads than in the layer before were pruned, unless the layer has no more.
        pruned = groups and groups[-1].step == here and alive < groups[-1].heads
        if pruned and as_many_heads(workload, groups[-1].layer, of):
            passes, beats, elements = head_selection(groups[-1].heads, alive, here, of)
            head_work = elements, passes
            head_cycles = int(
                search_cycles(
                    np.asarray([passes]),
                    np.asarray([beats]),
                    np.asarray([elements]),
                    topk.parallelism,
                    topk.pass_overhead,
                )[0]
            )
        groups.append(
            Group(
                here,
                of,
                first,
                end,
                all_late[place],
                alive,
                all_searches[place] if once else first_search[place],
                head_cycles,
                here in early_steps,
                once,
                head_work,
            )
        )
    return groups


def _first_of(values: Ints, begins: Ints) -> list[int]:
    """First value of each group that is not 0; 0 where all are.

    Args:
        values: int64 [rows].
        begins: first row of each group, int64 [groups].
    """
    place = np.flatnonzero(values)
    group = np.searchsorted(begins, place, "right") - 1
    found = np.zeros(len(begins), np.int64)
    # The last that is written stays.
    found[group[::-1]] = values[place[::-1]]
    return [int(value) for value in found]
