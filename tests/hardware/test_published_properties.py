"""What must hold of the published SpAtten on any workload, whatever its numbers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.errors import InvariantError, WorkloadError
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.activity import Activity, ModuleActivity, QueueActivity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.invariants import check
from accelsim.hardware.machines.spatten import SpattenConfig
from accelsim.validation._published_workloads import random_published_workload
from accelsim.workloads import QueryTable, Workload

MEMORY = load(MemoryConfig, "hbm2-nominal", "memories")
PAPER = load_accelerator("spatten-paper")
SEEDS = st.integers(0, 50_000)
ORDERS = st.sampled_from(["causal", "streamed"])


def machine(**fields: Any) -> SpattenConfig:
    return SpattenConfig.model_validate(PAPER.model_dump() | fields)


def short(seed: int) -> Workload:
    """A random workload of at most 1,500 keys a row, found from a seed on."""
    while (found := random_published_workload(seed))["keys"].max() > 1500:
        seed += 1
    return found


def rows(
    keys: int, values: int, count: int = 1, queries: int = 1, layer: int = 0, spread: bool = False
) -> Workload:
    """Rows of one layer; ``spread``: their queries have positions of their own."""
    total = count * queries
    position = np.tile(np.arange(queries) if spread else np.zeros(queries), count)
    table = QueryTable.of(
        [queries] * count,
        {
            "position": position,
            "keys": np.full(total, keys),
            "values": np.full(total, values),
            "refetch": np.zeros(total, bool),
            "topk_passes": np.full(total, 7 if values < keys else 0),
            "topk_beats": np.full(total, 3 * keys // 16 + 7 if values < keys else 0),
        },
    )
    columns = {
        "layer": [layer] * count,
        "head": range(count),
        "keys": [keys] * count,
        "values": [values] * count,
        "key_bits": [8] * count,
        "value_bits": [8] * count,
    }
    return Workload.from_columns(columns, query_table=table)


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    order=ORDERS,
    depth=st.integers(0, 3),
    buffers=st.integers(1, 3),
    parallelism=st.sampled_from([1, 4, 16, 32]),
    fifo=st.sampled_from([32, 128, 256]),
    lanes=st.sampled_from([2, 8]),
    lines=st.sampled_from([64, 256]),
    selection=st.sampled_from(["per-query", "per-layer"]),
    loop=st.sampled_from(["key-outer", "query-outer"]),
    multipliers=st.sampled_from([256, 512, 1024]),
)
def test_random_machines_keep_every_invariant(
    seed: int,
    order: str,
    depth: int,
    buffers: int,
    parallelism: int,
    fifo: int,
    lanes: int,
    lines: int,
    selection: str,
    loop: str,
    multipliers: int,
) -> None:
    """``simulate`` checks the books, the peaks, the queues, the bytes and the order of outputs."""
    config = machine(
        key_prefetch_depth=depth,
        value_prefetch_depth=depth,
        topk={"parallelism": parallelism, "rows": buffers},
        softmax_fifo=fifo,
        softmax_parallelism=lanes,
        buffer_lines=lines,
        token_selection=selection,
        loop_order=loop,
        multipliers=multipliers,
    )
    activity = simulate(short(seed), config, MEMORY, dependencies=order)
    assert activity.queues["softmax_fifo"].depth == fifo
    assert set(activity.modules) >= {"qk_unit", "softmax", "topk", "selector", "pv_unit"}
    for module in activity.modules.values():
        assert module.operations is not None
        assert module.peak_operations_per_cycle is not None


MORE: dict[str, tuple[dict[str, Any], float]] = {
    "softmax FIFO": ({"softmax_fifo": 256}, 0.01),
    "row buffers": ({"topk": {"rows": 3}}, 0.01),
    "comparators": ({"topk": {"parallelism": 32}}, 0.01),
    "multipliers": ({"multipliers": 1024}, 0.05),
    "buffers": ({"buffer_lines": 512}, 0.07),
    "prefetch": ({"key_prefetch_depth": 3, "value_prefetch_depth": 3}, 0.12),
    "channels": ({"channels": 32}, 0.15),
}
"""What more of something may cost: it moves DRAM rows, and short runs with them. Deeper address
FIFOs are not here: with the lowest port first they may cost a third (docs/accelerators)."""


@pytest.mark.parametrize("name", MORE)
@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, order=ORDERS)
def test_more_of_something_costs_no_throughput(name: str, seed: int, order: str) -> None:
    fields, tolerance = MORE[name]
    workload = short(seed)
    before = simulate(workload, PAPER, MEMORY, dependencies=order).cycles
    after = simulate(workload, machine(**fields), MEMORY, dependencies=order).cycles
    # A refresh that falls into a short run costs a few hundred cycles.
    assert after <= before * (1 + tolerance) + 400


@settings(max_examples=25, deadline=None)
@given(keys=st.integers(2, 1024), share=st.floats(0.05, 0.95), queries=st.integers(1, 6))
def test_a_row_costs_the_same_top_k_in_prompt_and_decode(
    keys: int, share: float, queries: int
) -> None:
    values = max(int(share * keys), 1)
    prompt = simulate(rows(keys, values, queries=queries, spread=True), PAPER, MEMORY)
    decode = simulate(rows(keys, values, queries=queries), PAPER, MEMORY)
    assert prompt.modules["topk"].busy_cycles == decode.modules["topk"].busy_cycles > 0
    assert prompt.prefill_cycles == (prompt.cycles if queries > 1 else 0)
    assert decode.prefill_cycles == 0


@settings(max_examples=15, deadline=None)
@given(keys=st.integers(8, 1024), heads=st.integers(2, 8), prunes=st.booleans())
def test_independent_heads_cost_between_one_and_all(keys: int, heads: int, prunes: bool) -> None:
    values = keys // 2 if prunes else keys
    alone = simulate(rows(keys, values), PAPER, MEMORY).cycles
    together = simulate(rows(keys, values, count=heads), PAPER, MEMORY).cycles
    assert alone <= together <= 1.05 * heads * alone


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_causal_costs_at_least_streamed(seed: int) -> None:
    workload = short(seed)
    causal = simulate(workload, PAPER, MEMORY, dependencies="causal")
    streamed = simulate(workload, PAPER, MEMORY, dependencies="streamed")
    assert streamed.cycles <= 1.05 * causal.cycles + 400
    assert causal.counters["qk_macs"] == streamed.counters["qk_macs"]
    assert causal.dram_read_bytes == streamed.dram_read_bytes


def test_wide_heads_take_their_multiplications() -> None:
    """512 multipliers do 512 multiplications a cycle whatever the width of a head is."""
    for dim in (32, 64, 128, 256):
        plain = rows(512, 512, queries=64, spread=True)
        workload = Workload(plain.columns, dim, query_table=plain.query_table)
        unit = simulate(workload, PAPER, MEMORY).modules["qk_unit"]
        assert unit.operations == 64 * 512 * dim
        assert unit.busy_cycles == 64 * -(-512 // min(512 // dim, 8))


def test_any_number_of_keys_runs_at_196_kb() -> None:
    long = simulate(rows(131_072, 131_072, queries=3), PAPER, MEMORY)
    assert long.dram_read_bytes["key_msb"] == 131_072 * 64
    assert long.queues["key_buffer"].high_water <= long.queues["key_buffer"].depth
    pruned = simulate(rows(131_072, 32_768), PAPER, MEMORY)
    # Scores beyond the 1,024 of the softmax's FIFO: out once, back twice, at 12 bit.
    away = (131_072 - 1024) * 12 // 8
    assert pruned.counters["spill_write_bytes"] == away
    assert pruned.counters["spill_read_bytes"] == 2 * away
    prompt = simulate(rows(4096, 4096, queries=4, spread=True), PAPER, MEMORY)
    assert prompt.counters["spill_write_bytes"] == 4 * 3 * (64 + 2) * 4
    again = simulate(
        rows(4096, 4096, queries=4, spread=True), machine(loop_order="query-outer"), MEMORY
    )
    assert again.counters["refetched_bytes"] == 3 * 2 * 4096 * 64


def test_a_head_that_does_not_divide_the_line_is_refused() -> None:
    plain = rows(64, 64)
    workload = Workload(plain.columns, 96, query_table=plain.query_table)
    strict = PAPER.model_copy(update={"supports": ("value_dim",)})
    with pytest.raises(WorkloadError, match="head_dim 96 does not divide the line of 512"):
        simulate(workload, strict, MEMORY)


def _activity(**fields: Any) -> Activity:
    module = ModuleActivity(60, {"idle": 40}, 120, 2.0)
    given = {"modules": {"unit": module}, "completion_cycles": [50, 100]}
    return Activity(100, 1e9, **(given | fields))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"modules": {"unit": ModuleActivity(60, {"idle": 39})}}, "'unit': 60 busy and 39"),
        ({"modules": {"unit": ModuleActivity(110, {"idle": -10})}}, "negative: idle"),
        ({"modules": {"unit": ModuleActivity(60, {"idle": 40}, 121, 2.0)}}, "121 operations in 60"),
        ({"queues": {"fifo": QueueActivity(4, 5, "beats")}}, "queue 'fifo' held 5 beats"),
        ({"completion_cycles": [50, 101]}, "outputs between cycle 50 and 101 of 100"),
        ({"completion_cycles": [50, 50], "dependencies": "causal"}, "layer before in 50"),
    ],
)
def test_a_result_that_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    names = ("keys", "values", "key_bits", "value_bits")
    workload = Workload.from_columns({name: [8, 8] for name in names} | {"layer": [0, 1]})
    check(_activity(dependencies="causal"), workload)
    with pytest.raises(InvariantError, match=says):
        check(_activity(**fields), workload)
