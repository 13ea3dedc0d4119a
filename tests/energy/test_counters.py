"""Score FIFO, query registers, importances and writes are counted, alike in either engine."""

from __future__ import annotations

import numpy as np
import pytest

from accelsim.configs import load
from accelsim.errors import ConfigError
from accelsim.functional import run_policy
from accelsim.hardware import Counter, accelerator_of, load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.counters import by_name
from accelsim.policies import load_policy_spec
from accelsim.traces import synthetic_trace
from accelsim.validation._published_workloads import random_published_workload
from accelsim.workloads import Workload, load_benchmark

TRACE = synthetic_trace(seed=11, num_layers=2, head_dim=64, prefill_tokens=20, decode_tokens=3)
LINE = 64 * 12 // 8
NEW = (
    "query_register_bytes",
    "softmax_fifo_bytes",
    "importance_additions",
    "dram_posted_activations",
)


def workload(policy: str) -> Workload:
    return run_policy(TRACE, load_policy_spec(policy)).workload


def run(work: Workload, name: str, engine: str = "event", **fields: object) -> Activity:
    machine = load_accelerator(name, fields)
    return simulate(work, machine, load(MemoryConfig, machine.memory, "memories"), engine)


@pytest.mark.parametrize("name", ["spatten-paper", "spatten-rtl"])
def test_a_dense_run_by_hand(name: str) -> None:
    # The released test bench turns 12 bit into two planes, and so two passes.
    work = workload("static-8" if name == "spatten-rtl" else "dense")
    counters = run(work, name).counters
    queries, scores = int(work["queries"].sum()), int(work["query_keys"].sum())
    assert counters["query_register_bytes"] == queries * LINE
    # 12 bit in and 12 bit out of the FIFO.
    assert counters["softmax_fifo_bytes"] == 3 * scores
    assert counters["importance_additions"] == 0


def test_a_second_pass_loads_its_queries_again() -> None:
    work = workload("progressive-6-4:quantization.threshold=1.0")
    table = work.query_table
    assert table is not None
    again = int((table.refetch > 0).sum())
    assert again > 0
    counters = run(work, "spatten-paper").counters
    assert counters["query_register_bytes"] == (len(table.keys) + again) * LINE
    assert counters["softmax_fifo_bytes"] == 3 * counters["exponentials"]


@pytest.mark.parametrize("name", ["spatten-paper", "spatten-rtl"])
def test_importances_are_those_of_the_policy(name: str) -> None:
    work = workload("spatten-full")
    recorded = int(work["score_updates"].sum())
    assert run(work, name).counters["importance_additions"] == recorded > 0


def test_a_benchmark_that_selects_tokens_adds_every_probability() -> None:
    full, dense = load_benchmark("bert-base-cola"), load_benchmark("bert-base-cola", dense=True)
    assert not full["score_updates"].any()
    added = run(full, "spatten-paper").counters["importance_additions"]
    assert added == int(full["query_keys"].sum())
    assert run(dense, "spatten-paper").counters["importance_additions"] == 0


def test_long_prompts_load_a_query_for_each_tile() -> None:
    work = workload("dense")
    fields = {"buffer_lines": 2}  # Eight keys a tile: 20 tokens take up to three.
    tiled, whole = (run(work, "spatten-paper", **f).counters for f in (fields, {}))
    table = work.query_table
    assert table is not None
    early = np.repeat(work["step"] == 0, work["queries"])
    tiles = np.where(early, -(-table.keys // 8), 1)
    assert tiled["query_register_bytes"] == int(tiles.sum()) * LINE > whole["query_register_bytes"]
    outer = run(work, "spatten-paper", loop_order="query-outer", **fields).counters
    assert outer["query_register_bytes"] == whole["query_register_bytes"]


def test_writes_open_a_row_for_each_row_of_bytes() -> None:
    work = workload("dense")
    for name in ("spatten-paper", "a3-base", "mnnfast"):
        decide = accelerator_of(load_accelerator(name).kind).decide
        decided = work if decide is None else decide(TRACE, load_accelerator(name)).workload
        activity = run(decided, name)
        memory = load(MemoryConfig, load_accelerator(name).memory, "memories")
        written = activity.dram_write_bytes
        expected = -(-written // memory.row_bytes)
        assert activity.counters["dram_posted_activations"] == expected > 0
    silent = run(work, "spatten-paper", output_traffic=False).counters
    assert silent["dram_posted_activations"] == 0
    assert run(work, "spatten-paper", memory="flat").counters.get("dram_posted_activations", 0) == 0


def test_queries_of_rivals_are_loaded_a_row_each() -> None:
    queries = TRACE.num_layers * TRACE.num_query_heads * (20 + 3)
    for name, size in (("a3-base", 72), ("mnnfast", 96)):
        machine = load_accelerator(name)
        decide = accelerator_of(machine.kind).decide
        assert decide is not None
        counters = run(decide(TRACE, machine).workload, name).counters
        # A chunk of MNNFast holds 64 keys, more than the trace has.
        assert counters["query_register_bytes"] == queries * size


@pytest.mark.parametrize("seed", range(8))
def test_engines_count_alike(seed: int) -> None:
    work = random_published_workload(seed)
    event, cycle = (run(work, "spatten-paper", engine).counters for engine in ("event", "cycle"))
    for name in NEW:
        assert event[name] == cycle[name], name


def test_one_name_means_one_thing() -> None:
    one = Counter("hashes", "hash", "hashes of queries")
    assert by_name([one, one]) == {"hashes": one}
    with pytest.raises(ConfigError, match="counter 'hashes' is declared twice"):
        by_name([one, Counter("hashes", "hash", "hashes of keys")])
