"""Case files that cannot be used: status 2 and one line that names file, line and column."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.validation import timing
from accelsim.validation._base import DATA

Row = dict[str, str]
SINGLE = ("pattern", "vector_bytes", "keep_ratio", "stride_bytes", "n_reads", "seed",
          "total_cycles")  # fmt: skip
SEVERAL = ("pattern", "vector_bytes", "cache_len_L", "keep_ratio", "kept_vectors_K", "seed",
           "front_end", "n_reads", "total_cycles")  # fmt: skip
FILES = {
    "timing": DATA / "rtl" / "cases.csv",
    "single": DATA / "dram" / "reads_single_channel.csv",
    "several": DATA / "dram" / "reads_2ch.csv",
    "preset": DATA / "dram" / "presets.csv",
}


def lines_of(kind: str) -> list[Row]:
    with FILES[kind].open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if kind != "timing":
        return lines[:8]
    return [{**line, "workload": str(FILES[kind].parent / line["workload"])} for line in lines[:4]]


def write(path: Path, lines: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def refused(path: Path, suite: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Message of a call that must end with status 2 and print one line."""
    with pytest.raises(SystemExit) as stop:
        main(["validate", suite, "--cases", str(path), *words])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        *(("timing", column) for column in timing.COLUMNS),
        *(("single", column) for column in SINGLE),
        *(("several", column) for column in SEVERAL),
    ],
)
def test_missing_column(
    kind: str, column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "held-out.csv"
    write(path, [{k: v for k, v in line.items() if k != column} for line in lines_of(kind)])
    message = refused(path, "timing" if kind == "timing" else "dram", capsys)
    assert f"held-out.csv: line 1: column '{column}' is missing" in message


WRONG = [
    ("timing", "multipliers", "100", "multiple of 64"),
    ("timing", "multipliers", "many", "expected an integer"),
    ("timing", "bandwidth_divisor", "32", "< 1 DRAM channels"),
    ("timing", "bandwidth_divisor", "3", "power of two"),
    ("timing", "buffer_lines", "4", "key buffer"),
    ("timing", "rounding", "0", "expected an integer >= 1"),
    ("timing", "iteration", "-1", "expected an integer >= 0"),
    ("timing", "workload", "nowhere.csv", "no such file"),
    ("timing", "requests", "9999", "requests"),
    ("timing", "reference_cycles", "nan", "expected an integer"),
    ("single", "pattern", "gathr", "did you mean 'gather'"),
    ("single", "issue_mode", "dpi", "known: dpi16, controller_only"),
    ("single", "n_reads", "1.5", "expected an integer"),
    ("single", "seed", "-3", "expected an integer >= 0"),
    ("single", "total_cycles", "", "expected an integer"),
    ("several", "pattern", "gather", "did you mean 'gather_uniform'"),
    ("several", "front_end", "rtl", "did you mean 'rtl_like'"),
    ("several", "n_channels", "6", "expected a power of two"),
    ("several", "kept_vectors_K", "99999999", "more than cache_len_L"),
    ("several", "vector_bytes", "-32", "expected an integer >= 1"),
    ("preset", "memory", "hbm33", "did you mean 'hbm3'"),
    ("preset", "refresh", "yes", "known: on, off"),
]


@pytest.mark.parametrize(("kind", "column", "text", "message"), WRONG)
def test_wrong_value(
    kind: str,
    column: str,
    text: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = lines_of(kind)
    lines[2][column] = text
    path = tmp_path / "held-out.csv"
    write(path, lines)
    error = refused(path, "timing" if kind == "timing" else "dram", capsys)
    assert "held-out.csv: line 4" in error
    assert message in error
    if column != "buffer_lines":  # The machine refuses the workload, not the column.
        assert f"'{column}'" in error


def test_keep_ratio_above_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FILES["single"].open(encoding="utf-8") as file:
        line = next(row for row in csv.DictReader(file) if row["pattern"] == "gather")
    path = tmp_path / "held-out.csv"
    write(path, [line | {"keep_ratio": "1.5"}])
    assert "line 2: column 'keep_ratio': 1.5" in refused(path, "dram", capsys)


@pytest.mark.parametrize("suite", ["timing", "dram"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"id,pattern\n", "is missing"),
        (b"\xff\xfe\x00", "is UTF-16; expected UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_unusable_file(
    suite: str,
    content: bytes | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "held-out.csv"
    if content is not None:
        path.write_bytes(content)
    error = refused(path, suite, capsys)
    assert "held-out.csv" in error
    assert message in error


def test_header_without_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "held-out.csv"
    path.write_text(",".join(timing.COLUMNS) + "\n")
    assert "no cases below the header" in refused(path, "timing", capsys)


def test_row_of_another_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "held-out.csv"
    write(path, lines_of("single"))
    path.write_text(path.read_text() + "sequential,1\n")
    error = refused(path, "dram", capsys)
    assert "line 10: 2 fields" in error


def test_case_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "held-out.csv"
    lines = lines_of("timing")
    write(path, [lines[0], lines[0]])
    assert "column 'id': '11_mix0' appears twice" in refused(path, "timing", capsys)


def test_workload_with_a_missing_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.csv").write_text("iteration_id,layer_id\n0,0\n")
    path = tmp_path / "held-out.csv"
    write(path, [lines_of("timing")[0] | {"workload": "w.csv"}])
    error = refused(path, "timing", capsys)
    assert "held-out.csv: line 2: column 'workload'" in error
    assert "w.csv" in error.split("'workload'")[1]


def test_folder_without_released_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none of the released workload files" in refused(tmp_path, "traffic", capsys)


@pytest.mark.parametrize("suite", ["engines", "functional"])
def test_suites_without_cases(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not take --cases" in refused(tmp_path, suite, capsys)


@pytest.mark.parametrize("suite", ["timing", "dram", "traffic", "gpu"])
def test_suites_without_count(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", suite, "--count", "3"])
    assert stop.value.code == 2
    assert "does not take --count" in capsys.readouterr().err


def test_json_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", "functional", "--json", str(tmp_path / "no" / "r.json")])
    assert stop.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("requests.csv", b"id,request\n", "column 'completion_cycle' is missing"),
        ("requests.csv", b"id,request,completion_cycle\na,-1,5\n", "column 'request'"),
        ("dram_log.csv.gz", b"id,channel", "cannot be read as gzip"),
        (
            "dram_log.csv.gz",
            gzip.compress(b"id,channel\na,0\n", mtime=0),
            "line 2: expected the columns",
        ),
        (
            "dram_log.csv.gz",
            gzip.compress(b"id,tick\na,0\n", mtime=0)[:12],
            "cannot be read as gzip",
        ),
    ],
)
def test_unusable_details_beside_the_cases(
    name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "held-out.csv", lines_of("timing"))
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / "held-out.csv", "timing", capsys, "--engine", "cycle")
    assert name in error
    assert message in error
