"""What a workload means where its columns are not all given, and what its decisions read."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.workloads import Workload

ROW = st.fixed_dictionaries(
    {
        "queries": st.integers(1, 12),
        "keys": st.integers(1, 3000),
        "values": st.integers(1, 3000),
        "key_bits": st.sampled_from([-1, 4, 6, 8, 10, 12]),
        "value_bits": st.sampled_from([-1, 4, 6, 8, 12]),
        "key_lsb_bits": st.sampled_from([0, 4]),
        "refetch_lsb": st.booleans(),
        "metadata_bytes": st.integers(0, 500),
        "residual_bytes": st.integers(0, 500),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from([32, 64, 80, 128]))
def test_policy_bytes_are_those_of_the_named_vectors(
    rows: list[dict[str, int]], head_dim: int
) -> None:
    rows = [row | {"values": min(row["values"], row["keys"])} for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found = Workload.from_columns(columns, head_dim=head_dim).policy_bytes()
    bits = {"key_msb": 0, "key_lsb": 0, "value": 0}
    for row in rows:
        bits["key_msb"] += row["keys"] * (12 if row["key_bits"] < 0 else row["key_bits"])
        bits["value"] += row["values"] * (12 if row["value_bits"] < 0 else row["value_bits"])
        bits["key_lsb"] += row["keys"] * row["key_lsb_bits"] * row["refetch_lsb"]
    assert {name: found[name] for name in bits} == {
        name: count * head_dim // 8 for name, count in bits.items()
    }
    assert found["metadata"] == sum(row["metadata_bytes"] for row in rows)
    assert found["residual"] == sum(row["residual_bytes"] for row in rows)


def test_columns_that_are_not_given() -> None:
    work = Workload.from_columns(
        {
            "queries": [3, 1],
            "keys": [20, 7],
            "values": [10, 7],
            "key_bits": [8, 8],
            "value_bits": [8, 8],
            "refetch_lsb": [True, False],
        }
    )
    expected = {
        "step": [0, 0],
        "layer": [0, 0],
        "head": [0, 0],
        "context_tokens": [20, 7],
        "query_keys": [60, 7],
        "query_values": [30, 7],
        "refetch_queries": [3, 0],
        "refetch_query_keys": [60, 0],
        "key_lsb_bits": [4, 0],
        "topk_size": [20, 0],
        "topk_target": [10, 0],
        "topk_passes": [-1, -1],
        "topk_elements": [-1, -1],
        "topk_beats": [-1, -1],
        "select_size": [0, 0],
        "metadata_bytes": [0, 0],
    }
    assert {name: work[name].tolist() for name in expected} == expected


def test_without_a_pass_no_score_is_read() -> None:
    columns = {"keys": [9], "values": [9], "key_bits": [8], "value_bits": [8], "topk_passes": [0]}
    work = Workload.from_columns(columns)
    assert work["topk_elements"].tolist() == work["topk_beats"].tolist() == [0]


def test_rows_that_are_selected_keep_everything() -> None:
    columns = {"keys": [9, 8, 7], "values": [9, 2, 7], "key_bits": [8] * 3, "value_bits": [6] * 3}
    indices = tuple(np.arange(n) for n in (9, 8, 7))
    work = Workload.from_columns(columns, key_indices=indices, value_indices=indices)
    part = work.select(np.array([True, False, True]))
    assert part["keys"].tolist() == [9, 7]
    assert part.key_indices is not None
    assert part.value_indices is not None
    assert [len(row) for row in part.key_indices] == [9, 7]
    assert [len(row) for row in part.value_indices] == [9, 7]


def test_nothing_is_fetched_twice_unless_it_says_so() -> None:
    work = Workload.from_columns(
        {"keys": [9, 8], "values": [9, 2], "key_bits": [8, 8], "value_bits": [6, 6]}
    )
    assert work["refetch_lsb"].tolist() == [False, False]
    assert work["key_lsb_bits"].tolist() == [0, 0]
    assert work["refetch_queries"].tolist() == [0, 0]
