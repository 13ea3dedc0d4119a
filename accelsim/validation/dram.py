"""The bank model against Ramulator 2.0: one channel, and gathers through several.

Rows with seed 0 are exact address streams. Rows with a seed were drawn by another generator, so
the mean over the seeds of a parameter combination is compared with the mean over our own draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import configs
from accelsim.errors import did_you_mean
from accelsim.hardware.config import MemoryConfig
from accelsim.validation._base import (
    DATA,
    Bar,
    Case,
    Failure,
    Options,
    Report,
    mean_error,
    worst_error,
)
from accelsim.validation._table import Line, read_lines

TAKES = ("cases", "count")
Row = Mapping[str, str]
Addresses = NDArray[np.int64]
MEMORY = "hbm2-spatten"
"""Preset that states what the reference runs simulated."""
DRAWS = 8
"""Placements drawn for a row that has a seed, if the user names no count."""
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
_REQUIRED = ("pattern", "vector_bytes", "keep_ratio", "seed", "n_reads", "total_cycles")
_STREAMS = ("sequential", "strided", "gather", "random")
_GATHERS = ("gather_uniform", "rtl_score_buffer_32_of_64_window")


def run(options: Options) -> Report:
    """Run every parameter combination; see :func:`accelsim.validation.validate`.

    Raises:
        CaseFileError: with file, line and column.
    """
    files = [options.cases] if options.cases else sorted((DATA / "dram").glob("*.csv"))
    groups = [each for path in files for each in read_groups(path)]
    memory = configs.load(MemoryConfig, MEMORY, "memories")
    cases, failed = [], []
    for number, (name, rows) in enumerate(groups, start=1):
        options.on_case(number, len(groups), name)
        try:
            cycles = simulate(memory, rows[0], options.count or DRAWS)
        except Exception as error:  # A model that breaks on a case has failed that case.
            failed.append(Failure(name, f"{type(error).__name__}: {error}"))
            continue
        reference = float(np.mean([row.integer("total_cycles") for row in rows]))
        cases.append(Case(name, reference, cycles))
    bars = [
        Bar("mean", mean_error(cases) or 0.0, 0.01),
        Bar("worst", worst_error(cases), 0.03),
    ]
    return Report("dram", None, "cycles, mean over placements", cases, failed, bars)


def read_groups(path: Path) -> list[tuple[str, list[Line]]]:
    """Read a case file; return identifier and rows of each parameter combination.

    Raises:
        CaseFileError: with file, line and column.
    """
    lines = read_lines(path, _REQUIRED)
    several = "n_channels" in lines[0]
    if several:
        lines = read_lines(path, (*_REQUIRED, "front_end", "cache_len_L", "kept_vectors_K"))
    else:
        lines = read_lines(path, (*_REQUIRED, "stride_bytes"))
    for line in lines:
        _check(line, several)
    return [(f"{path.stem}/{name}", rows) for name, rows in combinations(lines)]


def _check(line: Line, several: bool) -> None:
    """Refuse what :func:`simulate` has no experiment for."""
    pattern = _choice(line, "pattern", _GATHERS if several else _STREAMS)
    for column in ("n_reads", "total_cycles"):
        line.integer(column)
    line.integer("seed", 0)
    if several:
        _choice(line, "front_end", ("ideal_per_channel_queues", "rtl_like"))
        channels = line.integer("n_channels")
        if channels & (channels - 1):
            raise line.error(f"column 'n_channels': {channels}; expected a power of two")
        kept = line.integer("kept_vectors_K")
        if pattern == "gather_uniform" and kept > line.integer("cache_len_L"):
            raise line.error(f"column 'kept_vectors_K': {kept} is more than cache_len_L")
    elif "issue_mode" in line:
        _choice(line, "issue_mode", ("dpi16", "controller_only"))
    if "gather" in pattern or several:
        line.integer("vector_bytes")
    if pattern == "gather" and not 0 < line.real("keep_ratio") <= 1:
        raise line.error(f"column 'keep_ratio': {line['keep_ratio']}; expected above 0, at most 1")
    if pattern == "strided":
        line.integer("stride_bytes")
    line.optional_integer("inflight_limit", 1)


def _choice(line: Line, column: str, known: Sequence[str]) -> str:
    text = line[column]
    if text not in known:
        raise line.error(
            f"column '{column}': unknown '{text[:40]}'{did_you_mean(text, known)} "
            f"(known: {', '.join(known)})"
        )
    return text


def combinations(rows: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Group rows by parameter combination; return an identifier and the rows of each."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    for row in rows:
        reads = "" if "n_channels" in row else row["n_reads"]
        parameters = (*(row.get(name, "") for name in _PARAMETERS), reads)
        groups.setdefault(parameters, []).append(row)
    return [("-".join(part for part in key if part), group) for key, group in groups.items()]


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
