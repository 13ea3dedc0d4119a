"""Kernels against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accelsim.attention import kernels, reference
from accelsim.attention.quantization import (
    GrowingReadBack,
    largest_progressive_code,
    progressive_planes,
    quantize,
    quantize_dequantize,
    split_planes,
)
from accelsim.errors import SimulationError
from accelsim.functional import topk_engine

many_ties = st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.5, np.inf, -np.inf])
rows = hnp.arrays(np.float64, st.integers(1, 80), elements=many_ties | st.floats(-10, 10, width=32))


@settings(deadline=None)
@given(values=rows, data=st.data(), seed=st.integers(0, 2**40))
def test_topk_engine_is_the_stable_topk(values: np.ndarray, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, len(values)))
    top = topk_engine(values, k, seed)
    assert top.indices.tolist() == reference.stable_topk(values, k).tolist()
    expected = reference.quick_select(values, k, seed)
    assert (top.kth_value, top.equal_kept, top.passes, top.elements, top.beats) == expected
    assert top.kth_value == np.sort(values)[-k]


def test_expected_passes_agree_with_the_specification() -> None:
    # Specification, table of 3.2: N = 1024, T = 256 takes 12.4 passes on average.
    rng = np.random.default_rng(0)
    passes = [topk_engine(rng.random(1024), 256, seed=i).passes for i in range(400)]
    assert np.mean(passes) == pytest.approx(12.4, rel=0.05)


@pytest.mark.parametrize(("values", "k"), [([1.0], 0), ([1.0], 2), ([np.nan], 1), ([], 1)])
def test_topk_engine_refuses(values: list[float], k: int) -> None:
    with pytest.raises(SimulationError, match="top-k"):
        topk_engine(np.array(values), k)


@settings(deadline=None)
@given(scores=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-800, 0)))
def test_exponential_is_that_of_numpy(scores: np.ndarray) -> None:
    got = np.empty(len(scores))
    kernels.exponentials_of_row(scores, 0.0, len(scores), got)
    np.testing.assert_array_max_ulp(got, np.exp(scores), maxulp=2)


@settings(deadline=None)
@given(row=st.lists(st.floats(-5, 5), max_size=40), data=st.data())
def test_zero_eliminator_keeps_order(row: list[float], data: st.DataObject) -> None:
    keep = [data.draw(st.booleans()) for _ in row]
    expected = [v for v, k in zip(row, keep, strict=True) if k]
    assert reference.zero_eliminate(row, keep) == expected


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(1, 1, 1), (2, 1, 8), (4, 2, 5), (3, 3, 4)]),
    tokens=st.integers(1, 14),
    causal=st.booleans(),
    threshold=st.sampled_from([0.0, 0.3, 1.0]),
    ratio=st.sampled_from([0.2, 0.5, 1.0]),
)
def test_layer_kernel_equals_reference(
    seed: int,
    shape: tuple[int, int, int],
    tokens: int,
    causal: bool,
    threshold: float,
    ratio: float,
) -> None:
    heads, kv_heads, dim = shape
    rng = np.random.default_rng(seed)
    query = (rng.normal(size=(heads, tokens, dim)) * 3).astype(np.float32)
    key = rng.normal(size=(kv_heads, tokens, dim)).astype(np.float32)
    value = rng.normal(size=(kv_heads, tokens, dim)).astype(np.float32)
    first, both = progressive_planes(key, 4, 4, "round", "per_token")
    stored = quantize_dequantize(value, 6, "per_tensor")
    kept = np.flatnonzero((rng.random(tokens) < 0.7) | (np.arange(tokens) == tokens - 1))
    alive = rng.random(heads) < 0.8
    budget = np.array([max(1, int(np.ceil(ratio * n))) for n in range(tokens + 1)])
    token_importance, head_importance = np.zeros(tokens), np.zeros(heads)
    stats, per_query, used, outputs, sums = kernels.attend_layer(
        kernels.Tensors(query, key, value, first, both, stored),
        kernels.Rows.plain(kept, kept, alive, tokens, causal),
        kernels.Settings(0.5, threshold, budget, 3),
        kernels.Importance(token_importance, head_importance),
    )
    mask = kept[None, :] <= kept[:, None] if causal else np.ones((len(kept),) * 2, dtype=bool)
    full = np.tri(tokens, dtype=bool) if causal else np.ones((tokens, tokens), dtype=bool)
    expected_tokens, error, norm = np.zeros(tokens), 0.0, 0.0
    expected_used = np.zeros_like(used)
    counts = np.zeros((kv_heads, 4), dtype=int)
    for head in range(heads):
        kv = head // (heads // kv_heads)
        dense = reference.attention(
            query[head], key[kv], key[kv], value[kv], full, scale=0.5
        ).output[kept]
        norm += float((dense**2).sum())
        if not alive[head]:
            assert not outputs[head].any()
            assert head_importance[head] == 0
            error += float((dense**2).sum())
            continue
        result = reference.attention(
            query[head, kept], first[kv, kept], both[kv, kept], stored[kv, kept], mask,
            scale=0.5, threshold=threshold, value_budget=budget,
        )  # fmt: skip
        np.testing.assert_allclose(outputs[head], result.output, atol=1e-12)
        assert head_importance[head] == pytest.approx(np.abs(result.output).sum())
        expected_tokens[kept] += result.probabilities.sum(axis=0)
        expected_used[kv] |= result.used.any(axis=0)
        group = slice(kv * (heads // kv_heads), (kv + 1) * (heads // kv_heads))
        own = per_query[alive[: group.start].sum() * len(kept) :][: alive[group].sum() * len(kept)]
        own = own[alive[group.start : head].sum() :: alive[group].sum()]
        detail = {name: own[name] for name in kernels.PER_QUERY.names}
        assert detail["position"].tolist() == kept.tolist()
        assert detail["keys"].tolist() == mask.sum(axis=1).tolist()
        assert detail["values"].tolist() == result.used.sum(axis=1).tolist()
        assert detail["refetch"].tolist() == result.refetched.tolist()
        for row, position in enumerate(kept):
            seen = result.probabilities[row, mask[row]]
            limit, seed_of_row = budget[len(seen)], 3 + head * 8191 + int(position)
            work = (0, 0)
            if limit < len(seen):
                # Rounding could order two close probabilities differently in kernel and reference.
                assume(np.diff(np.sort(seen)).min() > 1e-12)
                selected = reference.quick_select(seen, int(limit), seed_of_row)
                work = (selected[2], selected[4])
            assert (detail["topk_passes"][row], detail["topk_beats"][row]) == work
        counts[kv] += [len(kept), mask.sum(), result.used.sum(), result.refetched.sum()]
        error += float(((result.output - dense) ** 2).sum())
    np.testing.assert_allclose(token_importance, expected_tokens, atol=1e-12)
    assert (used == expected_used).all()
    assert [list(row)[:4] for row in stats.tolist()] == counts.tolist()
    assert sums["error_square"][0] == pytest.approx(error)
    assert sums["reference_square"][0] == pytest.approx(norm)


@settings(deadline=None)
@given(
    msb=st.sampled_from([4, 6, 8, 10, 12]),
    split=st.sampled_from(["round", "truncate"]),
    data=st.data(),
)
def test_planes_give_every_code_back(msb: int, split: str, data: st.DataObject) -> None:
    largest = largest_progressive_code(msb, 4, split)
    code = data.draw(st.integers(-largest, largest))
    high, low = split_planes(np.array([code]), 4, split)
    assert int(high[0]) * 16 + int(low[0]) == code
    assert -(2 ** (msb - 1)) <= high[0] <= 2 ** (msb - 1) - 1
    bounds = (-8, 7) if split == "round" else (0, 15)
    assert bounds[0] <= low[0] <= bounds[1]


@settings(deadline=None, max_examples=60)
@given(
    tensor=hnp.arrays(np.float32, (2, 9, 3), elements=st.floats(-8, 8, width=32)),
    calls=st.lists(st.integers(1, 4), min_size=1, max_size=9),
    bits=st.sampled_from([4, 12]),
    scale=st.sampled_from(["per_tensor", "per_token", "per_channel"]),
)
def test_what_grows_reads_back_as_the_whole(
    tensor: np.ndarray, calls: list[int], bits: int, scale: str
) -> None:
    growing = GrowingReadBack(bits, scale, np.float64)
    for tokens in np.minimum(np.cumsum(calls), 9):
        seen = tensor[:, :tokens]
        np.testing.assert_array_equal(growing.of(seen), quantize_dequantize(seen, bits, scale))


@settings(deadline=None)
@given(
    tensor=hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-100, 100, width=32)),
    bits=st.sampled_from([4, 6, 8, 10, 12]),
    scale=st.sampled_from(["per_tensor", "per_token"]),
)
def test_quantization_errs_by_half_a_step_at_most(
    tensor: np.ndarray, bits: int, scale: str
) -> None:
    _, step = quantize(tensor, 2 ** (bits - 1) - 1, scale)
    error = np.abs(quantize_dequantize(tensor, bits, scale) - tensor)
    assert (error <= step * 0.5000001).all()
