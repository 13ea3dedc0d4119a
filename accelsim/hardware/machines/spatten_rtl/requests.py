"""Workload rows as this hardware sees them: rounded, mapped to its bit widths, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.facts import ATOM, LSB_BITS
from accelsim.hardware.machines.spatten_rtl.java_random import new_random, topk_latencies
from accelsim.workloads import Workload

Ints = NDArray[np.int64]

RELEASED_BITS = (4, 6, 8)
"""Widths that the released fetcher takes (section 2.6)."""
FORCED_BITS = (10, 12, -1)
"""Widths that the released test bench maps to 8 bits with a forced LSB pass (section 4.3)."""


class Request(NamedTuple):
    """One row of :class:`Requests`, as plain integers, with its position."""

    row: int
    keys: int
    values: int
    key_bits: int
    value_bits: int
    refetch: int
    key_fused: int
    key_part: int
    value_fused: int
    value_part: int
    prunes: int
    topk_cycles: int
    select_cycles: int
    queries: int
    key_lines: int
    ring_lines: int
    gathered_lines: int
    score_lines: int
    rescore_lines: int
    value_lines: int


@dataclass(frozen=True)
class Requests:
    """All rows, ready to run; every array int64 [rows].

    Attributes:
        keys, values: vectors fetched, rounded.
        key_bits, value_bits: widths of the first pass and of the values.
        refetch: 1 where an LSB pass follows.
        key_fused, key_part, value_fused, value_part: 2 for a pair of 6-bit rows that share one
            fetch, and the position within the pair.
        prunes: 1 where the scores go through the top-k engine.
        topk_cycles: search time of the local value top-k.
        topk_passes, topk_elements: quick-select passes of it, and scores read in them.
        select_cycles: search time of the cascade token selection before this row.
        queries: query rows that reuse the fetched keys.
        key_lines, gathered_lines: buffer lines that the keys and the values fill.
        ring_lines: lines of the key buffer that are allocated, in pairs (2.3); with the first of
            a fused pair, for both.
        score_lines, rescore_lines, value_lines: buffer lines read by the first pass, the LSB pass
            and the weighted sum, of all queries.
    """

    keys: Ints
    values: Ints
    key_bits: Ints
    value_bits: Ints
    refetch: Ints
    key_fused: Ints
    key_part: Ints
    value_fused: Ints
    value_part: Ints
    prunes: Ints
    topk_cycles: Ints
    topk_passes: Ints
    topk_elements: Ints
    select_cycles: Ints
    queries: Ints
    key_lines: Ints
    ring_lines: Ints
    gathered_lines: Ints
    score_lines: Ints
    rescore_lines: Ints
    value_lines: Ints

    @property
    def rows(self) -> int:
        """Number of requests."""
        return len(self.keys)

    def each(self) -> list[Request]:
        """The rows one by one."""
        columns = (getattr(self, name).tolist() for name in Request._fields[1:])
        return list(map(Request._make, zip(range(self.rows), *columns, strict=True)))


def requests(workload: Workload, config: SpattenRtlConfig) -> Requests:
    """Return what each row asks of the machine.

    Raises:
        WorkloadError: a bit width, size or pairing that the machine does not take, with the row.
    """
    key_bits = _widths(workload, "key_bits")
    value_bits = _widths(workload, "value_bits")
    forced = np.isin(workload["key_bits"], FORCED_BITS)
    refetch = workload["refetch_lsb"].astype(np.int64) | forced
    key_fused, key_part = _pairs(workload, "key_bits", key_bits)
    value_fused, value_part = _pairs(workload, "value_bits", value_bits)
    keys = _round(workload["keys"], config.rounding)
    values = np.minimum(_round(workload["values"], config.rounding), keys)
    _check_sizes(workload, config, keys, key_fused, "keys")
    _check_sizes(workload, config, values, value_fused, "values")
    _check_pairs(workload, keys, key_part, "keys")
    _check_pairs(workload, values, value_part, "values")
    if config.index_pattern == "random-table":
        _check_whole(workload, key_bits * key_fused, "key_bits")
        _check_whole(workload, np.where(refetch == 1, LSB_BITS, 8), "the LSB plane")
        _check_whole(workload, value_bits * value_fused, "value_bits")
    topk_cycles, passes, elements = _topk(workload, config, key_part)
    queries = workload["queries"].astype(np.int64)
    width = config.vectors_per_line
    one = queries == 1
    again = np.where(one, keys * refetch, workload["refetch_query_keys"].astype(np.int64))
    key_lines = _lines(keys, width)
    return Requests(
        keys=keys,
        values=values,
        key_bits=key_bits,
        value_bits=value_bits,
        refetch=refetch,
        key_fused=key_fused,
        key_part=key_part,
        value_fused=value_fused,
        value_part=value_part,
        prunes=(values < keys).astype(np.int64),
        topk_cycles=topk_cycles,
        topk_passes=passes,
        topk_elements=elements,
        select_cycles=_round(workload["select_elements"], config.topk.parallelism)
        // config.topk.parallelism
        + workload["select_passes"].astype(np.int64) * config.topk.pass_overhead,
        queries=queries,
        key_lines=key_lines,
        ring_lines=np.where(key_part == 1, 0, (key_lines + key_lines % 2) * key_fused),
        gathered_lines=_lines(values, width),
        score_lines=_lines(np.where(one, keys, workload["query_keys"]), width),
        rescore_lines=_lines(again, width),
        value_lines=_lines(np.where(one, values, workload["query_values"]), width),
    )


def _lines(vectors: NDArray[Any], width: int) -> Ints:
    return np.asarray(-(-vectors.astype(np.int64) // width), np.int64)


def _round(count: NDArray[Any], multiple: int) -> Ints:
    return np.asarray(-(-count.astype(np.int64) // multiple) * multiple, np.int64)


def _widths(workload: Workload, name: str) -> Ints:
    bits = workload[name].astype(np.int64)
    mapped = np.where(np.isin(bits, FORCED_BITS), 8, bits)
    bad = np.flatnonzero(~np.isin(mapped, RELEASED_BITS))
    if bad.size:
        row = int(bad[0])
        raise WorkloadError(
            f"workload '{workload.name}': row {row}: {name} = {bits[row]}; this accelerator takes "
            f"{', '.join(map(str, RELEASED_BITS))}"
        )
    return mapped


def _pairs(workload: Workload, name: str, bits: Ints) -> tuple[Ints, Ints]:
    """Consecutive 6-bit rows come in pairs of heads that share a fetch (section 4.3)."""
    six = bits == 6
    fused = np.where(six, 2, 1)
    if not six.any():
        return fused, np.zeros_like(fused)
    starts = np.flatnonzero(six & ~np.concatenate(([False], six[:-1])))
    ends = np.flatnonzero(six & ~np.concatenate((six[1:], [False]))) + 1
    part = np.zeros_like(fused)
    for start, end in zip(starts, ends, strict=True):
        if (end - start) % 2:
            raise WorkloadError(
                f"workload '{workload.name}': row {end - 1}: {name} = 6 has no partner; "
                "6-bit rows come in pairs of heads"
            )
        part[start:end] = np.arange(end - start) % 2
    return fused, part


def _check_sizes(
    workload: Workload, config: SpattenRtlConfig, vectors: Ints, fused: Ints, what: str
) -> None:
    # Lines are allocated in pairs (2.3), for each of the fused heads.
    pairs = config.buffer_lines // fused // 2
    limit = pairs * 2 * config.vectors_per_line
    bad = np.flatnonzero(vectors > limit)
    if bad.size:
        row = int(bad[0])
        raise WorkloadError(
            f"workload '{workload.name}': row {row} fetches {vectors[row]} {what}; the {what[:-1]} "
            f"buffer holds {limit[row]} vectors of one request (multipliers/64 x "
            f"buffer_lines, shared by {fused[row]} fused heads)"
        )


def _check_whole(workload: Workload, bits: Ints, what: str) -> None:
    """Refuse vectors that end inside a transaction: the released table counts whole ones (2.6)."""
    bad = np.flatnonzero(bits * workload.head_dim % (8 * ATOM))
    if bad.size:
        row = int(bad[0])
        size = bits[row] * workload.head_dim / 8
        raise WorkloadError(
            f"workload '{workload.name}': row {row}: a vector of {what} takes {size:g} bytes at "
            f"head_dim {workload.head_dim}; the released fetcher (index_pattern random-table) "
            f"takes whole transactions of {ATOM} bytes"
        )


def _check_pairs(workload: Workload, vectors: Ints, part: Ints, what: str) -> None:
    bad = np.flatnonzero((part[1:] == 1) & (vectors[1:] != vectors[:-1])) + 1
    if bad.size:
        row = int(bad[0])
        raise WorkloadError(
            f"workload '{workload.name}': row {row} fetches {vectors[row]} {what} and its 6-bit "
            f"partner {vectors[row - 1]}; a pair shares one fetch"
        )


def _topk(workload: Workload, config: SpattenRtlConfig, key_part: Ints) -> tuple[Ints, Ints, Ints]:
    """Search cycles, passes and elements of the local value top-k of each row."""
    keys, values = workload["keys"].astype(np.int64), workload["values"].astype(np.int64)
    recorded = workload["topk_passes"].astype(np.int64)
    elements = workload["topk_elements"].astype(np.int64)
    known = int(recorded.min()) >= 0 and int(elements.min()) >= 0
    if config.topk.source_of_passes == "recorded" and known:
        cycles = -(-elements // config.topk.parallelism) + recorded * config.topk.pass_overhead
        return cycles, recorded, elements
    # In a fused pair only the first part draws; the second gets 0 (section 3.2).
    cycles, passes, elements = topk_latencies(
        np.where(key_part == 1, 0, keys),
        values,
        config.topk.parallelism,
        config.topk.pass_overhead,
        new_random(1),
    )
    return cycles, passes, elements
