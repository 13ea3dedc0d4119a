"""Per-query detail of a workload adds up to its rows, and survives every operation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import WorkloadError
from accelsim.workloads import QueryTable, Workload, read_parquet, write_parquet
from accelsim.workloads.queries import FIELDS


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Workloads of a few rows with one to five queries each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=8)))
    total = int(counts.sum())
    keys = rng.integers(1, 200, total)
    passes = rng.integers(0, 9, total)
    table = QueryTable.of(
        counts,
        {
            "position": rng.integers(0, 1000, total),
            "keys": keys,
            "values": (keys * rng.random(total)).astype(int),
            "refetch": rng.random(total) < 0.5,
            "topk_passes": passes,
            "topk_beats": passes * 3,
        },
    )
    starts = table.start[:-1]
    return Workload.from_columns(
        {
            "keys": np.maximum.reduceat(keys, starts),
            "values": np.maximum.reduceat(keys, starts),
            "key_bits": np.full(len(counts), 8),
            "value_bits": np.full(len(counts), 8),
            "topk_elements": table.row_sums(passes * 40),
        },
        query_table=table,
    )


def row(work: Workload, index: int) -> list[list[int]]:
    """The per-query fields of one row."""
    table = work.query_table
    assert table is not None
    part = slice(table.start[index], table.start[index + 1])
    return [getattr(table, name)[part].tolist() for name in FIELDS]


@settings(max_examples=60, deadline=None)
@given(workloads())
def test_columns_are_the_sums(work: Workload) -> None:
    for i in range(work.rows):
        _, keys, values, refetch, passes, beats = row(work, i)
        assert work["queries"][i] == len(keys)
        assert work["query_keys"][i] == sum(keys)
        assert work["query_values"][i] == sum(values)
        assert work["refetch_queries"][i] == sum(refetch)
        assert work["refetch_lsb"][i] == any(refetch)
        assert work["refetch_query_keys"][i] == sum(
            k for k, again in zip(keys, refetch, strict=True) if again
        )
        assert work["topk_passes"][i] == sum(passes)
        assert work["topk_beats"][i] == sum(beats)


@settings(max_examples=60, deadline=None)
@given(workloads(), st.data())
def test_selected_rows_keep_their_queries(work: Workload, data: st.DataObject) -> None:
    mask = np.array([data.draw(st.booleans()) for _ in range(work.rows)])
    mask[data.draw(st.integers(0, work.rows - 1))] = True
    some = work.select(mask)
    for new, old in enumerate(np.flatnonzero(mask)):
        assert row(some, new) == row(work, int(old))


@settings(max_examples=20, deadline=None)
@given(work=workloads())
def test_parquet_keeps_the_table(work: Workload, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("w") / "w.parquet"
    write_parquet(work, path)
    again = read_parquet(path)
    assert again.query_table is not None
    assert work.query_table is not None
    for name, (dtype, _) in FIELDS.items():
        assert getattr(again.query_table, name).dtype == dtype
    for i in range(work.rows):
        assert row(again, i) == row(work, i)


@pytest.mark.parametrize(
    "column",
    ["queries", "query_keys", "query_values", "refetch_queries", "refetch_query_keys",
     "topk_passes", "topk_beats"],
)  # fmt: skip
def test_sums_that_do_not_add_up_are_refused(column: str) -> None:
    work = two_rows()
    columns = dict(work.columns)
    columns[column] = columns[column] + np.array([0, 1], columns[column].dtype)
    with pytest.raises(WorkloadError, match=f"row 1: {column} = .*sum over its queries"):
        replace(work, columns=columns)


@pytest.mark.parametrize(("field", "change"), [("keys", 100), ("values", 100)])
def test_a_query_cannot_use_more_than_its_row(field: str, change: int) -> None:
    work = two_rows()
    table = work.query_table
    assert table is not None
    table = replace(table, **{field: table.keys + change})
    columns = {name: c for name, c in work.columns.items() if name in ("keys", "values")}
    with pytest.raises(WorkloadError, match="row 0: a query with"):
        Workload.from_columns(
            columns | {"key_bits": [8, 8], "value_bits": [8, 8], "topk_elements": [1, 1]},
            query_table=table,
        )


def test_rows_of_the_table_are_those_of_the_workload() -> None:
    work = two_rows()
    assert work.query_table is not None
    short = work.query_table.select(np.array([0]))
    with pytest.raises(WorkloadError, match="query table has 1 rows; expected 2"):
        replace(work, query_table=short)


def two_rows() -> Workload:
    """Two rows of two queries."""
    table = QueryTable.of(
        [2, 2],
        {
            "position": [0, 1, 0, 1],
            "keys": [4, 5, 4, 5],
            "values": [2, 3, 4, 5],
            "refetch": [True, False, True, True],
            "topk_passes": [2, 1, 0, 0],
            "topk_beats": [2, 1, 0, 0],
        },
    )
    columns = {"keys": [5, 5], "values": [4, 5], "key_bits": [8, 8], "value_bits": [8, 8]}
    return Workload.from_columns(columns | {"topk_elements": [20, 0]}, query_table=table)


def test_files_of_version_1_have_no_table(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    write_parquet(two_rows(), path)
    table = pq.read_table(path)
    old = [n for n in table.column_names if not n.startswith("query.") and "_beats" not in n]
    metadata = dict(table.schema.metadata) | {b"accelsim.schema": b"accelsim.workload/1"}
    pq.write_table(table.select(old).replace_schema_metadata(metadata), path)
    work = read_parquet(path)
    assert work.query_table is None
    assert work["topk_beats"].tolist() == [-1, 0]
    assert work["select_beats"].tolist() == [0, 0]


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.parquet"
    write_parquet(two_rows(), path)
    whole = pq.read_table(path)
    pq.write_table(whole.drop_columns(["query.keys"]), path)
    with pytest.raises(WorkloadError, match=r"column 'query\.keys' is missing"):
        read_parquet(path)
    at = whole.column_names.index("query.values")
    pq.write_table(whole.set_column(at, "query.values", pa.array([[1], [1, 2]])), path)
    with pytest.raises(WorkloadError, match=r"'query\.values': expected as many"):
        read_parquet(path)
    pq.write_table(whole.set_column(at, "query.values", pa.array([1, 2])), path)
    with pytest.raises(WorkloadError, match=r"'query\.values': expected a list"):
        read_parquet(path)
