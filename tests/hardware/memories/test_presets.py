"""What every memory preset must do, and what its documents say about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accelsim.configs import load, preset_names
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import read_stream
from accelsim.hardware.memories._timing import H_REFRESH_INTERVAL, organisation
from accelsim.workloads import read_csv

SMALL_CSV = Path(__file__).parents[3] / "traces" / "spatten-gpt2" / "small.csv"
PRESETS = {name: load(MemoryConfig, name, "memories") for name in preset_names("memories")}
BANKED = {name: m for name, m in PRESETS.items() if m.kind == "banked"}

PINS_AND_RATE = {
    "hbm2-nominal": (128, 2.0),
    "hbm2e": (128, 3.2),
    "hbm3": (64, 6.4),
    "lpddr5": (16, 6.4),
    "gddr6": (16, 14.0),
    "ddr4": (32, 3.2),
}
"""Data pins of one channel, Gb/s a pin."""


def read_spacing(memory: MemoryConfig) -> int:
    return max(
        row.cycles
        for row in memory.timing
        if row.after == "RD" and "RD" in row.before and row.level in ("channel", "pseudochannel")
    )


@pytest.mark.parametrize("name", BANKED)
def test_peak_follows_from_the_timing_table(name: str) -> None:
    memory = BANKED[name]
    peak = memory.pseudochannels * memory.transaction_bytes / read_spacing(memory)
    assert memory.bytes_per_tick == min(peak, memory.transaction_bytes)


@pytest.mark.parametrize("name", PINS_AND_RATE)
def test_peak_is_that_of_the_device(name: str) -> None:
    memory = BANKED[name]
    pins, rate = PINS_AND_RATE[name]
    assert memory.bytes_per_tick * memory.clock_hz / 1e9 == pytest.approx(pins * rate / 8)


@pytest.mark.parametrize("name", BANKED)
def test_every_timing_row_has_a_source(name: str) -> None:
    assert all(row.source for row in BANKED[name].timing)


def test_nominal_latencies_are_those_that_ramulator_measures() -> None:
    memory = BANKED["hbm2-nominal"].model_copy(update={"refresh": False})
    assert read_stream(memory, np.array([0])).average_latency == 32
    # Alone in flight: a second read of an open row takes 17, one of another row 45.
    alone = memory.model_copy(update={"inflight_limit": 1})
    far = memory.row_bytes * memory.pseudochannels * memory.bankgroups * memory.banks
    assert read_stream(alone, np.array([0, 0])).average_latency == (32 + 17) / 2
    many = np.array([0] * 20 + [far])
    total = read_stream(alone, many).average_latency * 21
    assert total == pytest.approx(32 + 19 * 17 + 45)


@pytest.mark.parametrize("name", BANKED)
def test_refresh_costs_its_time_and_moves_no_bytes(name: str) -> None:
    # With a deep queue the channel is busy throughout, so that time in refresh is time lost.
    deep = {"inflight_limit": 128, "queue_entries": 128}
    memory = BANKED[name].model_copy(update={"refresh": True} | deep)
    addresses = np.arange(30_000, dtype=np.int64) * 32
    on = read_stream(memory, addresses)
    off = read_stream(memory.model_copy(update={"refresh": False}), addresses)
    assert off.commands["REFab"] == 0
    refreshes = on.cycles // memory.refresh_interval
    due = refreshes * memory.pseudochannels
    assert due - memory.pseudochannels <= on.commands["REFab"] <= due
    assert on.commands["RD"] == off.commands["RD"] == len(addresses)
    (blocked,) = (
        row.cycles for row in memory.timing if row.after == "REFab" and "ACT" in row.before
    )
    # Beyond tRFC: waiting for open reads, closing, and opening all rows again; less than tRFC:
    # rows closed by the refresh would have cost a precharge each.
    assert 0.8 < (on.cycles - off.cycles) / refreshes / blocked < 1.4


@pytest.mark.parametrize("name", BANKED)
@pytest.mark.parametrize("refresh", [False, True])
def test_refresh_can_be_set_on_the_command_line(name: str, refresh: bool) -> None:
    memory = load(MemoryConfig, name, "memories", {"refresh": refresh})
    assert memory.refresh is refresh
    interval = organisation(memory)[H_REFRESH_INTERVAL]
    assert interval == (memory.refresh_interval if refresh else 0)


@pytest.mark.parametrize("name", ["hbm2-spatten", "lpddr5"])
def test_a_machine_moves_the_same_bytes_with_and_without_refresh(name: str) -> None:
    workload = read_csv(SMALL_CSV)
    machine = load_accelerator("spatten-rtl-eighth")
    on, off = (
        simulate(workload, machine, load(MemoryConfig, name, "memories", {"refresh": refresh}))
        for refresh in (True, False)
    )
    assert on.dram_read_bytes == off.dram_read_bytes
    assert on.counters["dram_reads"] == off.counters["dram_reads"]
    assert on.cycles > off.cycles


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", range(3))
def test_never_faster_than_latency_and_peak(name: str, seed: int) -> None:
    memory = PRESETS[name].model_copy(update={"refresh": False})
    addresses = np.random.default_rng(seed).integers(0, 1 << 20, 2000) // 32 * 32
    got = read_stream(memory, addresses)
    unloaded = memory.flat_latency if memory.kind == "flat" else 1 + memory.read_latency
    assert got.average_latency >= unloaded
    transfer = memory.transaction_bytes / memory.bytes_per_tick
    assert got.cycles >= (len(addresses) - 1) * transfer + unloaded
