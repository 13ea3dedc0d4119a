"""Several channels against Ramulator 2, address for address: whole caches, nothing random."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from accelsim.configs import load
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import read_stream
from accelsim.hardware.memories.gather import read_gather

DATA = Path(str(files("accelsim.validation"))) / "data" / "dram"
HBM2 = load(MemoryConfig, "hbm2-spatten", "memories")
BASE = 0xAB10000


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as file:
        return list(csv.DictReader(file))


WHOLE = [row for n in (2, 16) for row in rows(f"reads_{n}ch.csv") if row["keep_ratio"] == "1.0"]


@pytest.mark.parametrize(
    "row",
    WHOLE,
    ids=lambda r: f"{r['n_channels']}-{r['vector_bytes']}-{r['cache_len_L']}-{r['front_end'][:5]}",
)
def test_gather_is_exact(row: dict[str, str]) -> None:
    addresses = np.arange(int(row["n_reads"]), dtype=np.int64) * 32 + BASE
    front_end = "ports" if row["front_end"] == "rtl_like" else "ideal"
    got = read_gather(HBM2, addresses, int(row["n_channels"]), front_end)
    assert got == int(row["total_cycles"])


def test_there_are_whole_caches() -> None:
    assert len(WHOLE) >= 20


@pytest.mark.parametrize(
    "row",
    [
        r
        for r in rows("reads_single_channel.csv")
        if r["issue_mode"] == "controller_only" and r["pattern"] in ("sequential", "strided")
    ],
    ids=lambda r: f"{r['stride_bytes']}-{r['n_reads']}",
)
def test_controller_protocol_is_exact(row: dict[str, str]) -> None:
    addresses = np.arange(int(row["n_reads"]), dtype=np.int64) * int(row["stride_bytes"])
    assert read_stream(HBM2, addresses, "controller").cycles == int(row["total_cycles"])
