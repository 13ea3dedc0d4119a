"""The bank model against Ramulator: one channel, and gathers through several.

Rows that name no memory are SpAtten's release on Ramulator 2.0; the others are the memory presets
on the devices of Ramulator 2.1 (``benchmarks/ramulator_reference.py``). Every row is compared
address for address. Rows with a seed were drawn by NumPy's
``default_rng(seed)``: the record does not say so, but the address spans of its rows and the reads
of its fullest and emptiest channels fit no other placement. A row whose placement does not have
the properties that the record names (drawn by something else) fails instead of being compared.
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

TAKES = ("cases",)
Row = Mapping[str, str]
Addresses = NDArray[np.int64]
MEMORY = "hbm2-spatten"
"""Preset that states what the runs of SpAtten's release simulated: rows without a memory."""
BASE = 0xAB10000
"""First byte of a gathered cache in the released test bench."""
RANDOM_SPAN = 256 << 20
"""Bytes over which the ``random`` pattern is uniform."""
_BLOCK = 32
"""Bytes of one read, and of the channel interleave."""
_SPARE_VECTORS = 2
"""Vectors drawn beyond those that the reads of a ``gather`` row need, before the list is cut."""
_MEAN, _WORST = 0.01, 0.03
"""Bars of each memory."""
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
    "n_reads",
    "seed",
    "refresh",
)
_REQUIRED = ("pattern", "vector_bytes", "keep_ratio", "seed", "n_reads", "total_cycles")
_STREAMS = ("sequential", "strided", "gather", "random")
_GATHERS = ("gather_uniform", "rtl_score_buffer_32_of_64_window")


def run(options: Options) -> Report:
    """Run every row; see :func:`accelsim.validation.validate`.

    Raises:
        CaseFileError: with file, line and column.
    """
    files = [options.cases] if options.cases else sorted((DATA / "dram").glob("*.csv"))
    rows = [each for path in files for each in read_rows(path)]
    memories = {
        name: configs.load(MemoryConfig, name, "memories")
        for name in dict.fromkeys(_memory(row) for _, row in rows)
    }
    # One memory after the other, in the order of the files.
    rows.sort(key=lambda each: list(memories).index(_memory(each[1])))
    cases, failed = [], []
    for number, (name, row) in enumerate(rows, start=1):
        options.on_case(number, len(rows), name)
        addresses = placement(row)
        mismatch = _mismatch(row, addresses)
        if mismatch:
            failed.append(Failure(name, f"placement of seed {row['seed']}: {mismatch}"))
            continue
        try:
            cycles = simulate(memories[_memory(row)], row, addresses)
        except Exception as error:  # A model that breaks on a case has failed that case.
            failed.append(Failure(name, f"{type(error).__name__}: {error}"))
            continue
        cases.append(Case(name, row.integer("total_cycles"), cycles, group=_memory(row)))
    bars = []
    for memory in memories:
        mine = [case for case in cases if case.group == memory]
        bars.append(Bar(f"mean, {memory}", mean_error(mine) or 0.0, _MEAN))
        bars.append(Bar(f"worst, {memory}", worst_error(mine), _WORST))
    return Report("dram", None, "cycles", cases, failed, bars)


def _memory(row: Row) -> str:
    """Preset that a row is about."""
    return row.get("memory") or MEMORY


def read_rows(path: Path) -> list[tuple[str, Line]]:
    """Read a case file; return each row with an identifier made of file and parameters.

    Raises:
        CaseFileError: with file, line and column.
    """
    lines = read_lines(path, _REQUIRED)
    several = "n_channels" in lines[0]
    if several:
        lines = read_lines(path, (*_REQUIRED, "front_end", "cache_len_L", "kept_vectors_K"))
    else:
        lines = read_lines(path, (*_REQUIRED, "stride_bytes"))
    seen: dict[str, int] = {}
    rows = []
    for line in lines:
        _check(line, several)
        parts = [line.get(name, "") for name in _PARAMETERS]
        if parts[-1]:
            parts[-1] = f"refresh-{parts[-1]}"
        name = f"{line.get('memory') or path.stem}/{'-'.join(part for part in parts if part)}"
        seen[name] = seen.get(name, 0) + 1
        rows.append((name if seen[name] == 1 else f"{name}-{seen[name]}", line))
    return rows


