"""The bank model against Ramulator 2: one channel, and gathers through several.

Rows with seed 0 are exact address streams. Rows with a seed were drawn by another generator, so
the mean over the seeds of a parameter combination is compared with the mean over our own draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.config import MemoryConfig

Row = Mapping[str, str]
Addresses = NDArray[np.int64]
BASE = 0xAB10000
"""First byte of a gathered cache in the released test bench."""
RANDOM_SPAN = 256 << 20
"""Bytes over which the ``random`` pattern is uniform."""
_PARAMETERS = (
    "pattern",
    "vector_bytes",
    "keep_ratio",
    "stride_bytes",
    "issue_mode",
    "inflight_limit",
    "front_end",
    "n_channels",
    "element_bits",
    "cache_len_L",
    "kept_vectors_K",
)


def combinations(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Group rows by parameter combination; yield an identifier and the rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        reads = "" if "n_channels" in row else row["n_reads"]
        parameters = (*(row.get(name, "") for name in _PARAMETERS), reads)
        groups.setdefault(parameters, []).append(row)
    for key, group in groups.items():
        yield "-".join(part for part in key if part), group


def simulate(memory: MemoryConfig, row: Row, draws: int) -> float:
    """Mean cycles of a row's experiment over ``draws`` placements (one if nothing is random)."""
    from accelsim.hardware.memories import read_stream
    from accelsim.hardware.memories._gather import read_gather

    count = 1 if row["seed"] == "0" else draws
    cycles = []
    for draw in range(count):
        random = np.random.default_rng(draw)
        if "n_channels" in row:
            front_end: Any = "ports" if row["front_end"] == "rtl_like" else "ideal"
            stream = gather(random, row)
            cycles.append(read_gather(memory, stream, int(row["n_channels"]), front_end))
            continue
        limit = int(row.get("inflight_limit") or memory.inflight_limit)
        chosen = memory.model_copy(update={"inflight_limit": limit})
        protocol: Any = "controller" if row.get("issue_mode") == "controller_only" else "bridge"
        cycles.append(read_stream(chosen, stream_of(random, row), protocol).cycles)
    return float(np.mean(cycles))


def stream_of(random: np.random.Generator, row: Row) -> Addresses:
    """Addresses of a single-channel row."""
    reads = int(row["n_reads"])
    if row["pattern"] == "random":
        return random.integers(0, RANDOM_SPAN // 32, reads) * 32
    if row["pattern"] != "gather":
        return np.arange(reads, dtype=np.int64) * int(row["stride_bytes"] or 32)
    size, ratio = int(row["vector_bytes"]), float(row["keep_ratio"])
    kept = -(-reads * 32 // size)
    while True:
        total = round(kept / ratio)
        chosen = np.sort(random.permutation(total)[:kept])
        found = blocks(chosen, size)
        if len(found) >= reads:
            return found[:reads]
        kept += -(-(reads - len(found)) * 32 // size)


def gather(random: np.random.Generator, row: Row) -> Addresses:
    """Addresses of a row with several channels."""
    size, kept = int(row["vector_bytes"]), int(row["kept_vectors_K"])
    if row["pattern"] == "gather_uniform":
        chosen = np.sort(random.permutation(int(row["cache_len_L"]))[:kept])
        return BASE + blocks(chosen, size)
    beats = -(-kept // 32)
    windows = [32 * i + np.sort(random.permutation(64)[:32]) for i in range(beats)]
    return BASE + np.concatenate([blocks(window, size) for window in windows])


def blocks(vectors: NDArray[Any], size: int) -> Addresses:
    """Every 32-byte block that packed vectors touch, once, in ascending order."""
    first, last = vectors * size // 32, (vectors * size + size - 1) // 32
    touched = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    return np.unique(np.concatenate(touched)).astype(np.int64) * 32
