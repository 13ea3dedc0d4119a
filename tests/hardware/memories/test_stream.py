"""The banked channel against Ramulator 2 (data shipped in the package), address for address."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from accelsim.configs import load
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import read_stream

DATA = Path(str(files("accelsim.validation"))) / "data" / "dram"
HBM2 = load(MemoryConfig, "hbm2-spatten", "memories")


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as file:
        return list(csv.DictReader(file))


def addresses(row: dict[str, str]) -> np.ndarray | None:
    """Addresses of a row without randomness, or None."""
    reads = int(row["n_reads"])
    if row["seed"] != "0":
        return None
    if row["pattern"] == "sequential" or row["keep_ratio"] == "1.0":
        return np.arange(reads, dtype=np.int64) * 32
    if row["pattern"] == "strided":
        return np.arange(reads, dtype=np.int64) * int(row["stride_bytes"])
    return None


EXACT = [
    row
    for row in rows("reads_single_channel.csv")
    if row["issue_mode"] == "dpi16" and addresses(row) is not None
]


@pytest.mark.parametrize(
    "row",
    EXACT,
    ids=lambda r: f"{r['pattern']}{r['vector_bytes']}{r['stride_bytes']}-{r['n_reads']}",
)
def test_reads_are_exact(row: dict[str, str]) -> None:
    stream = addresses(row)
    assert stream is not None
    got = read_stream(HBM2, stream)
    expected = [int(row[k]) for k in ("total_cycles", "row_hits", "row_misses", "row_conflicts")]
    assert [got.cycles, got.row_hits, got.row_misses, got.row_conflicts] == expected
    assert got.commands["ACT"] == int(row["n_act"])
    assert got.commands["PRE"] == int(row["n_pre"])
    assert got.average_latency == pytest.approx(float(row["avg_read_latency_cycles"]), abs=1e-3)


def test_there_are_exact_rows() -> None:
    assert len(EXACT) >= 8


@pytest.mark.parametrize(
    "row",
    [r for r in rows("inflight_sweep.csv") if addresses(r) is not None],
    ids=lambda r: r["inflight_limit"],
)
def test_inflight_sweep(row: dict[str, str]) -> None:
    memory = HBM2.model_copy(update={"inflight_limit": int(row["inflight_limit"])})
    stream = addresses(row)
    assert stream is not None
    assert read_stream(memory, stream).cycles == int(row["total_cycles"])