def _check(line: Line, several: bool) -> None:
    """Refuse what :func:`simulate` has no experiment for."""
    pattern = _choice(line, "pattern", _GATHERS if several else _STREAMS)
    for column in ("n_reads", "total_cycles"):
        line.integer(column)
    line.integer("seed", 0)
    if line.get("memory"):
        _choice(line, "memory", configs.preset_names("memories"))
    if line.get("refresh"):
        _choice(line, "refresh", ("on", "off"))
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


def placement(row: Row) -> Addresses:
    """Addresses of a row: local to the channel for one channel, global for several."""
    random = np.random.default_rng(int(row["seed"]))
    return gather(random, row) if "n_channels" in row else stream_of(random, row)


def _mismatch(row: Line, addresses: Addresses) -> str:
    """Say what the record tells of the addresses that is not true of ours; empty if all is."""
    ours = {"n_reads": len(addresses)}
    if "n_channels" in row:
        channels = row.integer("n_channels")
        reads = np.bincount(addresses // _BLOCK % channels, minlength=channels)
        ours |= {"min_reads_per_channel": reads.min(), "max_reads_per_channel": reads.max()}
    else:
        ours["address_span_bytes"] = addresses.max() - addresses.min() + _BLOCK
    for column, value in ours.items():
        recorded = row.optional_integer(column)
        if recorded not in (None, value):
            return f"{column} {value}, but the row says {recorded}"
    return ""


def simulate(memory: MemoryConfig, row: Row, addresses: Addresses) -> int:
    """Cycles of a row's experiment."""
    from accelsim.hardware.memories import read_stream
    from accelsim.hardware.memories.gather import read_gather

    if row.get("refresh"):
        memory = memory.model_copy(update={"refresh": row["refresh"] == "on"})
    if "n_channels" in row:
        front_end: Any = "ports" if row["front_end"] == "rtl_like" else "ideal"
        return read_gather(memory, addresses, int(row["n_channels"]), front_end)
    limit = int(row.get("inflight_limit") or memory.inflight_limit)
    chosen = memory.model_copy(update={"inflight_limit": limit})
    protocol: Any = "controller" if row.get("issue_mode") == "controller_only" else "bridge"
    return read_stream(chosen, addresses, protocol).cycles


def stream_of(random: np.random.Generator, row: Row) -> Addresses:
    """Addresses of a single-channel row."""
    reads = int(row["n_reads"])
    if row["pattern"] == "random":
        return random.integers(0, RANDOM_SPAN // _BLOCK, reads) * _BLOCK
    if row["pattern"] != "gather":
        return np.arange(reads, dtype=np.int64) * int(row["stride_bytes"] or _BLOCK)
    size, ratio = int(row["vector_bytes"]), float(row["keep_ratio"])
    kept = -(-reads * _BLOCK // size) + _SPARE_VECTORS
    return blocks(choose(random, round(kept / ratio), kept), size)[:reads]


def gather(random: np.random.Generator, row: Row) -> Addresses:
    """Addresses of a row with several channels."""
    size, kept = int(row["vector_bytes"]), int(row["kept_vectors_K"])
    if row["pattern"] == "gather_uniform":
        return BASE + blocks(choose(random, int(row["cache_len_L"]), kept), size)
    beats = -(-kept // 32)
    windows = [32 * i + choose(random, 64, 32) for i in range(beats)]
    return BASE + np.concatenate([blocks(window, size) for window in windows])


def choose(random: np.random.Generator, total: int, kept: int) -> NDArray[np.int64]:
    """Ascending sample without replacement; all of them need no generator."""
    if kept == total:
        return np.arange(total)
    return np.sort(random.choice(total, kept, replace=False))


def blocks(vectors: NDArray[Any], size: int) -> Addresses:
    """Every 32-byte block that packed vectors touch, once, in ascending order."""
    first, last = vectors * size // _BLOCK, (vectors * size + size - 1) // _BLOCK
    touched = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    return np.unique(np.concatenate(touched)).astype(np.int64) * _BLOCK
