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
from accelsim.hardware.machines.spatten.plan import Plan
from accelsim.validation._published_workloads import random_published_workload


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
