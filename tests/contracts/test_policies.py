"""The contract of every token-selection policy of the family, over a trace and inside a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accelsim.configs import preset_names
from accelsim.errors import TraceError
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import policy_attention
from accelsim.policies import Budgeted, Policy, applicable, load_policy
from accelsim.traces import AttentionTrace, MemoryTensors, synthetic_trace
from accelsim.traces.capture import ModelShape

SHAPE: dict[str, Any] = {"num_layers": 4, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 8}
DECODER = synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=24, **SHAPE)
ENCODER = synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=0, causal=False, **SHAPE)
FAMILY = [n for n in preset_names("policies") if load_policy(n).selection is not None]
CACHE = [n for n in FAMILY if applicable(load_policy(n), DECODER)] + ["kivi-4"]

PER_TOKEN: dict[str, object] = {"quantization.kind": "static", "quantization.scale": "per_token"}


def trace_of(policy: Policy) -> AttentionTrace:
    return DECODER if applicable(policy, DECODER) else ENCODER


def kept(trace: AttentionTrace, policy: Policy) -> dict[tuple[int, int, int], list[int]]:
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    places = zip(w["step"].tolist(), w["layer"].tolist(), w["head"].tolist(), strict=True)
    return {p: k.tolist() for p, k in zip(places, w.key_indices, strict=True)}


@pytest.mark.parametrize("name", [*FAMILY, "kivi-4"])
def test_bytes_equal_masks_and_rows_are_complete(name: str) -> None:
    policy = load_policy(name)
    trace = trace_of(policy)
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    assert w.value_indices is not None
    assert w.rows == (trace.decode_tokens + 1) * trace.num_layers * trace.num_kv_heads
    place = [tuple(int(w[c][i]) for c in ("step", "layer", "head")) for i in range(w.rows)]
    assert place == sorted(place)
    for i in range(w.rows):
        keys = w.key_indices[i]
        assert len(keys) == w["keys"][i]
        assert len(w.value_indices[i]) == w["values"][i]
        assert set(w.value_indices[i].tolist()) <= set(keys.tolist())
        assert (np.diff(keys) > 0).all()
        assert w["key_runs"][i] == len(np.split(keys, np.flatnonzero(np.diff(keys) > 1) + 1))
        assert len(keys) <= w["query_keys"][i] <= w["queries"][i] * len(keys)
    bits = w["key_bits"][0]
    expected = sum(len(k) for k in w.key_indices) * int(bits) * trace.head_dim // 8
    assert w.policy_bytes()["key_msb"] == expected
    needs = None if policy.selection is None else policy.selection.needs
    if needs is not None:
        assert (w["write_back_bytes"].sum() > 0) == (
            needs.writes_back or needs.metadata != "none"
        ) or policy.selection.kind == "ems"
        assert (w["metadata_bytes"].sum() > 0) == (needs.metadata != "none")
        assert (w["select_size"].max() > 0) == (needs.selection != "none")


@pytest.mark.parametrize("name", CACHE)
def test_removal_is_permanent_and_budgets_hold(name: str) -> None:
    policy = load_policy(name)
    rule = policy.selection
    rows = kept(DECODER, policy)
    group = DECODER.group
    permanent = rule is not None and rule.needs.permanent
    for layer in range(DECODER.num_layers):
        for head in range(DECODER.num_kv_heads):
            gone: set[int] = set()
            for step in range(1, DECODER.decode_tokens + 1):
                context = DECODER.prefill_tokens + step
                keys = set(rows[step, layer, head])
                assert context - 1 in keys
                assert max(keys) < context
                if permanent:
                    assert not keys & gone, "a removed token came back"
                    gone |= set(range(context)) - keys
                if isinstance(rule, Budgeted) and rule.kind not in ("snapkv", "quest"):
                    alone = rule.share == "query_head"
                    limit = rule.budget(context) * (group if alone else 1)
                    assert len(keys) <= max(limit, 8 * group if rule.kind == "dhsa" else 1)
                    if not alone and rule.kind not in ("dhsa",):
                        assert len(keys) <= rule.budget(context)


@pytest.mark.parametrize("name", CACHE)
def test_later_tokens_change_no_earlier_decision(name: str) -> None:
    policy = load_policy(name, PER_TOKEN if name != "kivi-4" else None)
    cut = DECODER.prefill_tokens + 10
    tensors = {}
    rng = np.random.default_rng(1)
    for key in DECODER.tensors.names():
        tensor = DECODER.tensors.read(key).copy()
        if key != "token_ids":
            tensor[:, cut:] = rng.normal(size=tensor[:, cut:].shape)
        tensors[key] = tensor
    changed = kept(replace(DECODER, tensors=MemoryTensors(tensors)), policy)
    rows = kept(DECODER, policy)
    early = [p for p in rows if p[0] <= 10]
    assert {p: rows[p] for p in early} == {p: changed[p] for p in early}


@pytest.mark.parametrize("name", FAMILY)
def test_same_input_same_decisions_and_pivots_do_not_matter(name: str) -> None:
    policy = load_policy(name)
    trace = trace_of(policy)
    one, two, other = (run_policy(trace, policy, seed=s) for s in (0, 0, 5))
    assert one.accuracy == two.accuracy == other.accuracy
    assert all((one.workload[c] == two.workload[c]).all() for c in one.workload.columns)
    assert (one.workload["keys"] == other.workload["keys"]).all()


@pytest.mark.parametrize("name", ["h2o", "scissorhands", "snapkv", "quest", "dhsa"])
def test_grouped_heads_pay_for_the_union(name: str) -> None:
    w = run_policy(DECODER, load_policy(name)).workload
    decode = w["step"] > 0
    assert (w["queries"][decode] == DECODER.group).all()
    assert (w["keys"] * DECODER.group >= w["query_keys"])[decode].all()
    assert (w["keys"] * DECODER.group > w["query_keys"])[decode].any()


@pytest.mark.parametrize("name", CACHE)
def test_closed_loop_decides_as_the_open_loop(name: str) -> None:
    policy = load_policy(name, PER_TOKEN if name != "kivi-4" else None)
    shape = ModelShape(4, 6, 2, 8, 512)
    attend = policy_attention(
        policy, shape, DECODER.tokens, causal=True, prompt_tokens=DECODER.prefill_tokens
    )
    positions = np.arange(DECODER.tokens)
    for layer in range(4):
        attend(layer, DECODER.query(layer), DECODER.key(layer), DECODER.value(layer), positions)
    run = run_policy(DECODER, policy)
    w = run.workload
    assert attend.kept_keys == int(w["query_keys"].sum())
    decode = {c: w[c][w["step"] > 0].astype(np.int64) for c in w.columns}
    vectors = decode["keys"] * decode["key_bits"] + decode["values"] * decode["value_bits"]
    beside = ("metadata_bytes", "residual_bytes", "write_back_bytes")
    expected = int(vectors.sum()) * w.head_dim // 8 + sum(int(decode[c].sum()) for c in beside)
    assert attend.dram_bytes == expected
    assert attend.visible_keys == 4 * 6 * DECODER.tokens * (DECODER.tokens + 1) // 2


@pytest.mark.parametrize("name", [*FAMILY, "kivi-4"])
def test_what_does_not_apply_is_refused(name: str) -> None:
    policy = load_policy(name)
    other = ENCODER if trace_of(policy) is DECODER else DECODER
    with pytest.raises(TraceError, match="expected"):
        run_policy(other, policy)
