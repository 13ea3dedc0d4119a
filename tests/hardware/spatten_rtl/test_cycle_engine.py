"""The cycle engine against the authors' RTL: totals, completions and DRAM requests, exact."""

from __future__ import annotations

import csv
from importlib.resources import as_file, files

import pytest
from rtl_machine import machine_of

from accelsim.configs import load
from accelsim.errors import ConfigError, SimulationError, WorkloadError
from accelsim.hardware import simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.cycle import CycleMachine, _engine
from accelsim.validation._dram_log import FILE, agreeing, read_logs, simulated_log
from accelsim.workloads import Workload, read_csv

RTL = files("accelsim.validation") / "data" / "rtl"
HBM2 = load(MemoryConfig, "hbm2-spatten", "memories")


def table(name: str) -> list[dict[str, str]]:
    with (RTL / name).open() as file:
        return list(csv.DictReader(file))


CASES = {row["id"]: row for row in table("cases.csv")}
COMPLETIONS: dict[str, list[int]] = {}
for record in table("requests.csv"):
    COMPLETIONS.setdefault(record["id"], []).append(int(record["completion_cycle"]))
with as_file(RTL / FILE) as log_path:
    LOGS = read_logs(log_path)


def workload_of(row: dict[str, str]) -> Workload:
    with as_file(RTL / row["workload"]) as path:
        return read_csv(path, int(row["iteration"]) if row["iteration"] else None)


@pytest.mark.parametrize("case", sorted(CASES))
def test_equals_the_rtl(case: str) -> None:
    row = CASES[case]
    activity = simulate(workload_of(row), machine_of(row), HBM2, engine="cycle")
    assert activity.cycles == int(row["reference_cycles"])
    assert activity.completion_cycles == COMPLETIONS[case]
    if row["dram_reads"]:
        assert activity.counters["dram_reads"] == int(row["dram_reads"])


def test_every_case_has_completion_cycles() -> None:
    assert len(CASES) == 54
    assert COMPLETIONS.keys() == CASES.keys()


@pytest.mark.parametrize("case", sorted(case for case in CASES if case.startswith("log_")))
def test_asks_the_dram_what_the_rtl_asks_tick_by_tick(case: str) -> None:
    row, reference = CASES[case], LOGS[case]
    ours = simulated_log(workload_of(row), machine_of(row), HBM2)
    # All pushes and pops are seen, so the few that the reference lacks are the only others.
    total = sum(map(len, ours.values()))
    assert total == 2 * int(row["dram_reads"])
    known = sum(map(len, reference.values()))
    assert agreeing(reference, ours) == known > 0.96 * total


EIGHTH = machine_of(CASES["1e_n8"])


def rows(**columns: list[int]) -> Workload:
    given = {"keys": [64], "values": [64], "key_bits": [8], "value_bits": [8], **columns}
    return Workload.from_columns(given)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"keys": [4096]}, "the key buffer holds"),
        ({"key_bits": [5]}, "key_bits = 5"),
        ({"key_bits": [6]}, "no partner"),
        ({"queries": [2]}, "several queries"),
    ],
)
def test_refuses_what_the_machine_cannot_run(columns: dict[str, list[int]], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        simulate(rows(**columns), EIGHTH, HBM2, engine="cycle")


def test_refuses_a_memory_of_another_clock() -> None:
    with pytest.raises(ConfigError, match=r"ticks the memory once a core cycle.*2e\+09"):
        simulate(rows(), EIGHTH, HBM2.model_copy(update={"clock_hz": 2e9}), engine="cycle")


def test_refuses_rounding_that_hangs_the_fetcher() -> None:
    full = machine_of(CASES["2c_n512"]).model_copy(
        update={"rounding": 8, "index_pattern": "sequential"}
    )
    odd = rows(keys=[1000], values=[1000])
    with pytest.raises(WorkloadError, match="multiple of 32"):
        simulate(odd, full, HBM2, engine="cycle")


def test_watchdog_says_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "WATCHDOG_CYCLES", 300)
    machine = CycleMachine(rows(keys=[1000], values=[1000]), EIGHTH, HBM2)
    with pytest.raises(SimulationError, match=r"no response for 300 cycles.*waits for"):
        machine.run()


def test_can_stop_and_go_on() -> None:
    row = CASES["log_E8_topk"]
    machine = CycleMachine(workload_of(row), machine_of(row), HBM2)
    assert not machine.run(until=1500)
    assert machine.run()
    assert machine.completion_cycles == COMPLETIONS["log_E8_topk"]
