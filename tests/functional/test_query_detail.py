"""The per-query table of what the functional models decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from accelsim.functional import run_machine, run_policy
from accelsim.policies import load_policy
from accelsim.policies.a3 import A3Rule
from accelsim.policies.mnnfast import MnnFastRule
from accelsim.traces import AttentionTrace, MemoryTensors, synthetic_trace
from accelsim.workloads import QueryTable, Workload

TRACE = synthetic_trace(
    seed=2, num_layers=4, num_query_heads=6, num_kv_heads=2, head_dim=8, prefill_tokens=80,
    decode_tokens=6,
)  # fmt: skip
ENCODER = synthetic_trace(
    seed=2, num_layers=4, num_query_heads=6, num_kv_heads=2, head_dim=8, prefill_tokens=30,
    decode_tokens=0, causal=False,
)  # fmt: skip


def table_of(workload: Workload) -> QueryTable:
    assert workload.query_table is not None
    return workload.query_table


def entries(workload: Workload, row: int, field: str) -> list[int]:
    table = table_of(workload)
    values: list[int] = getattr(table, field)[table.start[row] : table.start[row + 1]].tolist()
    return values


@pytest.mark.parametrize("trace", [TRACE, ENCODER], ids=["decoder", "encoder"])
def test_queries_of_the_cascade(trace: AttentionTrace) -> None:
    policy = load_policy("spatten-pruned")
    work = run_policy(trace, policy).workload
    assert work.key_indices is not None
    assert policy.values is not None
    assert policy.values.keep is not None
    lost_heads = False
    for row in range(work.rows):
        kept = work.key_indices[row].tolist()
        causal = trace.causal
        decode = work["step"][row] > 0
        positions = [int(work["context_tokens"][row]) - 1] if decode else kept
        heads, rest = divmod(int(work["queries"][row]), len(positions))
        assert rest == 0
        lost_heads |= heads < trace.group
        # Query-major: the heads of a position stand together.
        assert entries(work, row, "position") == [p for p in positions for _ in range(heads)]
        seen = [sum(t <= p or not causal for t in kept) for p in positions for _ in range(heads)]
        assert entries(work, row, "keys") == seen
        budgets = [math.ceil(policy.values.keep * n - 1e-9) for n in seen]
        assert entries(work, row, "values") == budgets
        passes, beats = entries(work, row, "topk_passes"), entries(work, row, "topk_beats")
        for n, budget, p, b in zip(seen, budgets, passes, beats, strict=True):
            assert (p > 0) == (budget < n)
            # The first pass reads everything, and no pass reads more.
            assert p * -(-n // 16) >= b >= p - 1 + -(-n // 16) if p else b == 0
    assert lost_heads


def test_heads_of_a_position_stand_in_their_order() -> None:
    policy = load_policy("progressive-8-4", {"quantization.threshold": 0.2})
    grouped = run_policy(TRACE, policy).workload
    for head in range(TRACE.group):
        alone = run_policy(one_head_of_each_group(head), policy).workload
        assert alone.rows == grouped.rows
        for row in range(grouped.rows):
            for field in ("position", "keys", "refetch"):
                assert entries(grouped, row, field)[head :: TRACE.group] == entries(
                    alone, row, field
                )


def one_head_of_each_group(head: int) -> AttentionTrace:
    tensors = {name: TRACE.tensors.read(name) for name in TRACE.tensors.names()}
    for name, tensor in tensors.items():
        if name.endswith(".query"):
            tensors[name] = np.ascontiguousarray(tensor[head :: TRACE.group])
    heads = TRACE.num_kv_heads
    return replace(TRACE, num_query_heads=heads, tensors=MemoryTensors(tensors))


def test_refetches_are_those_below_the_threshold() -> None:
    work = run_policy(
        TRACE, load_policy("progressive-8-4", {"quantization.threshold": 0.2})
    ).workload
    refetch = table_of(work).refetch
    assert 0 < refetch.mean() < 1
    assert table_of(work).row_sums(refetch).tolist() == work["refetch_queries"].tolist()


@pytest.mark.parametrize("name", ["h2o", "tova", "snapkv", "quest", "dhsa", "streaming-llm"])
def test_queries_of_a_selection(name: str) -> None:
    work = run_policy(TRACE, load_policy(name, {"values": {"keep": 0.4}})).workload
    assert work.key_indices is not None
    for row in range(work.rows):
        decode = work["step"][row] > 0
        tokens = int(work["context_tokens"][row])
        positions = [tokens - 1] if decode else list(range(tokens))
        assert entries(work, row, "position") == [p for p in positions for _ in range(TRACE.group)]
        keys, values = entries(work, row, "keys"), entries(work, row, "values")
        assert max(keys) <= work["keys"][row]
        assert values == [math.ceil(0.4 * n - 1e-9) for n in keys]
        if not decode and name != "dhsa":
            assert keys == [p + 1 for p in positions for _ in range(TRACE.group)]
        passes = entries(work, row, "topk_passes")
        assert [p > 0 for p in passes] == [v < k for v, k in zip(values, keys, strict=True)]


def test_selection_beats_round_each_pass_up() -> None:
    for name in ("spatten-tokens", "h2o", "snapkv", "quest", "dhsa"):
        work = run_policy(TRACE, load_policy(name)).workload
        busy = work["select_passes"] > 0
        assert busy.any()
        least = -(-work["select_elements"] // 16)
        assert (work["select_beats"] >= least).all()
        assert (work["select_beats"] <= work["select_elements"] // 16 + work["select_passes"]).all()


@pytest.mark.parametrize("trace", [TRACE, ENCODER], ids=["decoder", "encoder"])
def test_queries_of_the_rivals(trace: AttentionTrace) -> None:
    a3 = run_machine(trace, A3Rule(iterations=0.5)).workload
    chunked = run_machine(trace, MnnFastRule(threshold=0.05, chunk_rows=8)).workload
    for work in (a3, chunked):
        table = table_of(work)
        visible = table.position + 1 if trace.causal else trace.prefill_tokens
        assert (table.keys <= visible).all()
        assert (table.values >= 1).all()
        assert (table.values < table.keys).any()
        assert not work["topk_passes"].any()
    assert (table_of(chunked).keys == visible).all()
    by_chunk = chunked.counts["kept"]  # type: ignore[attr-defined]
    assert by_chunk.sum() == table_of(chunked).values.sum() == chunked["query_values"].sum()
    # A3's own counts go head by head, those of the table position by position.
    at = 0
    for row in range(a3.rows):
        count = int(a3["queries"][row])
        own = a3.counts["candidates"][at : at + count]  # type: ignore[attr-defined]
        assert entries(a3, row, "keys") == own.reshape(trace.group, -1).T.ravel().tolist()
        at += count
