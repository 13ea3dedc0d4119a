"""The 17-column files: what goes in comes out, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import WorkloadError
from accelsim.workloads import CSV_COLUMNS, Workload, read_csv, write_csv

HEADER = ",".join(CSV_COLUMNS)
ROW = "0,0,0,64.0,32,32,8,12,0.05,False,4,16,8,True,False,True,16"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_import_then_export_gives_the_same_file(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.csv", HEADER, ROW, ROW.replace("32,32", "993,993"), "a.yml" + "," * 16
    )
    workload = read_csv(source)
    write_csv(workload, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == source.read_text()
    assert workload.rows == 2
    assert workload["keys"].tolist() == [32, 993]


def test_one_iteration(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", HEADER, ROW, "1" + ROW[1:], "1" + ROW[1:])
    assert read_csv(source, iteration=1).rows == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace("key_fetch_num", "key_fetch_numb"), ROW], "did you mean 'key_fetch_numb'"),
        ([HEADER], "no request rows"),
        ([HEADER, ROW.replace(",8,12", ",eight,12")], "expected an integer"),
        ([HEADER, ROW.replace("False,4", "maybe,4")], "True or False"),
        ([HEADER, ROW + ",1"], "18 fields"),
        ([HEADER, ROW.replace("32,32", "32,0")], "key_fetch_num = 0"),
        ([HEADER, ROW.replace("64.0", "inf")], "embedding_length_D"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, lines: list[str], message: str) -> None:
    source = write(tmp_path / "bad.csv", *lines)
    with pytest.raises(WorkloadError, match=message) as caught:
        read_csv(source)
    assert "bad.csv" in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="cannot be read"):
        read_csv(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkloadError, match="cannot be read"):
        read_csv(tmp_path / "binary.csv")


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([4, 6, 8, 12, -1])),
        min_size=1,
        max_size=20,
    )
)
def test_own_workloads_survive_the_schema(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    keys, values, bits = (np.array(column) for column in zip(*rows, strict=True))
    workload = Workload.from_columns(
        {"keys": keys, "values": np.minimum(keys, values), "key_bits": bits, "value_bits": bits}
    )
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    write_csv(workload, path)
    again = read_csv(path)
    for name in ("keys", "values", "key_bits", "value_bits", "refetch_lsb", "topk_target"):
        np.testing.assert_array_equal(again[name], workload[name])


def test_every_field_means_what_the_release_means(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.csv",
        HEADER,
        "3,1,2,80.0,120,32,8,12,0.05,False,4,16,6,True,False,True,16",
        "3,1,5,80.0,120,48,8,12,0.05,True,4,48,10,True,False,False,16",
    )
    work = read_csv(source)
    expected = {
        "step": [3, 3],
        "layer": [1, 1],
        "head": [2, 5],
        "context_tokens": [120, 120],
        "keys": [32, 48],
        "values": [16, 48],
        "key_bits": [8, 8],
        "value_bits": [6, 10],
        "refetch_lsb": [False, True],
        "key_lsb_bits": [4, 4],
        "topk_size": [32, 0],
        "topk_target": [16, 0],
    }
    assert {name: work[name].tolist() for name in expected} == expected
