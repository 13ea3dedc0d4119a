"""What is special about each member of the family, against plain references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from deciding import sequence
from numpy.typing import NDArray

from accelsim.errors import ConfigError, TraceError
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import policy_attention
from accelsim.functional.fixed_point import operands
from accelsim.policies import (
    Budgeted,
    CascadeTokens,
    Policy,
    load_policy,
    why_closed_loop_not,
    why_not,
)
from accelsim.policies.selections.ems import merge_into_nearest
from accelsim.policies.selections.snapkv import pool
from accelsim.policies.selections.zero_tprune import ZeroTPrune, page_rank, prune
from accelsim.policies.selector import Block, Decision, Shape, selector_for
from accelsim.traces import synthetic_trace
from accelsim.traces.capture import ModelShape, dense_attention

HEADS, KV_HEADS, DIM, TOKENS = 4, 2, 6, 30
GROUP = HEADS // KV_HEADS


def tensors(seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(HEADS, TOKENS, DIM)) * 2
    return query, *rng.normal(size=(2, KV_HEADS, TOKENS, DIM))


def decide(rule: dict[str, Any], prompt: int = 0, layer: int = 0) -> NDArray[np.bool_]:
    """Kept keys [heads, rows, tokens] of all rows of one layer."""
    query, key, value = tensors()
    policy = Policy.model_validate({"selection": rule})
    selector = selector_for(policy, Shape(4, HEADS, KV_HEADS, DIM, TOKENS, prompt))
    kept = np.zeros((HEADS, TOKENS, TOKENS), dtype=np.bool_)
    for part in (np.arange(prompt), np.arange(prompt, TOKENS)):
        if len(part):
            seen = part[-1] + 1
            scores = np.repeat(key, GROUP, axis=0)[:, :seen] @ query[:, part].transpose(0, 2, 1)
            scores = np.ascontiguousarray(scores.transpose(0, 2, 1))
            block = Block(
                layer, part, query[:, part], key[:, :seen], value[:, :seen], scores, scores, 0.0,
                True, 1.0,
            )  # fmt: skip
            kept[:, part, :seen] = selector.run(block).kept
            np.testing.assert_allclose(block.scores.sum(axis=2), 1.0)
    return kept


def probabilities(head: int, position: int, live: list[int]) -> dict[int, float]:
    query, key, _ = tensors()
    scores = [float(query[head, position] @ key[head // GROUP, j]) for j in live]
    weights = np.exp(np.array(scores) - max(scores))
    return dict(zip(live, (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize("prompt", [0, 12])
def test_h2o_is_heavy_hitters_and_recent(prompt: int) -> None:
    kept = decide({"kind": "h2o", "budget_tokens": 8}, prompt)
    for head in range(HEADS):
        live: list[int] = []
        score = dict.fromkeys(range(TOKENS), 0.0)
        for i in range(TOKENS):
            live.append(i)
            while i >= prompt and len(live) > 8:
                live.remove(min([j for j in live if j <= i - 4], key=lambda j: (score[j], -j)))
            assert np.flatnonzero(kept[head, i]).tolist() == live
            for j, p in probabilities(head, i, live).items():
                score[j] += p


def test_tova_follows_the_latest_query_of_all_heads() -> None:
    kept = decide({"kind": "tova", "budget_tokens": 7})
    live: list[int] = []
    last: dict[int, float] = {}
    for i in range(TOKENS):
        live.append(i)
        if len(live) > 7:
            live.remove(min(live[:-1], key=lambda j: (last[j], -j)))
        assert all(np.flatnonzero(kept[h, i]).tolist() == live for h in range(HEADS))
        rows = [probabilities(h, i, live) for h in range(HEADS)]
        last = {j: sum(row[j] for row in rows) for j in live}


def test_scissorhands_counts_low_steps_in_its_window() -> None:
    rule = {"kind": "scissorhands", "budget_tokens": 10, "history": 5, "drop": 3}
    kept = decide(rule)
    for head in range(HEADS):
        live: list[int] = []
        flags: list[set[int]] = []
        for i in range(TOKENS):
            live.append(i)
            if len(live) > 10:
                low = {j: sum(j in f for f in flags[-5:]) for j in live}
                old = sorted([j for j in live if j <= i - 5], key=lambda j: (low[j], j))
                live = sorted([*old[: len(old) - 3], *[j for j in live if j > i - 5]])
            assert np.flatnonzero(kept[head, i]).tolist() == live
            row = probabilities(head, i, live)
            flags.append({j for j in live if row[j] < 1 / (i + 1)})


def test_streaming_llm_keeps_two_ranges() -> None:
    kept = decide({"kind": "streaming_llm", "budget_tokens": 9, "sinks": 3})
    for i in range(TOKENS):
        expected = {j for j in range(i + 1) if j < 3 or j > i - 6}
        assert set(np.flatnonzero(kept[1, i]).tolist()) == expected


def test_snapkv_votes_once_and_evicts_nothing_later() -> None:
    kept = decide({"kind": "snapkv", "budget_tokens": 10, "window": 4, "kernel": 3}, prompt=20)
    for head in range(HEADS):
        votes = np.zeros(20)
        for i in range(16, 20):
            votes[: i + 1] += list(probabilities(head, i, list(range(i + 1))).values())
        padded = np.concatenate(([0.0], votes[:16], [0.0]))
        pooled = [padded[j : j + 3].mean() for j in range(16)]
        best = sorted(sorted(range(16), key=lambda j: (-pooled[j], j))[:6])
        for i in range(20, TOKENS):
            live = [*best, *range(16, i + 1)]
            assert np.flatnonzero(kept[head, i]).tolist() == live
        assert kept[head, 19, :20].all()


def test_snapkv_may_share_the_budget_of_a_layer_among_its_heads() -> None:
    rule = {"kind": "snapkv", "budget_tokens": 10, "window": 4, "kernel": 1, "head_floor": 0.6}
    kept = decide(rule, prompt=20)[:, 20, :16]
    votes = np.zeros((HEADS, 16))
    for head in range(HEADS):
        for i in range(16, 20):
            votes[head] += list(probabilities(head, i, list(range(i + 1))).values())[:16]
    # Six keys a head beside the window; at least two (0.6 of 10 less the window) of each.
    floor = {(h, j) for h in range(HEADS) for j in np.argsort(-votes[h])[:2].tolist()}
    every = {(h, j) for h in range(HEADS) for j in range(16)}
    rest = sorted(every - floor, key=lambda at: -votes[at])[: 6 * HEADS - len(floor)]
    assert set(zip(*(a.tolist() for a in np.nonzero(kept)), strict=True)) == floor | set(rest)
    assert len(set(kept.sum(axis=1).tolist())) > 1
    own = decide({**rule, "head_floor": 1.0}, prompt=20)
    del rule["head_floor"]
    np.testing.assert_array_equal(own, decide(rule, prompt=20))


def test_pooling() -> None:
    votes = np.array([[0.0, 3.0, 0.0, 0.0]])
    assert pool(votes, 3, "mean").tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert pool(votes, 3, "max").tolist() == [[3.0, 3.0, 3.0, 0.0]]


def test_quest_reads_the_pages_of_largest_bound() -> None:
    rule = {"kind": "quest", "budget_tokens": 12, "page_tokens": 4, "dense_layers": 1}
    query, key, _ = tensors()
    assert decide(rule, layer=0)[0, TOKENS - 1].all()
    kept = decide(rule, layer=1)
    for head in range(HEADS):
        for i in range(TOKENS):
            full = i // 4
            bound = {}
            for p in range(full):
                page = key[head // GROUP, p * 4 : p * 4 + 4]
                q = query[head, i]
                bound[p] = np.maximum(q * page.min(axis=0), q * page.max(axis=0)).sum()
            chosen = sorted(bound, key=lambda p: (-bound[p], p))[:2]
            expected = {j for p in chosen for j in range(p * 4, p * 4 + 4)}
            expected |= set(range(full * 4, i + 1))
            assert set(np.flatnonzero(kept[head, i]).tolist()) == expected


def test_dhsa_keeps_sinks_local_and_the_nearest_chunks() -> None:
    rule = {"kind": "dhsa", "budget_tokens": 14, "chunk_tokens": 4, "sinks": 2, "local": 3}
    query, key, _ = tensors()
    kept = decide(rule)
    for i in (13, 20, TOKENS - 1):
        full = i // 4
        live = {j for j in range(i + 1) if j < 2 or j > i - 3 or j >= full * 4}
        mean = [key[1, c * 4 : c * 4 + 4].mean(axis=0) for c in range(full)]
        for c in sorted(range(full), key=lambda c: -float(query[3, i] @ mean[c])):
            for j in range(c * 4, c * 4 + 4):
                if len(live) < 14:
                    live.add(j)
        assert set(np.flatnonzero(kept[3, i]).tolist()) == live


def test_ems_merges_what_is_alike_and_drops_the_rest() -> None:
    key = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value = np.array([[1.0, 1.0], [3.0, 3.0], [-1.0, 1.0]])
    alive, weight = np.array([False, True, True]), np.array([1.0, 3.0, 5.0])
    assert merge_into_nearest(0, key, value, alive, weight, 3, 0.6)
    np.testing.assert_allclose(key[1], [0.25 * 2 + 0.75 * 1, 0.0])
    np.testing.assert_allclose(value[1], [2.5, 2.5])
    alive[1] = False
    before = key.copy()
    assert not merge_into_nearest(0, key, value, alive, weight, 3, 0.6)
    assert (key == before).all()


def test_zero_tprune_ranks_and_then_thins_out() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.random((12, 12))
    matrix /= matrix.sum(axis=1, keepdims=True)
    rank, _ = page_rank(matrix, 200, 1e-12)
    vectors = np.linalg.eig(matrix.T)
    stationary = np.abs(vectors[1][:, np.argmax(vectors[0].real)].real)
    np.testing.assert_allclose(rank, stationary / stationary.sum(), atol=1e-9)
    rule = ZeroTPrune(kind="zero_tprune", keep_importance=0.75, keep_similarity=0.75)
    protected = np.arange(12) == int(np.argmin(rank))
    kept, _ = prune(rule, matrix, rng.normal(size=(12, 4)), protected)
    assert kept.sum() == 7
    assert kept[protected].all()
    others = np.flatnonzero(~protected)
    first_gone = others[np.argsort(rank[others])][:3]
    assert not kept[first_gone].any()


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("h2o", {"selection.budget_tokens": 8}, "give one of 'budget_tokens'"),
        ("h2o", {"selection.taper": 2}, "less than or equal to 1"),
        ("h2o", {"selection.budget_tokens_by_layer": [8]}, "give one of 'budget_tokens'"),
        (
            "h2o",
            {"selection.budget_fraction": None, "selection.budget_fraction_by_layer": [0.0]},
            "greater than 0",
        ),
        (
            "h2o",
            {
                "selection.budget_fraction": None,
                "selection.taper": 0.5,
                "selection.budget_tokens_by_layer": [8],
            },
            "'taper' goes with",
        ),
        (
            "tova",
            {
                "selection.budget_fraction": None,
                "selection.budget_tokens_by_layer": [8, 8],
                "quantization.key_bits_by_layer": [8],
            },
            "'selection.budget_tokens_by_layer' has 2, 'quantization.key_bits_by_layer' has 1",
        ),
        ("kivi-4", {"quantization.key_bits_by_layer": [3]}, "2, 4 or 8"),
        ("h2o", {"selection.budget_fraction": 1.5}, "less than or equal to 1"),
        ("h2o", {"selection.kind": "h20"}, "h2o"),
        ("h2o", {"tokens.mean_keep": 0.5}, "not both"),
        ("ems", {"quantization.kind": "progressive"}, "expected static"),
        ("ems", {"values.keep": 0.5}, "expected no 'values'"),
        ("spatten-pruned", {"heads.accumulate": "layers"}, "'accumulate' differs"),
        ("kivi-4", {"quantization.key_bits": 3}, "2, 4 or 8"),
        ("kivi-4", {"heads.mean_keep": 0.5}, "expected no cascade"),
    ],
)
def test_errors(name: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(name, overrides)
    assert message in str(caught.value)


DEPTH = 3
BUDGETS = (5, 20, 9)


def budgeted(kind: str, **budget: object) -> Policy:
    return Policy.model_validate({"selection": {"kind": kind, "share": "kv_head", **budget}})


@pytest.mark.parametrize("kind", ["tova", "h2o", "scissorhands", "streaming_llm", "ems"])
def test_a_layer_keeps_what_a_model_with_its_budget_keeps(kind: str) -> None:
    """Lists by layer are the plain rule, layer by layer, to the byte and the output."""
    trace = synthetic_trace(seed=7, num_layers=DEPTH, prefill_tokens=12, decode_tokens=30)
    mixed = run_policy(trace, budgeted(kind, budget_tokens_by_layer=BUDGETS))
    assert [budgeted(kind, budget_tokens_by_layer=BUDGETS).num_layers] == [DEPTH]
    for layer, budget in enumerate(BUDGETS):
        plain = run_policy(trace, budgeted(kind, budget_tokens=budget))
        own, alone = (run.workload["layer"] == layer for run in (mixed, plain))
        for name in ("keys", "values", "key_runs", "select_size", "score_updates"):
            np.testing.assert_array_equal(
                mixed.workload[name][own], plain.workload[name][alone], err_msg=name
            )
        assert mixed.per_layer[layer] == plain.per_layer[layer]
        last = mixed.workload["keys"][own & (mixed.workload["step"] == 30)]
        assert (last <= budget).all()


def test_a_taper_is_a_straight_line_and_keeps_the_mean() -> None:
    rule = budgeted("h2o", budget_tokens=20, taper=0.5).selection
    assert isinstance(rule, Budgeted)
    counts = [rule.at_layer(layer, 5).budget(100) for layer in range(5)]
    assert counts == [30, 25, 20, 15, 10]
    rule = budgeted("h2o", budget_fraction=0.5, taper=-0.4, floor_tokens=34).selection
    assert isinstance(rule, Budgeted)
    assert [rule.at_layer(layer, 3).budget(100) for layer in range(3)] == [34, 50, 70]
    assert rule.at_layer(0, 1).budget(100) == 50
    assert rule.at_layer(0, 3).budget(20) == 34


def test_a_floor_of_the_cascade_holds_where_the_ratio_is_lower() -> None:
    rule = CascadeTokens(keep_by_layer=(1.0, 0.25), floor_tokens=8)
    assert [rule.budget(1, 2, n) for n in (4, 8, 20, 32, 40)] == [4, 8, 8, 8, 10]
    assert rule.budget(0, 2, 40) == 40


def test_widths_of_kivi_by_layer_are_those_of_plain_caches() -> None:
    trace = synthetic_trace(seed=7, num_layers=2, prefill_tokens=12, decode_tokens=30)
    sizes = {"kind": "kivi", "group_tokens": 4, "group_channels": 8, "residual_tokens": 4}
    mixed = run_policy(
        trace,
        Policy.model_validate({"quantization": sizes | {"key_bits_by_layer": [8, 4]}}),
    )
    for layer, bits in enumerate((8, 4)):
        plain = run_policy(
            trace, Policy.model_validate({"quantization": sizes | {"key_bits": bits}})
        )
        assert mixed.per_layer[layer] == plain.per_layer[layer]
        own, alone = (run.workload["layer"] == layer for run in (mixed, plain))
        for name in ("key_bits", "metadata_bytes", "residual_bytes"):
            assert (mixed.workload[name][own] == plain.workload[name][alone]).all()


def test_a_policy_of_another_depth_does_not_apply() -> None:
    trace = synthetic_trace(seed=7, num_layers=2, prefill_tokens=12, decode_tokens=3)
    policy = budgeted("h2o", budget_tokens_by_layer=BUDGETS)
    message = "'selection.budget_tokens_by_layer' has 3 entries; expected 2"
    assert message in why_not(policy, trace)
    assert message in why_closed_loop_not(policy, causal=True, num_layers=2)
    assert not why_closed_loop_not(policy, causal=True, num_layers=3)
    with pytest.raises(TraceError, match="has 3 entries"):
        run_policy(trace, policy)


def key_rule(kind: str, budget: int, prompt: int) -> NDArray[np.bool_]:
    """K-norm and KeyDiff as their papers say, one KV head and step after the other."""
    _, key, _ = tensors()
    kept = np.zeros((HEADS, TOKENS, TOKENS), dtype=np.bool_)
    for kv in range(KV_HEADS):
        unit = key[kv] / np.linalg.norm(key[kv], axis=1, keepdims=True)
        cache: list[int] = []
        for i in range(TOKENS):
            cache.append(i)
            if kind == "knorm":
                badness = {j: np.linalg.norm(key[kv, j]) for j in cache}
            else:
                anchor = unit[cache].mean(axis=0)
                badness = {j: unit[j] @ anchor / np.linalg.norm(anchor) for j in cache}
            while i >= prompt and len(cache) > budget:
                cache.remove(max(cache[:-1], key=badness.__getitem__))
            kept[kv * GROUP : (kv + 1) * GROUP, i, cache] = True
    return kept


@pytest.mark.parametrize("prompt", [0, 12])
@pytest.mark.parametrize("kind", ["knorm", "keydiff"])
def test_rules_on_keys_alone(kind: str, prompt: int) -> None:
    got = decide({"kind": kind, "budget_tokens": 7}, prompt)
    np.testing.assert_array_equal(got, key_rule(kind, 7, prompt))
    # Query heads of a group see the same keys, so they decide alike on their own, too.
    alone = decide({"kind": kind, "budget_tokens": 7, "share": "query_head"}, prompt)
    np.testing.assert_array_equal(got, alone)


def test_a_scale_for_each_channel_is_in_the_query_and_costs_no_bytes() -> None:
    trace = synthetic_trace(seed=7, num_layers=1, prefill_tokens=12, decode_tokens=20)
    wide = {"kind": "static", "scale": "per_token", "key_bits": 6}
    both = [
        run_policy(trace, Policy.model_validate({"quantization": wide | more}))
        for more in ({}, {"key_scale": "per_channel"})
    ]
    saved = [run.workload["metadata_bytes"] for run in both]
    keys = both[0].workload["keys"].astype(np.int64)
    np.testing.assert_array_equal(saved[0] - saved[1], 2 * keys)

    query, key, value = (
        t.astype(np.float64) for t in (trace.query(0), trace.key(0), trace.value(0))
    )
    key[..., 3] *= 40  # an outlier channel takes all codes of a token's scale
    codes = np.rint(key / np.abs(key).max(axis=1, keepdims=True) * 31)
    stored = codes * np.abs(key).max(axis=1, keepdims=True) / 31
    policy = Policy.model_validate({"quantization": wide | {"key_scale": "per_channel"}})
    attend = policy_attention(
        policy, ModelShape(1, len(query), len(key), key.shape[2], 64), 32, causal=True
    )
    got = attend(0, *(t.astype(np.float32) for t in (query, key, value)), np.arange(32))
    dense = dense_attention(trace.scale, True)
    low = np.abs(value).max(axis=2, keepdims=True) / 2047
    want = dense(0, query, stored, np.rint(value / low) * low, np.arange(32))
    np.testing.assert_allclose(got, want, atol=1e-4)
    exact = dense(0, query, key, value, np.arange(32))
    by_token = policy_attention(
        Policy.model_validate({"quantization": wide}),
        ModelShape(1, len(query), len(key), key.shape[2], 64), 32, causal=True,
    )(0, *(t.astype(np.float32) for t in (query, key, value)), np.arange(32))  # fmt: skip
    assert np.abs(got - exact).mean() < 0.5 * np.abs(by_token - exact).mean()


def test_the_datapath_multiplies_the_query_with_the_scales_of_channels() -> None:
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(4, 5, 8)), *rng.normal(size=(2, 2, 9, 8))
    key[..., 2] *= 30
    policy = Policy.model_validate(
        {"quantization": {"kind": "static", "key_bits": 8, "key_scale": "per_channel"}}
    )
    found = operands(query, key, value, policy)
    steps = np.abs(key).max(axis=1, keepdims=True) / 127
    stored = np.rint(key / steps) * steps
    scores = found.query @ np.repeat(found.key_both, 2, axis=0).transpose(0, 2, 1)
    scores = scores * found.query_step * np.asarray(found.key_step).max()
    want = query @ np.repeat(stored, 2, axis=0).transpose(0, 2, 1)
    np.testing.assert_allclose(scores, want, atol=2e-3 * np.abs(want).max())


@pytest.mark.parametrize("prompt", [0, 12])
@pytest.mark.parametrize("kind", ["h2o", "knorm", "keydiff"])
def test_heads_may_share_what_a_layer_keeps(kind: str, prompt: int) -> None:
    """A cache of seven keys a head, and two at least; step by step."""
    at = sequence(3, tokens=TOKENS, prompt=prompt, dim=DIM)
    key = at.key[0]
    rule = {"kind": kind, "budget_tokens": 7, "head_floor": 0.3, "share": "kv_head"}
    kept = at.decide(rule)[0, ::GROUP]
    recent = 3 if kind == "h2o" else 1
    caches: list[list[int]] = [[], []]
    received = np.zeros((KV_HEADS, TOKENS))
    sizes = set()
    unit = key / np.linalg.norm(key, axis=2, keepdims=True)
    for i in range(TOKENS):
        for cache in caches:
            cache.append(i)
        score: dict[tuple[int, int], float] = {}
        for kv, cache in enumerate(caches):
            anchor = unit[kv, cache].mean(axis=0)
            for j in cache:
                score[kv, j] = {
                    "h2o": received[kv, j],
                    "knorm": -np.linalg.norm(key[kv, j]),
                    "keydiff": -unit[kv, j] @ anchor / np.linalg.norm(anchor),
                }[kind]
        while i >= prompt and sum(map(len, caches)) > 2 * 7:
            free = [at for at in score if at[1] <= i - recent and len(caches[at[0]]) > 2]
            worst = min((at for at in free if at[1] in caches[at[0]]), key=score.__getitem__)
            caches[worst[0]].remove(worst[1])
        sizes.add(len(caches[0]) - len(caches[1]))
        for kv, cache in enumerate(caches):
            assert np.flatnonzero(kept[kv, i]).tolist() == cache, (kv, i)
            for head in range(kv * GROUP, (kv + 1) * GROUP):
                weights = np.exp(at.scale * key[kv, cache] @ at.query[0][head, i])
                received[kv, cache] += weights / weights.sum()
    assert sizes > {0}


def test_rows_may_be_attended_one_by_one() -> None:
    rng = np.random.default_rng(3)
    query, key, value = tensors()
    first, both = rng.normal(size=(2, HEADS, TOKENS, TOKENS))
    policy = load_policy("streaming-llm")
    selector = selector_for(policy, Shape(4, HEADS, KV_HEADS, DIM, TOKENS, 0))
    found = []
    for parts in ([slice(None)], [slice(row, row + 1) for row in range(TOKENS)]):
        scores = first.copy()
        block = Block(
            0, np.arange(TOKENS), query, key, value, scores, both.copy(), 0.3, True, 1.0
        )  # fmt: skip
        decision = Decision.empty(block, KV_HEADS)
        decision.kept[:] = np.tri(TOKENS, dtype=np.bool_) & ~np.tri(TOKENS, k=-8, dtype=np.bool_)
        for rows in parts:
            selector.attend(block, decision, rows)
        np.testing.assert_allclose(block.scores.sum(axis=2), 1.0)
        found.append((block.scores, decision.refetched))
    (whole, refetched), (by_row, refetched_by_row) = found
    assert np.array_equal(whole, by_row)
    assert np.array_equal(refetched, refetched_by_row)
    assert 0 < refetched.mean() < 1
