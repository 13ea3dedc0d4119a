"""The event engine: close to the RTL, and true to the clock of its memory."""

from __future__ import annotations

import csv
from importlib.resources import as_file, files

import pytest
from rtl_machine import machine_of

from accelsim.configs import load
from accelsim.errors import ConfigError, SimulationError, WorkloadError
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.machine import Spatten
from accelsim.hardware.simulation import Port
from accelsim.workloads import Workload, read_csv

RTL = files("accelsim.validation") / "data" / "rtl"
HBM2 = load(MemoryConfig, "hbm2-spatten", "memories")


def streams() -> list[dict[str, str]]:
    with (RTL / "cases.csv").open() as file:
        return [row for row in csv.DictReader(file) if int(row["requests"]) >= 16]


@pytest.mark.parametrize("row", streams(), ids=lambda row: row["id"])
def test_streams_are_within_15_percent_of_the_rtl(row: dict[str, str]) -> None:
    machine = machine_of(row)
    with as_file(RTL / row["workload"]) as path:
        workload = read_csv(path)
    activity = simulate(workload, machine, HBM2)
    assert activity.cycles == pytest.approx(int(row["reference_cycles"]), rel=0.15)
    exact = simulate(workload, machine, HBM2, engine="cycle")
    assert activity.dram_read_bytes == exact.dram_read_bytes
    for name in ("dram_reads", "qk_macs", "pv_macs", "topk_passes"):
        assert activity.counters[name] == exact.counters[name]


DECODE = Workload.from_columns(
    {"keys": [512] * 8, "values": [128] * 8, "key_bits": [8] * 8, "value_bits": [8] * 8}
)


def test_a_memory_at_twice_the_clock_is_faster_but_not_more_than_twice() -> None:
    machine = load_accelerator("spatten-rtl-eighth")
    slow = simulate(DECODE, machine, HBM2).cycles
    fast = simulate(DECODE, machine, HBM2.model_copy(update={"clock_hz": 2e9})).cycles
    assert 0.5 * slow < fast < 0.8 * slow


def test_modules_account_for_every_cycle() -> None:
    activity = simulate(DECODE, load_accelerator("spatten-paper"), HBM2)
    for module in activity.modules.values():
        assert module.busy_cycles + sum(module.stall_cycles.values()) >= activity.cycles


def test_a_senseless_clock_is_refused() -> None:
    with pytest.raises(ConfigError, match="clock_hz"):
        simulate(
            DECODE,
            load_accelerator("spatten-rtl-eighth"),
            HBM2.model_copy(update={"clock_hz": 1e3}),
        )


def test_vectors_that_end_inside_a_transaction_are_refused() -> None:
    narrow = Workload.from_columns(
        {"keys": [64], "values": [64], "key_bits": [12], "value_bits": [8]}, head_dim=32
    )
    with pytest.raises(WorkloadError, match=r"row 0: a vector of the LSB plane takes 16 bytes"):
        simulate(narrow, load_accelerator("spatten-rtl"), HBM2)
    assert simulate(narrow, load_accelerator("spatten-paper"), HBM2).cycles > 0


def test_policies_pay_for_what_they_read_and_write_beside_vectors() -> None:
    machine = load_accelerator("spatten-paper")
    columns = dict(DECODE.columns)
    columns["metadata_bytes"] = columns["metadata_bytes"] + 4096
    columns["write_back_bytes"] = columns["write_back_bytes"] + 64
    plain, loaded = simulate(DECODE, machine, HBM2), simulate(Workload(columns), machine, HBM2)
    assert loaded.dram_read_bytes["metadata"] == 8 * 4096
    assert loaded.dram_write_bytes == plain.dram_write_bytes + 8 * 64
    assert loaded.cycles > plain.cycles


def test_more_fetch_beats_than_the_engine_can_look_at_are_refused() -> None:
    keys = 1 << 17
    workload = Workload.from_columns(
        {"keys": [keys], "values": [keys], "key_bits": [8], "value_bits": [8]}
    )
    machine = load_accelerator("spatten-rtl-eighth").model_copy(update={"buffer_lines": 2 * keys})
    with pytest.raises(SimulationError, match="row 0 fetches 65536 beats"):
        simulate(workload, machine, HBM2)


def test_a_machine_that_is_stuck_says_who_waits() -> None:
    machine = Spatten(DECODE, load_accelerator("spatten-rtl-eighth"), HBM2)
    machine.decision._decided = Port(machine.env, "leads nowhere")
    with pytest.raises(SimulationError, match=r"no progress after .* 0 of 8 .* waiting: .*merge"):
        machine.run()


def test_long_contexts_wait_for_room_in_the_engine_and_lose_nothing() -> None:
    keys = 8192
    columns = {name: [keys] * 6 for name in ("keys", "values")}
    workload = Workload.from_columns({**columns, "key_bits": [8] * 6, "value_bits": [8] * 6})
    machine = load_accelerator("spatten-paper-eighth").model_copy(
        update={"buffer_lines": 4 * keys, "query_traffic": False, "key_prefetch_depth": 8}
    )
    assert simulate(workload, machine, HBM2).counters["dram_reads"] == 6 * 2 * keys * 64 // 32


def test_keys_whose_pairs_of_lines_do_not_fit_are_refused() -> None:
    """An odd number of lines takes one more, which a buffer of just as many does not have."""
    workload = Workload.from_columns(
        {"keys": [264], "values": [264], "key_bits": [8], "value_bits": [8]}
    )
    machine = load_accelerator("spatten-rtl").model_copy(
        update={"buffer_lines": 33, "index_pattern": "sequential", "rounding": 1}
    )
    with pytest.raises(WorkloadError, match="buffer holds 256 vectors"):
        simulate(workload, machine, HBM2)
