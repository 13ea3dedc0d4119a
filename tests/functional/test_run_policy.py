"""The contract of `run_policy`, for every preset, and an independent brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import preset_names
from accelsim.errors import TraceError
from accelsim.functional import run_policy
from accelsim.policies import (
    CascadeTokens,
    KiviQuantization,
    Policy,
    ProgressiveQuantization,
    load_policy,
)
from accelsim.traces import AttentionTrace, synthetic_trace

SHAPE: dict[str, Any] = {"num_layers": 6, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 16}
# The selection policies have a contract of their own: tests/contracts/test_policies.py.
PRESETS = [
    name
    for name in preset_names("policies")
    if (policy := load_policy(name)).selection is None and policy.quantization.kind != "kivi"
]


@pytest.fixture(scope="module")
def trace() -> AttentionTrace:
    return synthetic_trace(seed=3, prefill_tokens=60, decode_tokens=8, **SHAPE)


@pytest.mark.parametrize("name", PRESETS)
def test_contract(trace: AttentionTrace, name: str) -> None:
    policy = load_policy(name)
    run = run_policy(trace, policy)
    w = run.workload
    assert w.key_indices is not None
    assert w.value_indices is not None
    gone: dict[int, set[int]] = {layer: set() for layer in range(trace.num_layers)}
    above: dict[int, set[int]] = {}
    for row in range(w.rows):
        layer, context = (int(w[c][row]) for c in ("layer", "context_tokens"))
        keys, values = set(w.key_indices[row].tolist()), set(w.value_indices[row].tolist())
        assert len(keys) == w["keys"][row]
        assert len(values) == w["values"][row]
        assert values <= keys <= set(range(context))
        assert context - 1 in keys
        assert not keys & gone[layer], "a pruned token came back"
        assert layer == 0 or keys <= above[layer - 1], "the cascade was broken"
        gone[layer] |= set(range(context)) - keys
        above[layer] = keys
        if policy.tokens is not None:
            first, recent = policy.tokens.protected_ranges()
            protected = set(range(first)) | set(range(max(0, context - recent), context))
            assert protected <= keys
            budget = policy.tokens.budget(layer, trace.num_layers, context)
            assert len(keys) <= max(budget, len(protected), 1)
        assert w["query_keys"][row] <= w["queries"][row] * len(keys)
        assert len(values) <= w["query_values"][row] <= w["query_keys"][row]
        assert (w["topk_size"][row] > w["topk_target"][row]) == (w["topk_passes"][row] > 0)
        assert w["refetch_lsb"][row] == (w["refetch_queries"][row] > 0)
    expected = dict.fromkeys(("key_msb", "key_lsb", "value", "metadata", "residual"), 0)
    for row in range(w.rows):
        q = policy.at_stage("decode" if w["step"][row] else "prefill").quantization
        assert not isinstance(q, KiviQuantization)
        count, values = len(w.key_indices[row]), len(w.value_indices[row])
        if isinstance(q, ProgressiveQuantization):
            first, value_bits = q.msb_bits, q.fetched_value_bits
            expected["key_lsb"] += count * q.lsb_bits * 2 if w["refetch_lsb"][row] else 0
        else:
            first, value_bits = q.key_bits, q.value_bits
            assert not w["refetch_lsb"][row]
        scaled = 0 if getattr(q, "key_scale", None) else count
        expected["key_msb"] += count * first * 2
        expected["value"] += values * value_bits * 2
        expected["metadata"] += (scaled + values) * 2 if q.scale == "per_token" else 0
    assert w.policy_bytes() == expected
    for figures in (run.accuracy, *run.per_layer):
        numbers = {k: v for k, v in figures.items() if k not in ("mode", "layer")}
        assert all(type(v) is float and math.isfinite(v) for v in numbers.values())
        assert all(0 <= v <= 1 for k, v in numbers.items() if "fraction" in k or "mass" in k)
    assert run.accuracy["mode"] == "open-loop"
    again = run_policy(trace, policy, indices=False)
    assert again.accuracy == run.accuracy
    assert again.workload.key_indices is None
    assert all((again.workload[c] == w[c]).all() for c in w.columns)


def test_pivot_seed_moves_passes_but_no_decision(trace: AttentionTrace) -> None:
    one, two = (run_policy(trace, load_policy("spatten-pruned"), seed=s) for s in (0, 1))
    assert one.accuracy == two.accuracy
    assert (one.workload["topk_passes"] != two.workload["topk_passes"]).any()


def test_grouped_heads_pay_for_the_union(trace: AttentionTrace) -> None:
    w = run_policy(trace, load_policy("spatten-values")).workload
    decode = w["step"] > 0
    assert (w["queries"][decode] == 3).all()
    assert (w["values"][decode] > w["topk_target"][decode]).any()
    assert (w["query_values"][decode] == 3 * w["topk_target"][decode]).all()


def test_dense_at_12_bit_is_nearly_exact(trace: AttentionTrace) -> None:
    accuracy = run_policy(trace, load_policy("dense")).accuracy
    assert accuracy["relative_output_error"] < 3e-3
    assert accuracy["kept_mass"] == pytest.approx(1.0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("prefill", "decode"), [(1, 0), (0, 1), (0, 5), (1, 2)])
def test_shortest_traces(prefill: int, decode: int, causal: bool) -> None:
    trace = synthetic_trace(prefill_tokens=prefill, decode_tokens=decode, causal=causal, **SHAPE)
    for name in PRESETS:
        w = run_policy(trace, load_policy(name)).workload
        assert set(w["step"].tolist()) == set(range(0 if prefill else 1, decode + 1))


def test_errors() -> None:
    with pytest.raises(TraceError, match="no tokens"):
        run_policy(synthetic_trace(prefill_tokens=0, decode_tokens=0), load_policy("dense"))
    trace = synthetic_trace()
    key = trace.key(1)
    key[0, 0, 0] = np.nan  # a view of the tensor in memory
    with pytest.raises(TraceError, match=r"layer\.1\.key"):
        run_policy(trace, load_policy("dense"))


Rows = dict[tuple[int, int, int], tuple[list[int], list[int], int]]


def brute_force(trace: AttentionTrace, policy: Policy) -> Rows:
    """Design section 4, word by word: loops over tokens, no masks shared with the package.

    Per (step, layer, KV head): fetched keys, fetched values, query rows.
    """
    assert policy.tokens is not None
    assert policy.heads is not None
    assert policy.values is not None
    L, H, group = trace.num_layers, trace.num_query_heads, trace.group
    importance = [0.0] * trace.tokens
    head_score = [0.0] * H
    pruned_here: list[set[int]] = [set() for _ in range(L)]
    heads_here: list[list[int]] = []
    rows: Rows = {}

    def ratio(mean: float, front_fraction: float, layer: int) -> float:
        front = math.ceil(front_fraction * L)
        if layer < front:
            return 1.0
        start = (1 + mean) / 2
        end = 2 * mean - start
        return mean if L - front == 1 else start + (end - start) * (layer - front) / (L - front - 1)

    def stored(tensor: np.ndarray) -> np.ndarray:
        step = float(np.abs(tensor).max()) / 2047
        return np.rint(tensor.astype(np.float64) / step) * step

    layers = [(trace.query(i), stored(trace.key(i)), stored(trace.value(i))) for i in range(L)]
    for step in range(trace.decode_tokens + 1):
        c = trace.prefill_tokens + step
        live = list(range(c))
        heads = list(range(H))
        for layer in range(L):
            live = [t for t in live if t not in pruned_here[layer]]
            k = math.ceil(ratio(policy.tokens.mean_keep, 0.15, layer) * c)
            forced = {c - 1} if trace.causal or step else set()
            if policy.tokens.importance == "protected":
                forced |= set(range(policy.tokens.protect.first)) & set(range(c))
                forced |= {t for t in range(c) if t >= c - policy.tokens.protect.recent}
            rank = sorted(live, key=lambda t: (t not in forced, -importance[t], t))
            chosen = sorted(rank[: max(k, len(forced))])
            pruned_here[layer] |= set(live) - set(chosen)
            live = chosen
            if step == 0:
                n = max(1, round(ratio(policy.heads.mean_keep, 0.3, layer) * H))
                heads = sorted(sorted(heads, key=lambda h: (-head_score[h], h))[:n])
                heads_here.append(heads)
            heads = heads_here[layer]
            query, key, value = layers[layer]
            received = dict.fromkeys(live, 0.0)
            for h in heads:
                fetched: set[int] = set()
                for position in live if step == 0 else [c - 1]:
                    seen = [t for t in live if t <= position or not trace.causal]
                    s = [
                        float(query[h, position].astype(np.float64) @ key[h // group, t])
                        * trace.scale
                        for t in seen
                    ]
                    e = [math.exp(x - max(s)) for x in s]
                    p = {t: x / sum(e) for t, x in zip(seen, e, strict=True)}
                    budget = math.ceil(policy.values.keep * len(seen))
                    used = sorted(seen, key=lambda t: (-p[t], t))[:budget]
                    out = sum(p[t] * value[h // group, t] for t in used)
                    head_score[h] += float(np.abs(out).sum())
                    fetched |= set(used)
                    for t in seen:
                        received[t] += p[t]
                at = (step, layer, h // group)
                old = rows.get(at, ([], [], 0))
                count = old[2] + (len(live) if step == 0 else 1)
                rows[at] = (live, sorted(fetched | set(old[1])), count)
            for t, mass in received.items():
                importance[t] += mass
    return rows


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 6),
    heads=st.sampled_from([(4, 2), (3, 3), (6, 2), (2, 1)]),
    prefill=st.integers(1, 14),
    decode=st.integers(0, 5),
    causal=st.booleans(),
    mean=st.sampled_from([0.5, 0.75]),
    importance=st.sampled_from(["paper", "protected"]),
    keep=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_agrees_with_brute_force_to_the_token(
    seed: int,
    layers: int,
    heads: tuple[int, int],
    prefill: int,
    decode: int,
    causal: bool,
    mean: float,
    importance: str,
    keep: float,
) -> None:
    trace = synthetic_trace(
        seed=seed, num_layers=layers, num_query_heads=heads[0], num_kv_heads=heads[1], head_dim=4,
        prefill_tokens=prefill, decode_tokens=decode, causal=causal,
    )  # fmt: skip
    tokens = CascadeTokens.model_validate(
        {"mean_keep": mean, "importance": importance, "protect": {"first": 1, "recent": 3}}
    )
    policy = Policy.model_validate(
        {"tokens": tokens, "heads": {"mean_keep": 0.625}, "values": {"keep": keep}}
    )
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    assert w.value_indices is not None
    got = {
        (int(w["step"][i]), int(w["layer"][i]), int(w["head"][i])): (
            w.key_indices[i].tolist(), w.value_indices[i].tolist(), int(w["queries"][i]),
        )
        for i in range(w.rows)
    }  # fmt: skip
    assert got == brute_force(trace, policy)


@pytest.mark.parametrize("split", ["round", "truncate"])
def test_refetch_follows_the_largest_probability(trace: AttentionTrace, split: str) -> None:
    def fraction(threshold: float) -> float:
        policy = load_policy(
            "progressive-6-4", {"quantization.threshold": threshold, "quantization.split": split}
        )
        return float(run_policy(trace, policy).accuracy["lsb_refetch_fraction"])

    rising = [fraction(t) for t in (0.0, 0.1, 0.4, 1.0)]
    assert rising == sorted(rising)
    assert rising[0] == 0
    # A row with a single key has probability 1 and is never below the threshold.
    assert rising[-1] > 0.95
