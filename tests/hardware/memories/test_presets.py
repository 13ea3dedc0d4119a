"""What every memory preset must do, and what its documents say about it."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from accelsim.configs import load, preset_names
from accelsim.errors import ConfigError
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig, Timing
from accelsim.hardware.memories import read_stream
from accelsim.hardware.memories.timing import organisation
from accelsim.workloads import read_csv

SMALL_CSV = Path(__file__).parents[3] / "traces" / "spatten-gpt2" / "small.csv"
PRESETS = {name: load(MemoryConfig, name, "memories") for name in preset_names("memories")}
BANKED = {name: m for name, m in PRESETS.items() if m.kind == "banked"}

SPATTEN = BANKED["hbm2-spatten"]
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
        row.ticks(memory.clock_hz)
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


def whole_ticks(row: Timing, clock_hz: float) -> int:
    """Ticks of a row by exact fractions of the numbers as they are written."""
    spans = row.ns if isinstance(row.ns, tuple) else (row.ns,)
    period = Fraction(10**9) / Fraction(repr(clock_hz))
    whole = sum((1 if ns > 0 else -1) * ceil(abs(Fraction(repr(ns))) / period) for ns in spans)
    return max(0, max(row.at_least, whole) + (row.cycles or 0))


@pytest.mark.parametrize("name", BANKED)
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.25, 2.0])
def test_a_change_of_clock_keeps_the_nanoseconds(name: str, factor: float, tmp_path: Path) -> None:
    clock = factor * BANKED[name].clock_hz
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {name}\nclock_hz: {clock!r}\n")
    memory = load(MemoryConfig, str(path), "memories")
    held_back = organisation(memory)
    assert len(held_back) > 0
    for row in memory.timing:
        assert row.ticks(clock) == whole_ticks(row, clock)
    if name == "hbm2-spatten":  # The source counts clocks, and only clocks.
        assert [row.ticks(clock) for row in memory.timing] == [r.cycles for r in SPATTEN.timing]
        assert (memory.read_ticks, memory.refresh_ticks) == (11, 3900)
        return
    core = [row for row in memory.timing if row.level == "bank" and row.window == 1]
    assert all(row.ns != () for row in core)
    assert memory.refresh_ticks / clock * 1e9 == pytest.approx(memory.refresh_interval_ns, rel=1e-3)
    latency_ns = (memory.read_ticks - memory.read_latency) / clock * 1e9
    assert 0 <= latency_ns - memory.read_latency_ns < 1e9 / clock


def test_hbm2e_is_hbm2_with_another_clock() -> None:
    """Clocks of 625 ps in the nanoseconds of HBM2_2000Mbps, worked out by hand."""
    memory = BANKED["hbm2e"]
    ticks = {
        (row.level, row.after, row.before[0], row.window): row.ticks(memory.clock_hz)
        for row in memory.timing
    }
    assert ticks["pseudochannel", "ACT", "ACT", 1] == 7  # 4 ns are 6.4 clocks
    assert ticks["pseudochannel", "ACT", "ACT", 4] == 24  # 15 ns are 24 clocks
    assert ticks["bank", "ACT", "RD", 1] == 24  # 14 ns are 22.4 clocks, and ACT takes two
    assert ticks["bank", "ACT", "WR", 1] == 21
    assert ticks["bank", "PRE", "ACT", 1] == 22
    assert ticks["pseudochannel", "RD", "WR", 1] == 19  # 23 + 4 - 8
    assert ticks["pseudochannel", "REFab", "ACT", 1] == 559
    assert ticks["bankgroup", "RD", "RD", 1] == 4
    assert (memory.read_ticks, memory.refresh_ticks) == (25, 6240)


def test_at_least_counts_clocks_when_they_are_long() -> None:
    row = Timing(level="bank", after="ACT", before=("ACT",), ns=4, at_least=4, cycles=-1)
    assert [row.ticks(clock) for clock in (0.2e9, 1e9, 1.6e9, 2e9)] == [3, 3, 6, 7]
    assert Timing(level="bank", after="ACT", before=("RD",), ns=(14, -5)).ticks(1.6e9) == 23 - 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timing: [{level: bank, after: ACT, before: [RD]}]", "needs 'ns' or 'cycles'"),
        ("timing: [{level: bank, after: ACT, before: [RD], cycles: -2}]", "must not be negative"),
        ("timing: [{level: bank, after: ACT, before: [RD], ns: fast}]", "ns"),
        ("half_clock_ticks: true", "needs command_buses 2"),
        ("command_buses: 2\nsplit_activation: 8", "split_activation needs command_buses 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: hbm2-spatten\n{text}\n")
    with pytest.raises(ConfigError, match=message) as error:
        load(MemoryConfig, str(path), "memories")
    assert "mine.yaml" in str(error.value)


def test_a_read_and_an_act_go_in_one_tick_on_two_buses() -> None:
    """Row after row at the full rate of the pins: ACT costs the columns nothing."""
    two = BANKED["hbm2-nominal"].model_copy(update={"refresh": False})
    one = two.model_copy(update={"command_buses": 1})
    addresses = np.arange(4096, dtype=np.int64) * 32
    fast, slow = (read_stream(memory, addresses, "controller") for memory in (two, one))
    assert fast.commands == slow.commands
    assert fast.cycles < len(addresses) + 50
    assert slow.cycles >= sum(slow.commands.values()) > fast.cycles + 100


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
    refreshes = on.cycles // memory.refresh_ticks
    due = refreshes * memory.pseudochannels
    assert due - memory.pseudochannels <= on.commands["REFab"] <= due
    assert on.commands["RD"] == off.commands["RD"] == len(addresses)
    (blocked,) = (
        row.ticks(memory.clock_hz)
        for row in memory.timing
        if row.after == "REFab" and "ACT" in row.before
    )
    # Beyond tRFC: waiting for open reads, closing, and opening all rows again; less than tRFC:
    # rows closed by the refresh would have cost a precharge each.
    assert 0.8 < (on.cycles - off.cycles) / refreshes / blocked < 1.4


@pytest.mark.parametrize("name", BANKED)
@pytest.mark.parametrize("refresh", [False, True])
def test_refresh_can_be_set_on_the_command_line(name: str, refresh: bool) -> None:
    memory = load(MemoryConfig, name, "memories", {"refresh": refresh})
    assert memory.refresh is refresh
    interval = organisation(memory)[0]["refresh_interval"]
    assert interval == (memory.refresh_ticks if refresh else 0)


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
    unloaded = memory.flat_latency if memory.kind == "flat" else 1 + memory.read_ticks
    assert got.average_latency >= unloaded
    transfer = memory.transaction_bytes / memory.bytes_per_tick
    assert got.cycles >= (len(addresses) - 1) * transfer + unloaded
