"""The rules of A3 and MNNFast against plain Python, and their contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import TraceError
from accelsim.functional import run_machine
from accelsim.policies.a3 import A3Rule, greedy_candidates
from accelsim.policies.mnnfast import MnnFastRule
from accelsim.traces import AttentionTrace, synthetic_trace


def candidates_by_sorting(query: Any, key: Any, visible: int, iterations: int) -> set[int]:
    """A3 (HPCA 2020, section IV-C): whole product columns, sorted; no pointers."""
    dim = len(query)
    columns = []
    for d in range(dim):
        rows = sorted(range(visible), key=lambda r: (key[r][d], r))
        if query[d] < 0:
            rows = rows[::-1]
        columns.append([(query[d] * key[r][d], r) for r in rows])
    low, high = [0] * dim, [visible - 1] * dim
    greedy, total = [0.0] * visible, 0.0
    for _ in range(iterations):
        left = [d for d in range(dim) if high[d] >= 0]
        if left:
            d = max(left, key=lambda d: (columns[d][high[d]][0], -d))
            product, row = columns[d][high[d]]
            high[d] -= 1
            if product > 0:
                greedy[row] += product
                total += product
        if total < 0:
            continue
        left = [d for d in range(dim) if low[d] < visible]
        if left:
            d = min(left, key=lambda d: (columns[d][low[d]][0], d))
            product, row = columns[d][low[d]]
            low[d] += 1
            if product < 0:
                greedy[row] += product
                total += product
    chosen = {r for r in range(visible) if greedy[r] > 0}
    return chosen or {greedy.index(max(greedy))}


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    keys=st.integers(1, 24),
    dim=st.integers(1, 6),
    iterations=st.integers(1, 60),
    offset=st.sampled_from([-2.0, 0.0, 2.0]),
)
def test_greedy_candidates(seed: int, keys: int, dim: int, iterations: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    # Sixteenths: sums are exact, so that the order of addition decides nothing; ties occur.
    query = np.rint(rng.normal(size=dim) * 16) / 16
    key = np.rint((rng.normal(size=(keys, dim)) + offset) * 4) / 16
    visible = int(rng.integers(1, keys + 1))
    order = np.ascontiguousarray(np.argsort(key, axis=0, kind="stable").T)
    got = set(np.flatnonzero(greedy_candidates(query, key, order, visible, iterations)).tolist())
    assert got == candidates_by_sorting(query.tolist(), key.tolist(), visible, iterations)


def test_all_iterations_find_every_positive_score() -> None:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=8), rng.normal(size=(30, 8))
    order = np.ascontiguousarray(np.argsort(key, axis=0, kind="stable").T)
    got = greedy_candidates(query, key, order, 30, 2000)
    np.testing.assert_array_equal(got, key @ query > 0)


@pytest.fixture(scope="module")
def trace() -> AttentionTrace:
    return synthetic_trace(seed=5, prefill_tokens=20, decode_tokens=3, head_dim=16)


def test_base_a3_is_dense_but_for_its_number_format(trace: AttentionTrace) -> None:
    accuracy = run_machine(trace, A3Rule(iterations=None)).accuracy
    assert accuracy["kept_token_fraction"] == accuracy["kept_value_fraction"] == 1.0
    assert accuracy["relative_output_error"] < 0.05
    finer = run_machine(trace, A3Rule(iterations=None, fraction_bits=14)).accuracy
    assert finer["relative_output_error"] < 1e-4


def test_post_scoring_keeps_weights_above_t(trace: AttentionTrace) -> None:
    rule = A3Rule(iterations=0.5, threshold=0.2)
    run = run_machine(trace, rule)
    held = [[rule.quantize(t)[0] for t in (trace.query(i), trace.key(i))] for i in range(2)]
    at = 0
    for row in range(run.workload.rows):
        step, layer, kv = (int(run.workload[c][row]) for c in ("step", "layer", "head"))
        query, key = held[layer]
        context = trace.prefill_tokens + step
        positions = range(context) if step == 0 else [context - 1]
        for head in range(kv * trace.group, (kv + 1) * trace.group):
            for position in positions:
                n = position + 1
                q, k = query[head, position], key[kv, :n]
                chosen = sorted(
                    candidates_by_sorting(q.tolist(), k.tolist(), n, max(1, math.floor(n / 2)))
                )
                weights = np.exp(trace.scale * (k[chosen] @ q))
                assert run.workload.counts["candidates"][at] == len(chosen)  # type: ignore[attr-defined]
                kept = (weights >= 0.2 * weights.max()).sum()
                assert run.workload.counts["kept"][at] == kept  # type: ignore[attr-defined]
                at += 1


def test_more_approximation_keeps_less(trace: AttentionTrace) -> None:
    mild = run_machine(trace, A3Rule(0.5, 0.05)).accuracy
    harsh = run_machine(trace, A3Rule(0.125, 0.1)).accuracy
    for name in ("kept_token_fraction", "kept_value_fraction", "kept_value_mass"):
        assert harsh[name] < mild[name] < 1
    assert harsh["relative_output_error"] > mild["relative_output_error"]


def test_saturation_is_reported(trace: AttentionTrace) -> None:
    fixed = run_machine(trace, A3Rule(None, integer_bits=1, range_fit="fixed")).accuracy
    fitted = run_machine(trace, A3Rule(None, integer_bits=1)).accuracy
    assert fixed["saturated_fraction"] > 0.05 > fitted["saturated_fraction"] == 0


@pytest.mark.parametrize("chunk", [4, 64])
def test_mnnfast_skips_below_the_running_weight(trace: AttentionTrace, chunk: int) -> None:
    rule = MnnFastRule(threshold=0.08, chunk_rows=chunk, element_bits=24)
    run = run_machine(trace, rule)
    kept, certain, queries = 0, 0, 0
    for step in range(trace.decode_tokens + 1):
        context = trace.prefill_tokens + step
        for layer in range(trace.num_layers):
            for head in range(trace.num_query_heads):
                keys = trace.key(layer)[head // trace.group].astype(np.float64)
                for position in range(context) if step == 0 else [context - 1]:
                    scores = keys[: position + 1] @ trace.query(layer)[head, position]
                    e = np.exp(scores * trace.scale)
                    for start in range(0, len(e), chunk):
                        part = e[start : start + chunk]
                        kept += int((part >= 0.08 * e[: start + chunk].sum()).sum())
                    certain += int((e >= 0.08 * e.sum()).sum())
                    queries += 1
    assert run.workload["query_values"].sum() == kept
    assert kept >= certain
    assert (kept == certain) == (chunk == 64)
    assert run.workload["query_keys"].sum() == run.workload.counts["scored"].sum()  # type: ignore[attr-defined]


def test_mnnfast_without_a_threshold_is_dense(trace: AttentionTrace) -> None:
    accuracy = run_machine(trace, MnnFastRule(threshold=0.0, element_bits=16)).accuracy
    assert accuracy["kept_value_fraction"] == 1.0
    assert accuracy["relative_output_error"] < 1e-3


def test_errors() -> None:
    empty = synthetic_trace(prefill_tokens=0, decode_tokens=0)
    with pytest.raises(TraceError, match="no tokens"):
        run_machine(empty, A3Rule())
    broken = synthetic_trace()
    broken.value(1)[0, 0, 0] = np.nan  # a view of the tensor in memory
    with pytest.raises(TraceError, match=r"layer\.1\.value"):
        run_machine(broken, MnnFastRule())


@pytest.mark.parametrize("peak", [0.3, 1.0, 40.0])
def test_small_inputs_of_a3_have_the_resolution_of_large_ones(peak: float) -> None:
    """Codes of 4 + 4 bits and a shared power of two: half a step of the next power at most."""
    tensor = np.linspace(-peak, peak, 101)
    held, saturated = A3Rule(None).quantize(tensor)
    step = 2.0 ** (np.ceil(np.log2(peak / (16 - 1 / 16))) - 4)
    assert np.abs(held - tensor).max() <= step / 2
    assert np.array_equal(held / step, np.rint(held / step))
    assert saturated == 0
