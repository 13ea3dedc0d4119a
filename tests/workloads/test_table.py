"""What a workload means where its columns are not all given, and what its decisions read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.workloads import LayerShape, QueryTable, Workload
from accelsim.workloads.indices import DrawnIndices

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
    keys, values = (tuple(np.arange(n) for n in columns[name]) for name in ("keys", "values"))
    work = Workload.from_columns(columns, key_indices=keys, value_indices=values)
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


COLUMNS_OF_ONE = {"keys": [9], "values": [8], "key_bits": [8], "value_bits": [8]}


def test_vectors_have_64_elements_unless_told() -> None:
    work = Workload.from_columns(COLUMNS_OF_ONE)
    assert work.head_dim == Workload(work.columns).head_dim == 64


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("key_bits", -2, "at least -1"),
        ("topk_passes", -2, "at least -1"),
        ("select_beats", -2, "at least -1"),
        ("keys", 0, "at least 1"),
        ("values", 0, "at least 1"),
        ("queries", 0, "at least 1"),
        ("context_tokens", 8, "at most context_tokens = 8"),
        ("values", 10, "at most keys = 9"),
        ("query_values", 10, "at most query_keys = 9"),
        ("refetch_queries", 2, "at most queries = 1"),
        ("refetch_query_keys", 10, "at most query_keys = 9"),
        ("topk_target", 10, "at most topk_size = 9"),
        ("select_target", 1, "at most select_size = 0"),
        ("metadata_bytes", -1, "at least 0"),
    ],
)
def test_a_table_in_memory_is_checked_as_one_from_a_file(
    column: str, value: int, message: str
) -> None:
    with pytest.raises(WorkloadError, match=f"row 0 has .*; expected .*({message})"):
        Workload.from_columns(COLUMNS_OF_ONE | {column: [value]})
    whole = Workload.from_columns(COLUMNS_OF_ONE)
    changed = np.array([value], dtype=whole[column].dtype)
    with pytest.raises(WorkloadError, match=f"row 0 has .*; expected .*({message})"):
        Workload({**whole.columns, column: changed})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array([9.0]), "column 'keys' has elements of float64; expected int32"),
        (np.array([[9]], dtype=np.int32), "column 'keys' has 2 dimensions"),
        ([9], "column 'keys': expected an array"),
    ],
)
def test_columns_are_arrays_of_their_type(column: Any, message: str) -> None:
    whole = Workload.from_columns(COLUMNS_OF_ONE)
    with pytest.raises(WorkloadError, match=message):
        Workload({**whole.columns, "keys": column})


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 1]], "a list for each row, with as many tokens as its keys"),
        ([list(range(9)), [1]], "a list for each row"),
        ([[0, 1, 2, 3, 4, 5, 6, 8, 7]], "names token 7; expected ascending"),
        ([[-1, 0, 1, 2, 3, 4, 5, 6, 7]], "names token -1"),
    ],
)
def test_tokens_in_memory_are_checked(indices: list[list[int]], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        Workload.from_columns(
            COLUMNS_OF_ONE, key_indices=tuple(np.array(row, np.int32) for row in indices)
        )


def test_tokens_that_are_drawn_on_demand_stay_undrawn() -> None:
    """A long run's do not fit the memory."""

    def draw(number: int) -> NDArray[np.int32]:
        raise AssertionError(number)

    lists = DrawnIndices(draw, np.zeros(1, np.int64))
    work = Workload.from_columns(COLUMNS_OF_ONE, key_indices=lists, value_indices=lists)
    assert work.batched(3).rows == 3
    with pytest.raises(WorkloadError, match="2 lists for 1 rows"):
        Workload.from_columns(COLUMNS_OF_ONE, key_indices=lists.take(np.array([0, 0])))


