"""``accelsim validate``: what each suite reaches, the JSON contract, and honest failures."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from accelsim.cli import main
from accelsim.configs import preset_names
from accelsim.validation import SUITES, Report, validate
from accelsim.validation._base import DATA, Bar, Case, Failure
from accelsim.validation._dram_log import FILE

TRAFFIC = Path(__file__).parents[2] / "traces" / "spatten-gpt2"
QUICK_CASES = ("1e_n8", "2a_n32", "log_F_six")
Row = dict[str, str]


def rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, lines: list[Row]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return str(path)


def timing_rows(*names: str) -> list[Row]:
    """Rows of the shipped case file, with workloads by absolute path."""
    found = [row for row in rows(DATA / "rtl" / "cases.csv") if row["id"] in names]
    return [row | {"workload": str(DATA / "rtl" / row["workload"])} for row in found]


def dram_rows(count: int = 6, name: str = "reads_2ch.csv") -> list[Row]:
    return rows(DATA / "dram" / name)[:count]


def arguments(suite: str, folder: Path) -> list[str]:
    """Options that make a suite quick."""
    if suite == "timing":
        return ["--cases", write(folder / "cases.csv", timing_rows(*QUICK_CASES))]
    if suite == "dram":
        return ["--cases", write(folder / "reads.csv", dram_rows())]
    if suite == "traffic":
        (folder / "small.csv").write_bytes((TRAFFIC / "small.csv").read_bytes())
        return ["--cases", str(folder)]
    return [] if suite == "gpu" else ["--count", "3"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of a call; standard output must hold nothing else."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    try:
        main(["validate", *words, "--json", "-"])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, json.loads(capsys.readouterr().out, parse_constant=refuse)


def bar(report: Report, name: str) -> Bar:
    (found,) = [each for each in report.bars if each.name == name]
    return found


# -- what is reached --------------------------------------------------------------------------


def test_dram_is_exact_row_by_row() -> None:
    report = validate("dram")
    assert len(report.cases) == sum(len(rows(path)) for path in (DATA / "dram").glob("*.csv"))
    assert not report.failed
    inexact = [case for case in report.cases if case.relative_error]
    # Ramulator lets GDDR6 refresh before tRP is over (docs/memories.md).
    assert {case.id.rsplit("-", 5)[0].split("-dpi16")[0] for case in inexact} <= {
        "gddr6/strided-65536",
        "gddr6/strided-65536-controller_only",
    }
    assert max(case.relative_error for case in inexact) < 2e-4
    banked = [name for name in preset_names("memories") if name != "flat"]
    assert sorted({case.group for case in report.cases}) == banked
    for memory in banked:
        assert bar(report, f"mean, {memory}").limit == 0.01
        assert bar(report, f"worst, {memory}").limit == 0.03
    assert report.passed


def test_dram_reference_covers_refresh_and_window_of_every_preset() -> None:
    found = rows(DATA / "dram" / "presets.csv")
    memories = {row["memory"] for row in found}
    for column, values in (
        ("refresh", {"on", "off"}),
        ("pattern", {"sequential", "strided", "random", "gather"}),
        ("issue_mode", {"dpi16", "controller_only"}),
    ):
        seen = {(row["memory"], row[column]) for row in found}
        assert seen == {(memory, value) for memory in memories for value in values}
    # Refresh costs time, or the reference would be of no use for it.
    for memory in memories:
        of = {
            state: sum(
                int(row["total_cycles"])
                for row in found
                if row["memory"] == memory and row["refresh"] == state
            )
            for state in ("on", "off")
        }
        assert 1.01 < of["on"] / of["off"] < 1.15


@pytest.mark.parametrize("name", ["hbm2-nominal", "hbm2e", "hbm3", "lpddr5", "gddr6", "ddr4"])
def test_a_preset_that_is_one_tick_off_misses_its_bar(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelsim.validation import dram

    load = dram.configs.load

    def slower(*words: Any) -> Any:
        memory = load(*words)
        burst = [row for row in memory.timing if row.after == "RD" and "RD" in row.before]
        changed = tuple(
            row.model_copy(update={"cycles": (row.cycles or 0) + 1}) if row in burst else row
            for row in memory.timing
        )
        return memory.model_copy(update={"timing": changed})

    monkeypatch.setattr(dram.configs, "load", slower)
    mine = [row for row in rows(DATA / "dram" / "presets.csv") if row["memory"] == name][:48]
    report = validate("dram", cases=write(tmp_path / "reads.csv", mine))
    assert not bar(report, f"worst, {name}").met


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("hbm2-nominal", "command_buses", 1),
        ("hbm3", "half_clock_ticks", False),
        ("lpddr5", "split_activation", 0),
    ],
)
def test_how_commands_share_the_bus_is_seen(
    name: str, key: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelsim.validation import dram

    mine = [
        row
        for row in rows(DATA / "dram" / "presets.csv")
        if row["memory"] == name and row["n_reads"] in ("1024", "2048")
    ]
    path = write(tmp_path / "reads.csv", mine)
    right = [case.simulated for case in validate("dram", cases=path).cases]
    memory = dram.configs.load(dram.MemoryConfig, name, "memories")
    other = memory.model_copy(update={key: value})
    monkeypatch.setattr(dram.configs, "load", lambda *_: other)
    assert [case.simulated for case in validate("dram", cases=path).cases] != right


@pytest.mark.parametrize("engine", ["event", "cycle"])
def test_traffic_is_exact(engine: str) -> None:
    report = validate("traffic", engine)
    assert {case.id.split("/")[0] for case in report.cases} >= {"small"}
    assert {case.relative_error for case in report.cases} == {0.0}
    assert report.passed


def test_functional_kernels_are_their_references() -> None:
    report = validate("functional", count=6)
    assert report.passed
    assert len(report.cases) >= 6


def test_cycle_engine_is_the_rtl() -> None:
    report = validate("timing", "cycle")
    assert report.passed
    assert bar(report, "worst").limit == bar(report, "worst").value == 0
    completions, log = report.tallies
    assert (completions.exact, completions.total, completions.cases) == (1368, 1368, 54)
    assert (log.exact, log.total, log.cases) == (31_179, 31_179, 12)


def test_event_engine_meets_its_bars_on_the_rtl_cases() -> None:
    report = validate("timing", "event")
    assert not report.failed
    assert len(report.cases) == len(rows(DATA / "rtl" / "cases.csv"))
    assert [bar.name for bar in report.bars if not bar.met] == []


def test_engines_agree_on_everything_but_time() -> None:
    report = validate("engines", count=40)
    assert not report.failed
    assert bar(report, "released, mean, 16 requests or more").met
    assert bar(report, "published, mean").met
    assert bar(report, "published, worst").met


# -- contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_json_contract(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = run(capsys, suite, *arguments(suite, tmp_path))
    assert list(document) == [
        "suite", "engine", "cases", "mean_abs_relative_error", "max_abs_relative_error", "failed",
        *(["groups"] if suite == "gpu" else []),
    ]  # fmt: skip
    assert document["suite"] == suite
    assert document["engine"] in ("event", None)
    assert document["cases"]
    for case in document["cases"]:
        assert list(case) == ["id", "reference", "simulated", "relative_error"]
        assert type(case["id"]) is str
        numbers = [case[name] for name in ("reference", "simulated", "relative_error")]
        assert all(type(number) in (int, float) for number in numbers)
        expected = (case["simulated"] - case["reference"]) / (abs(case["reference"]) or 1)
        assert case["relative_error"] == pytest.approx(expected)
    assert len({case["id"] for case in document["cases"]}) == len(document["cases"])
    errors = [abs(case["relative_error"]) for case in document["cases"]]
    assert document["mean_abs_relative_error"] == pytest.approx(math.fsum(errors) / len(errors))
    assert document["max_abs_relative_error"] == max(errors)
    assert document["failed"] == []
    assert status in (0, 1)


def test_engine_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*arguments("timing", tmp_path), "--engine", "cycle"]
    status, document = run(capsys, "timing", *words)
    assert document["engine"] == "cycle"
    assert document["max_abs_relative_error"] == 0
    assert status == 0


def test_json_goes_to_a_file_and_the_table_to_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "dram.json"
    main(["validate", "dram", *arguments("dram", tmp_path), "--json", str(target)])
    out = capsys.readouterr().out
    document = json.loads(target.read_text())
    for case in document["cases"]:
        assert case["id"] in out
    assert "bar met: mean, hbm2-spatten" in out


def test_empty_report_has_no_errors_to_average() -> None:
    report = Report("dram", None, "cycles", [], [Failure("a", "broke")], [])
    assert report.to_dict()["mean_abs_relative_error"] is None
    assert not report.passed


def test_reference_of_zero_counts_as_difference() -> None:
    assert Case("a", 0, 0).relative_error == 0
    assert Case("a", 0, 2).relative_error == 2


# -- a wrong number is seen -------------------------------------------------------------------


def test_a_wrong_reference_is_an_error_over_the_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = dram_rows()
    right = int(lines[0]["total_cycles"])
    lines[0]["total_cycles"] = str(2 * right)
    status, document = run(capsys, "dram", "--cases", write(tmp_path / "reads.csv", lines))
    assert status == 1
    assert document["cases"][0]["relative_error"] == -0.5
    assert document["max_abs_relative_error"] == 0.5


def test_a_timing_constraint_that_is_one_tick_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelsim.validation import dram

    memory = dram.configs.load(dram.MemoryConfig, dram.MEMORY, "memories")
    changed = tuple(
        row.model_copy(update={"cycles": row.cycles + 1}) if row.source == "nBL = 4" else row
        for row in memory.timing
    )
    slower = memory.model_copy(update={"timing": changed})
    monkeypatch.setattr(dram.configs, "load", lambda *_: slower)
    report = validate("dram", cases=DATA / "dram" / "inflight_sweep.csv")
    assert not report.passed


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("reads_2ch.csv", "max_reads_per_channel"),
        ("reads_single_channel.csv", "address_span_bytes"),
    ],
)
def test_a_placement_of_another_generator_fails(
    name: str, column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = dram_rows(4, name)
    lines[0][column] = str(int(lines[0][column]) + 1)
    status, document = run(capsys, "dram", "--cases", write(tmp_path / "reads.csv", lines))
    assert status == 1
    (failure,) = document["failed"]
    assert column in failure["message"]
    assert len(document["cases"]) == 3


def test_a_wrong_count_of_reads_fails_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = timing_rows(*QUICK_CASES)
    lines[-1]["dram_reads"] = str(int(lines[-1]["dram_reads"]) + 1)
    status, document = run(capsys, "timing", "--cases", write(tmp_path / "cases.csv", lines))
    assert status == 1
    assert [failure["id"] for failure in document["failed"]] == [lines[-1]["id"]]
    assert "DRAM reads" in document["failed"][0]["message"]


def beside(folder: Path, *names: str) -> str:
    """A case file with the completion cycles and the DRAM log of its cases beside it."""
    (folder / FILE).write_bytes((DATA / "rtl" / FILE).read_bytes())
    known = [row for row in rows(DATA / "rtl" / "requests.csv") if row["id"] in names]
    write(folder / "requests.csv", known)
    return write(folder / "cases.csv", timing_rows(*names))


def test_a_wrong_completion_cycle_fails_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = beside(tmp_path, *QUICK_CASES)
    known = rows(tmp_path / "requests.csv")
    known[-1]["completion_cycle"] = str(int(known[-1]["completion_cycle"]) - 1)
    write(tmp_path / "requests.csv", known)
    status, document = run(capsys, "timing", "--engine", "cycle", "--cases", cases)
    assert status == 1
    assert document["max_abs_relative_error"] == 0
    (failure,) = document["failed"]
    assert failure["id"] == known[-1]["id"]
    assert f"request {known[-1]['request']}" in failure["message"]


def test_a_dram_request_at_another_tick_fails_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = beside(tmp_path, "log_F_six")
    lines = gzip.decompress((tmp_path / FILE).read_bytes()).decode().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("log_F_six"))
    name, channel, event, tick, address = lines[at].split(",")
    lines[at] = ",".join([name, channel, event, str(int(tick) + 1), address])
    (tmp_path / FILE).write_bytes(gzip.compress("\n".join(lines).encode()))
    status, document = run(capsys, "timing", "--engine", "cycle", "--cases", cases)
    assert status == 1
    (failure,) = document["failed"]
    assert "1 of " in failure["message"]


def test_rows_with_equal_parameters_keep_names_of_their_own(tmp_path: Path) -> None:
    lines = dram_rows(2)
    report = validate("dram", cases=write(tmp_path / "reads.csv", [lines[0], lines[0], lines[1]]))
    assert len({case.id for case in report.cases}) == 3
