"""Workload rows as this hardware sees them: rounded, mapped to its bit widths, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelsim.errors import WorkloadError
from accelsim.hardware.config import SpattenConfig
from accelsim.hardware.spatten._random import new_random, topk_latencies
from accelsim.workloads import Workload

_RELEASED_BITS = (4, 6, 8)
_FORCED_BITS = (10, 12, -1)
"""Widths that the released test bench maps to 8 bits with a forced LSB pass (section 4.3)."""
LSB_BITS = 4


@dataclass
class Request:
    """One row, ready to run.

    Attributes:
        row: position in the workload.
        keys: key vectors fetched, rounded.
        values: value vectors fetched, rounded.
        key_bits: width of the first pass.
        value_bits: width of the values.
        fused: 2 for a pair of 6-bit requests that share one fetch.
        part: 0 or 1 within a fused pair.
        refetch: an LSB pass follows.
        key_beats: buffer lines of the scores of all queries.
        refetch_beats: the same for the LSB pass.
        value_beats: buffer lines multiplied with values for all queries.
        topk_cycles: search time of the top-k engine; 0 where no value is pruned.
        select_cycles: search time of the cascade token selection before this row.
    """

    row: int
    keys: int
    values: int
    key_bits: int
    value_bits: int
    fused: int
    part: int
    refetch: bool
    key_beats: int
    refetch_beats: int
    value_beats: int
    topk_cycles: int
    select_cycles: int

    @property
    def prunes(self) -> bool:
        """Whether the scores go through the top-k engine."""
        return self.topk_cycles > 0


def requests(workload: Workload, config: SpattenConfig) -> tuple[list[Request], int, int]:
    """Return the requests, and the top-k passes and elements of all of them.

    Raises:
        WorkloadError: a bit width or size that the machine does not take, with the row.
    """
    per_line = config.vectors_per_line
    result = []
    pair = 0
    latencies, passes, elements = _topk(workload, config)
    for row in range(workload.rows):
        at = {name: column[row].item() for name, column in workload.columns.items()}
        key_bits, refetch = _key_format(config, workload, row, at["key_bits"], at["refetch_lsb"])
        value_bits = _width(config, workload, row, "value_bits", at["value_bits"])
        fused = 2 if config.requant_bits == "forced" and key_bits == 6 else 1
        part = pair if fused == 2 else 0
        if fused == 1 and pair:
            raise WorkloadError(
                f"workload '{workload.name}': row {row} follows an unpaired 6-bit row; "
                "6-bit keys come in pairs of heads"
            )
        pair = 1 - pair if fused == 2 else 0
        keys, values = _round(at["keys"], config.rounding), _round(at["values"], config.rounding)
        _check_size(config, workload, row, keys, fused, at["queries"])
        result.append(
            Request(
                row=row,
                keys=keys,
                values=min(values, keys),
                key_bits=key_bits,
                value_bits=value_bits,
                fused=fused,
                part=part,
                refetch=refetch,
                key_beats=_beats(at["query_keys"], at["queries"], keys, per_line),
                refetch_beats=_beats(
                    at["refetch_query_keys"] if at["queries"] > 1 else keys,
                    at["queries"],
                    keys,
                    per_line,
                ),
                value_beats=_beats(at["query_values"], at["queries"], min(values, keys), per_line),
                topk_cycles=int(latencies[row]) if values < keys else 0,
                select_cycles=-(-at["select_elements"] // config.topk.parallelism)
                + at["select_passes"] * config.topk.pass_overhead,
            )
        )
    if pair:
        raise WorkloadError(
            f"workload '{workload.name}': the last 6-bit row has no partner; "
            "6-bit keys come in pairs of heads"
        )
    return result, passes, elements


def _beats(vectors: int, queries: int, fetched: int, per_line: int) -> int:
    if queries == 1:
        lines = -(-fetched // per_line)
        return lines + lines % 2
    return -(-vectors // per_line)


def _round(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _width(config: SpattenConfig, workload: Workload, row: int, name: str, bits: int) -> int:
    if config.requant_bits == "forced":
        if bits in _FORCED_BITS:
            return 8
        known: tuple[int, ...] = _RELEASED_BITS
    else:
        if bits == -1:
            return 12
        known = (4, 6, 8, 10, 12)
    if bits not in known:
        raise WorkloadError(
            f"workload '{workload.name}': row {row}: {name} = {bits}; this accelerator takes "
            f"{', '.join(map(str, known))}"
        )
    return bits


def _key_format(
    config: SpattenConfig, workload: Workload, row: int, bits: int, refetch: bool
) -> tuple[int, bool]:
    forced = config.requant_bits == "forced" and bits in _FORCED_BITS
    return _width(config, workload, row, "key_bits", bits), bool(refetch) or forced


def _check_size(
    config: SpattenConfig, workload: Workload, row: int, keys: int, fused: int, queries: int
) -> None:
    limit = config.capacity_vectors // fused // config.buffer_banks
    if keys > limit:
        raise WorkloadError(
            f"workload '{workload.name}': row {row} fetches {keys} keys; the key buffer holds "
            f"{limit} vectors of one request (multipliers/64 x buffer_lines, shared by {fused} "
            f"fused heads and {config.buffer_banks} banks)"
        )


def _topk(workload: Workload, config: SpattenConfig) -> tuple[np.ndarray, int, int]:
    parallelism = config.topk.parallelism
    if config.topk.source_of_passes == "recorded" and int(workload["topk_passes"].min()) >= 0:
        passes, elements = workload["topk_passes"], workload["topk_elements"]
        cycles = -(-elements // parallelism) + passes * config.topk.pass_overhead
        total_passes = passes.sum() + workload["select_passes"].sum()
        total_elements = elements.sum() + workload["select_elements"].sum()
        return cycles, int(total_passes), int(total_elements)
    # In a fused pair only the first part draws; the second gets 0 (section 3.2).
    sizes = workload["keys"].astype(np.int64)
    six = (workload["key_bits"] == 6) & (config.requant_bits == "forced")
    part = np.where(six, (np.cumsum(six) - 1) % 2, 0)
    latencies, passes, elements = topk_latencies(
        np.where(part == 1, 0, sizes),
        workload["values"].astype(np.int64),
        parallelism,
        new_random(1),
    )
    used = _pruned(workload, config)
    # A second part passes the engine without a search; 1 cycle marks that it goes through it.
    marked = np.where(part == 1, 1, np.maximum(latencies, 1))
    return np.where(used, marked, 0), int(passes[used].sum()), int(elements[used].sum())


def _pruned(workload: Workload, config: SpattenConfig) -> np.ndarray:
    rounded = [-(-workload[name] // config.rounding) for name in ("values", "keys")]
    return np.asarray(rounded[0] < rounded[1])
