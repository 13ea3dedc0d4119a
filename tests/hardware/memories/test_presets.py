"""What every memory preset must do, and what its documents say about it."""

from __future__ import annotations

import numpy as np
import pytest

from accelsim.configs import load, preset_names
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import read_stream

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
def test_refresh_comes_every_interval_and_costs_time(name: str) -> None:
    memory = BANKED[name].model_copy(update={"refresh": True, "inflight_limit": 16})
    addresses = np.arange(30_000, dtype=np.int64) * 32
    on = read_stream(memory, addresses)
    off = read_stream(memory.model_copy(update={"refresh": False}), addresses)
    due = on.cycles // memory.refresh_interval * memory.pseudochannels
    assert off.commands["REFab"] == 0
    assert due - memory.pseudochannels <= on.commands["REFab"] <= due
    assert on.commands["REFab"] > 0
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
