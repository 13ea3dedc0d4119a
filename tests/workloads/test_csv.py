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
    (tmp_path / "binary.csv").write_bytes(b"\xff\x00\x00")
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


@pytest.mark.parametrize(
    "first", ["1.0", "-1", "1e3", "0x1", "²", "--1", "1_0", "", "nan", "configs/a.yml", "9" * 200]
)
def test_no_row_is_lost(tmp_path: Path, first: str) -> None:
    source = write(tmp_path / "w.csv", HEADER, ROW, first + ROW[1:])
    with pytest.raises(WorkloadError, match=r"w\.csv: line 3: iteration_id = ") as caught:
        read_csv(source)
    assert len(str(caught.value)) < 300 + len(str(source))


@pytest.mark.parametrize("first", ["1.0", "-1", "nan", "inf", "²", "1e5"])
def test_a_number_alone_is_no_name(tmp_path: Path, first: str) -> None:
    source = write(tmp_path / "w.csv", HEADER, ROW, first + "," * 16)
    with pytest.raises(WorkloadError, match="line 3: iteration_id"):
        read_csv(source)


def test_blank_rows_and_spaces_are_no_requests(tmp_path: Path) -> None:
    source = write(tmp_path / "w.csv", HEADER, ROW, "," * 16, "", " " + ROW)
    assert read_csv(source).rows == 2


FIELDS = dict(zip(CSV_COLUMNS, ROW.split(","), strict=True))


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *((name, text) for name in ("layer_id", "sentence_length_L", "key_fetch_num", "topk",
          "quant_query_bit", "auto_requant_incre") for text in ("--1", "²", "٣", "1.5", "1e2", "",
          "0x8", "1_0", "9" * 30)),
        ("layer_id", "-1"), ("head_id", "-2"), ("iteration_id", "4294967296"),
        ("sentence_length_L", "0"), ("sentence_length_L", "31"), ("key_fetch_num", "33"),
        ("value_fetch_num", "33"), ("value_fetch_num", "0"), ("quant_key_bit", "-2"),
        ("quant_value_bit", "65"), ("quant_value_bit", "70000"), ("topk", "-5"),
        ("if_topk", "1"), ("if_accumulate_importance", "true"),
        ("if_rescale_previous_importance", ""), ("auto_requant_thres", "x"),
        *(("embedding_length_D", text) for text in ("64.7", "0", "-64", "inf", "nan", "6e1",
          "2147483647", "1000000000", "9223372036854775808", "abc", "")),
    ],
)  # fmt: skip
def test_every_field_is_what_it_says(tmp_path: Path, column: str, text: str) -> None:
    fields = FIELDS | {column: text}
    source = write(tmp_path / "w.csv", HEADER, ROW, ",".join(fields.values()))
    with pytest.raises(WorkloadError, match=rf"w\.csv: line 3: {column if text != '31' else ''}"):
        read_csv(source)


def test_one_size_of_vectors(tmp_path: Path) -> None:
    source = write(tmp_path / "w.csv", HEADER, ROW, ROW.replace("64.0", "32"))
    with pytest.raises(WorkloadError, match="line 3: embedding_length_D = 32; expected 64"):
        read_csv(source)
    assert read_csv(write(tmp_path / "w.csv", HEADER, ROW, ROW.replace("64.0", "64"))).rows == 2


def test_columns_that_are_too_many_are_named(tmp_path: Path) -> None:
    twice = write(tmp_path / "w.csv", HEADER + ",topk", ROW + ",1")
    with pytest.raises(WorkloadError, match="topk"):
        read_csv(twice)
    unknown = write(tmp_path / "w.csv", HEADER + ",colour", ROW + ",1")
    with pytest.raises(WorkloadError, match="colour"):
        read_csv(unknown)


LARGEST = {
    "iteration_id": 2**31 - 1,  # what 32 bits hold
    "layer_id": 2**31 - 1,
    "head_id": 2**31 - 1,
    "sentence_length_L": 2**24,
    "quant_key_bit": 64,
    "quant_query_bit": 64,
    "quant_value_bit": 64,
    "auto_requant_incre": 64,
    "topk": 2**24,
}
LEAST = dict.fromkeys(("iteration_id", "layer_id", "head_id"), 0) | dict.fromkeys(
    ("quant_key_bit", "quant_query_bit", "quant_value_bit", "auto_requant_incre", "topk"), -1
)


@pytest.mark.parametrize(
    ("column", "last", "beyond"),
    [
        *((name, last, last + 1) for name, last in LARGEST.items()),
        *((name, last, last - 1) for name, last in LEAST.items()),
    ],
)
def test_limits_of_integers(tmp_path: Path, column: str, last: int, beyond: int) -> None:
    for value, taken in ((last, True), (beyond, False)):
        fields = ",".join((FIELDS | {column: str(value)}).values())
        source = write(tmp_path / "w.csv", HEADER, fields)
        if taken:
            assert read_csv(source).extra[column].tolist() == [str(value)]
        else:
            with pytest.raises(WorkloadError, match=f"{column} = {value}; expected an integer"):
                read_csv(source)


@pytest.mark.parametrize("place", [1, 8, 16])
def test_a_name_with_anything_behind_it_is_no_trailer(tmp_path: Path, place: int) -> None:
    fields = ["configs/a.yml", *[""] * 16]
    fields[place] = "5"
    source = write(tmp_path / "w.csv", HEADER, ROW, ",".join(fields))
    with pytest.raises(WorkloadError, match="line 3: iteration_id = configs"):
        read_csv(source)


def test_a_row_that_is_written_says_what_it_is(tmp_path: Path) -> None:
    work = Workload.from_columns(
        {
            "step": [3, 3],
            "layer": [1, 2],
            "head": [4, 5],
            "context_tokens": [40, 41],
            "keys": [32, 20],
            "values": [32, 8],
            "key_bits": [8, 6],
            "value_bits": [10, 12],
            "refetch_lsb": [True, False],
        },
        head_dim=80,
    )
    write_csv(work, tmp_path / "w.csv")
    # Nothing is selected where all values of the keys are used.
    assert (tmp_path / "w.csv").read_text().splitlines() == [
        HEADER,
        "3,1,4,80.0,40,32,8,12,-1,True,4,32,10,True,False,False,-1",
        "3,2,5,80.0,41,20,6,12,-1,False,-1,8,12,True,False,True,8",
    ]