def test_bytes_by_head() -> None:
    work = Workload.from_columns(
        {
            "layer": [0, 0, 1],
            "head": [0, 1, 0],
            "keys": [8, 4, 2],
            "values": [4, 4, 1],
            "key_bits": [8, 8, 8],
            "value_bits": [6, 6, 6],
            "refetch_lsb": [False, True, False],
        },
        head_dim=32,
    )
    assert work.policy_bytes_by_head() == [
        {"layer": 0, "head": 0, "key_msb": 8 * 32, "key_lsb": 0, "value": 4 * 24},
        {"layer": 0, "head": 1, "key_msb": 4 * 32, "key_lsb": 4 * 16, "value": 4 * 24},
        {"layer": 1, "head": 0, "key_msb": 2 * 32, "key_lsb": 0, "value": 24},
    ]


def test_which_rows_are_a_prompt() -> None:
    one = {"keys": [9] * 4, "values": [9] * 4, "key_bits": [8] * 4, "value_bits": [8] * 4}
    # Without queries: the first step, if it has several.
    prompt = Workload.from_columns(one | {"step": [0, 0, 1, 2], "queries": [5, 1, 3, 1]})
    early, steps = prompt.stages()
    assert (early.tolist(), steps) == ([True, True, False, False], 2)
    decode = Workload.from_columns(one | {"step": [0, 0, 1, 2]})
    early, steps = decode.stages()
    assert (early.tolist(), steps) == ([False] * 4, 3)
    # With queries: a step with queries at several positions. Heads of a group share one.
    table = QueryTable.of(
        np.array([2, 1, 2, 1]),
        {
            "position": np.array([0, 1, 0, 2, 2, 3]),
            "keys": np.full(6, 9),
            "values": np.full(6, 9),
            "refetch": np.zeros(6, dtype=bool),
            "topk_passes": np.zeros(6, dtype=int),
            "topk_beats": np.zeros(6, dtype=int),
        },
    )
    told = Workload.from_columns(one | {"step": [0, 0, 1, 2]}, query_table=table)
    early, steps = told.stages()
    assert (early.tolist(), steps) == ([True, True, False, False], 2)


def test_copies_run_together_layer_by_layer() -> None:
    work = Workload.from_columns(
        {
            "step": [0, 0, 0, 1],
            "layer": [0, 0, 1, 1],
            "head": [0, 2, 1, 0],
            "keys": [9, 8, 7, 6],
            "values": [9, 8, 7, 6],
            "key_bits": [8] * 4,
            "value_bits": [8] * 4,
        }
    )
    assert work.batched(1) is work
    three = work.batched(3)
    # Of layer 0: both rows of each copy; then layer 1; then the next step, though its layer is 1.
    assert three["keys"].tolist() == [9, 8] * 3 + [7] * 3 + [6] * 3
    assert three["step"].tolist() == [0] * 9 + [1] * 3
    assert three["layer"].tolist() == [0] * 6 + [1] * 6
    # The largest head is 2, so each copy has three places for heads.
    assert three["head"].tolist() == [0, 2, 3, 5, 6, 8, 1, 4, 7, 0, 3, 6]
    assert three.policy_bytes()["value"] == 3 * work.policy_bytes()["value"]


def test_layers_may_have_widths_of_their_own() -> None:
    columns = {name: [8, 8, 8, 8] for name in ("keys", "values", "key_bits", "value_bits")}
    columns["layer"] = [0, 1, 2, 1]
    shapes = {
        0: LayerShape(4, 4, 64, 64),
        1: LayerShape(8, 1, 96, 80, latent=True),
        2: LayerShape(4, 2, 128, 32),
    }
    workload = Workload.from_columns(columns, head_dim=64, layers=shapes)
    assert workload.key_dims.tolist() == [64, 96, 128, 96]
    assert workload.value_dims.tolist() == [64, 80, 32, 80]
    # Values of a latent lie in its keys.
    assert workload.fetched_value_dims.tolist() == [64, 0, 32, 0]
    assert not workload.one_width
    with pytest.raises(WorkloadError, match="differ from those of the first row's layer"):
        Workload.from_columns(columns, head_dim=96, layers=shapes)
    with pytest.raises(WorkloadError, match="layer 2 has rows"):
        Workload.from_columns(columns, head_dim=64, layers={i: shapes[i] for i in (0, 1)})
