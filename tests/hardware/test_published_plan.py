"""Rows, positions and tiles of the published SpAtten (section 2 of its specification)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import simpy

from accelsim import configs
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.layout import KEYS, VALUES, Layout
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.validation._published_workloads import random_published_workload
from accelsim.workloads import Workload


def machine(**fields: Any) -> SpattenConfig:
    config = load_accelerator("spatten-paper").model_copy(update=fields)
    assert isinstance(config, SpattenConfig)
    return config


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("loop_order", ["key-outer", "query-outer"])
def test_tiles_hold_every_vector_once(seed: int, loop_order: str) -> None:
    config = machine(loop_order=loop_order, buffer_lines=8)
    plan = Plan(simpy.Environment(), random_published_workload(seed), config, True)
    rows, line = plan.rows, 512 // plan.workload.head_dim
    assert set(plan.tiles) == {4 * line}
    ends = [row.last for row in plan.items]
    assert [row.first for row in plan.items] == [0, *ends[:-1]]
    for row in plan.items:
        for vectors, tiles in ((row.keys, row.tiles), (row.values, row.value_tiles)):
            sizes = [row.cut(vectors, tile)[0] for tile in range(tiles)]
            if row.two_pass or vectors == row.keys:
                assert sum(sizes) == vectors
                assert all(size == row.tile for size in sizes[:-1])
        queries = slice(row.first, row.last)
        assert not row.split or len(set(rows.position[queries].tolist())) == 1
        assert row.refetches == rows.query_refetch[queries].sum()
    for layer, following in itertools.pairwise([*plan.layers, None]):
        assert layer is not None
        assert layer.following is following
        assert layer.undone == sum(row.layer is layer for row in plan.items)


@pytest.mark.parametrize("seed", [66, 137])
def test_a_position_fetches_no_value_beyond_its_keys(seed: int) -> None:
    workload = random_published_workload(seed)
    config = machine(loop_order="query-outer", buffer_lines=8)
    plan = Plan(simpy.Environment(), workload, config, True)
    capped = 0
    for row in plan.items:
        if row.split:
            keys = plan.rows.query_keys[row.first : row.last]
            used = plan.rows.query_values[row.first : row.last]
            assert row.keys == keys.max()
            assert row.values <= row.keys
            if not np.array_equal(used, keys):
                fetched = min(int(plan.rows.values[row.index]), int(used.sum()))
                capped += fetched > row.keys
                assert row.values == min(fetched, row.keys)
    assert capped
    memory = configs.load(MemoryConfig, config.memory, "memories")
    event, cycle = (
        simulate(workload, config, memory, engine).dram_read_bytes for engine in ("event", "cycle")
    )
    assert event["value"] == cycle["value"]
    assert event["key_msb"] == cycle["key_msb"]
    assert event["query"] == cycle["query"]


def test_queries_of_a_file_without_a_table_share_the_sums_of_their_row() -> None:
    columns = {"queries": [3, 1, 4], "keys": [8, 5, 6], "values": [8, 5, 6]}
    columns |= {"query_keys": [16, 5, 23], "query_values": [10, 4, 23]}
    columns |= {"refetch_queries": [2, 0, 0], "key_bits": [8] * 3, "value_bits": [8] * 3}
    columns |= {"key_lsb_bits": [4] * 3, "refetch_lsb": [1, 0, 0]}
    plan = Plan(simpy.Environment(), Workload.from_columns(columns), machine(), True)
    rows = plan.rows
    assert rows.start.tolist() == [0, 3, 4, 8]
    # As even as whole numbers allow, and nothing lost.
    assert rows.query_keys.tolist() == [5, 5, 6, 5, 5, 6, 6, 6]
    assert rows.query_values.tolist() == [3, 3, 4, 4, 5, 6, 6, 6]
    assert rows.query_refetch.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_vectors_of_no_recorded_width_have_the_12_bits_of_the_paper() -> None:
    config = machine()
    memory = configs.load(MemoryConfig, config.memory, "memories")

    def run(bits: int) -> Any:
        columns = {"keys": [300], "values": [200], "key_bits": [bits], "value_bits": [bits]}
        return simulate(Workload.from_columns(columns), config, memory)

    unrecorded, recorded = run(-1), run(12)
    assert unrecorded.cycles == recorded.cycles
    assert unrecorded.dram_read_bytes == recorded.dram_read_bytes
    assert recorded.cycles > run(8).cycles


def test_heads_whose_last_tokens_are_left_share_no_transaction() -> None:
    context, kept = 2048, 16
    columns = {"head": [0, 1], "keys": [kept] * 2, "values": [kept] * 2, "key_bits": [8] * 2}
    columns |= {"value_bits": [8] * 2, "context_tokens": [context] * 2}
    # Regions of 64 KiB hold 1,024 tokens of 64 bytes: were they as short as what is kept, the last
    # tokens of one head would lie where the other's are.
    tokens = tuple(np.arange(end - kept, end, dtype=np.int32) for end in (context, context // 2))
    workload = Workload.from_columns(columns, key_indices=tokens, value_indices=tokens)
    plan = Plan(simpy.Environment(), workload, machine(), True)
    layout = Layout(workload, plan.rows, True)
    found = []
    for plane in (KEYS, VALUES):
        for row in range(2):
            assert layout.vectors(plane, row, 0, kept) == kept * 64 // 32
            found += layout.written[: layout.count].tolist()
            layout.count = 0
    assert len(set(found)) == len(found) == 4 * kept * 64 // 32
