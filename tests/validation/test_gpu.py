"""``accelsim validate gpu``: held-out points, the JSON of many points, and refused files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accelsim.cli import main
from accelsim.validation import validate
from accelsim.validation.gpu import LIMITS, SHIPPED, read_points


def rows(count: int = 8) -> dict[str, list[Any]]:
    return dict(pq.read_table(SHIPPED).slice(0, count).to_pydict())


def call(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def write(path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_shipped_points_meet_their_bars() -> None:
    report = validate("gpu")
    assert report.passed
    assert [bar.limit for bar in report.bars] == [LIMITS[kind] for kind in LIMITS]
    assert len(report.groups) == 51
    assert sum(group["points"] for group in report.groups) == len(report.cases) > 3000
    # Each device, framework and kind by itself; 80 points leave some scatter.
    assert max(group["mape"] for group in report.groups) < 0.15
    assert all(0.93 < group["median_ratio"] < 1.07 for group in report.groups)
    inside = [group["in_interval"] for group in report.groups]
    assert 0.85 < np.mean(inside) < 0.97
    assert SHIPPED.stat().st_size <= 200_000


def test_groups_are_computed_from_the_cases(tmp_path: Path) -> None:
    report = validate("gpu", cases=write(tmp_path / "few.parquet", rows()))
    ratios = np.array([case.simulated / case.reference for case in report.cases])
    (group,) = report.groups
    assert group["points"] == len(ratios) == 8
    assert group["mape"] == pytest.approx(np.abs(ratios - 1).mean())
    assert group["median_ratio"] == pytest.approx(np.median(ratios))
    assert report.mean_abs_relative_error == pytest.approx(group["mape"])
    assert len({case.id for case in report.cases}) == 8


def test_a_wrong_model_misses_the_bar(tmp_path: Path) -> None:
    columns = rows()
    columns["latency_s"] = [1.5 * value for value in columns["latency_s"]]
    report = validate("gpu", cases=write(tmp_path / "slow.parquet", columns))
    assert not report.passed
    assert report.groups[0]["median_ratio"] == pytest.approx(1 / 1.5, rel=0.15)


def test_many_points_are_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {name: values * 1251 for name, values in rows(8).items()}
    path = write(tmp_path / "many.parquet", columns)
    call("validate", "gpu", "--cases", path, "--json", "-")
    document = json.loads(capsys.readouterr().out)
    assert "cases" not in document
    assert document["groups"][0]["points"] == 10_008
    assert document["suite"] == "gpu"


def test_text_shows_groups(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call("validate", "gpu", "--cases", write(tmp_path / "c.parquet", rows()))
    output = capsys.readouterr().out
    assert "median ratio" in output
    assert "bar met: mean, " in output


def changed(name: str, value: Any) -> dict[str, Any]:
    columns = rows()
    columns[name] = [value, *columns[name][1:]]
    return columns


def without(name: str, **other: Any) -> dict[str, Any]:
    columns = rows()
    values = columns.pop(name)
    return columns | {key: [scale * v for v in values] for key, scale in other.items()}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (without("kv_heads"), "column 'kv_heads' is missing"),
        (without("latency_s", latency_us=1e6), "column 'latency_s' is missing; did you mean"),
        (rows() | {"latency_s": [1e6 * t for t in rows()["latency_s"]]}, "expected seconds"),
        (rows() | {"latency_s": [1e3 * t for t in rows()["latency_s"]]}, "expected seconds"),
        (changed("latency_s", float("nan")), "row 1, column 'latency_s': expected seconds above 0"),
        (changed("latency_s", -1.0), "expected seconds above 0, got -1"),
        (changed("latency_s", None), "row 1, column 'latency_s': no value"),
        (changed("system", "h100_sxn"), "unknown 'h100_sxn'; did you mean 'h100_sxm'?"),
        (changed("framework", "vlm"), "column 'framework': unknown 'vlm'; did you mean 'vllm'?"),
        (changed("kind", "decod"), "column 'kind': unknown 'decod'; did you mean 'decode'?"),
        (changed("batch", 0), "row 1, column 'batch': expected an integer of at least 1, got 0"),
        (changed("window_tokens", -1), "column 'window_tokens': expected an integer of at least 0"),
        (rows() | {"tokens": [1.5] * 8}, "column 'tokens': expected an integer"),
        (rows() | {"batch": ["1"] * 8}, "column 'batch': expected numbers, got string"),
        (rows() | {"query_heads": [12] * 8, "kv_heads": [5] * 8}, "no multiple of kv_heads (5)"),
        ({key: [] for key in rows()}, "no points"),
    ],
)
def test_refused_files(
    tmp_path: Path, columns: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.parquet", columns)
    refused(path, message, capsys)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", b"system,framework\n"])
def test_refused_bytes(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    refused(str(tmp_path / "x.parquet"), "cannot be read as Parquet", capsys)


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(str(tmp_path / "none.parquet"), "cannot be read as Parquet", capsys)


def refused(path: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["validate", "gpu", "--cases", path])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in error
    assert path in error
    assert error.count("\n") == 1


def test_dictionary_columns_are_read(tmp_path: Path) -> None:
    table = pa.table(rows())
    index = table.schema.get_field_index("system")
    coded = table.set_column(index, "system", table.column("system").dictionary_encode())
    pq.write_table(coded, tmp_path / "coded.parquet")
    assert read_points(tmp_path / "coded.parquet")["system"].tolist() == rows()["system"]
