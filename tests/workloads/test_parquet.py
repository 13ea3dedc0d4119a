"""Parquet keeps every column and index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accelsim.errors import WorkloadError
from accelsim.workloads import COLUMNS, Workload, read_parquet, write_parquet


def test_round_trip(tmp_path: Path) -> None:
    workload = Workload.from_columns(
        {"keys": [3, 2], "values": [2, 2], "key_bits": [8, 8], "value_bits": [8, 8]},
        head_dim=32,
        name="tiny",
    )
    workload = Workload(
        workload.columns,
        32,
        "tiny",
        (np.array([0, 4, 9], np.int32), np.array([1, 2], np.int32)),
        (np.array([0, 4], np.int32), np.array([1, 2], np.int32)),
    )
    write_parquet(workload, tmp_path / "w.parquet")
    again = read_parquet(tmp_path / "w.parquet")
    assert again.head_dim == 32
    assert again.key_indices is not None
    assert again.key_indices[0].tolist() == [0, 4, 9]
    for name in COLUMNS:
        np.testing.assert_array_equal(again[name], workload[name])


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(WorkloadError, match="Parquet"):
        read_parquet(tmp_path / "x.parquet")


def stored(path: Path, indices: bool = True) -> tuple[pa.Table, Path]:
    workload = Workload.from_columns(
        {"keys": [3, 2], "values": [2, 2], "key_bits": [8, 8], "value_bits": [8, 8]}
    )
    if indices:
        lists = (np.array([0, 1, 2], np.int32), np.array([0, 1], np.int32))
        workload = Workload(workload.columns, key_indices=lists)
    write_parquet(workload, path)
    return pq.read_table(path), path


def rewritten(path: Path, name: str, column: pa.Array, indices: bool = True) -> None:
    table, _ = stored(path, indices)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2**62]), pa.array([1, -(2**62)]), pa.array([1, 2**63], pa.uint64()),
        pa.array([1, None]), pa.array([1.0, 2.5]), pa.array(["1", "2"]), pa.array([b"1", b"2"]),
        pa.array([1, -7]),
    ],
)  # fmt: skip
def test_no_number_becomes_another(tmp_path: Path, name: str, column: pa.Array) -> None:
    kind = np.dtype(COLUMNS[name][0])
    if kind == np.int64 and column[1].as_py() == 2**62:
        column = pa.array([1, 2**63], pa.uint64())
    rewritten(tmp_path / "w.parquet", name, column)
    with pytest.raises(WorkloadError, match=rf"w\.parquet: .*{name}") as caught:
        read_parquet(tmp_path / "w.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [n for n, (kind, _) in COLUMNS.items() if kind != np.bool_])
def test_true_is_no_number(tmp_path: Path, name: str) -> None:
    rewritten(tmp_path / "w.parquet", name, pa.array([True, True]))
    with pytest.raises(WorkloadError, match=f"column '{name}': expected int"):
        read_parquet(tmp_path / "w.parquet")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("query_keys", [-100, 2], "row 0 has query_keys = -100; expected at least 0"),
        ("topk_target", [4, 0], "row 0 has topk_target = 4; expected at most topk_size = 3"),
        ("keys", [3, 3], "row 1 has keys = 3; expected at most context_tokens = 2"),
        ("values", [2, 3], "row 1 has values = 3; expected at most keys = 2"),
        ("query_values", [9, 2], "expected at most query_keys = 3"),
        ("refetch_queries", [0, 2], "expected at most queries = 1"),
        ("metadata_bytes", [0, -1], "metadata_bytes = -1"),
    ],
)
def test_columns_agree(tmp_path: Path, name: str, values: list[int], message: str) -> None:
    rewritten(tmp_path / "w.parquet", name, pa.array(values), indices=False)
    with pytest.raises(WorkloadError, match=message):
        read_parquet(tmp_path / "w.parquet")


@pytest.mark.parametrize(
    "lists",
    [
        pa.array([[0, 1, 2], None]), pa.array([[0, 1, 2], [0, None]]), pa.array([b"012", b"01"]),
        pa.array([[0, 1, 2], [0, 2**40]]), pa.array([[0, 1, 2], [0, -1]]), pa.array([1, 2]),
        pa.array([[0, 1, 2], [1, 0]]), pa.array([[0, 1, 2], [1, 1]]), pa.array([[0, 1], [0, 1]]),
        pa.array([[0, 1, 2], [0, 1, 2]]), pa.array([[0.0, 1.0, 2.0], [0.0, 1.0]]),
    ],
)  # fmt: skip
def test_index_lists_name_tokens(tmp_path: Path, lists: pa.Array) -> None:
    rewritten(tmp_path / "w.parquet", "key_indices", lists)
    with pytest.raises(WorkloadError, match=r"w\.parquet: .*key_indices"):
        read_parquet(tmp_path / "w.parquet")


@pytest.mark.parametrize(
    "value", [b"abc", b"0", b"-1", b"1000000000", b"9" * 5000, b"64.0", b"\xff", b"", None]
)
def test_head_dim_is_said(tmp_path: Path, value: bytes | None) -> None:
    table, path = stored(tmp_path / "w.parquet")
    metadata = {k: v for k, v in table.schema.metadata.items() if k != b"head_dim"}
    if value is not None:
        metadata[b"head_dim"] = value
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(WorkloadError, match="metadata 'head_dim'"):
        read_parquet(path)


def test_foreign_metadata_is_left_alone(tmp_path: Path) -> None:
    table, path = stored(tmp_path / "w.parquet")
    metadata = {**table.schema.metadata, b"\xff\xfe": b"\xff"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert read_parquet(path).rows == 2
