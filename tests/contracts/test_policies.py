"""The contract of every token-selection policy of the family, over a trace and inside a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accelsim.configs import preset_names
from accelsim.errors import ConfigError, SimulationError, TraceError
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import policy_attention
from accelsim.policies import Budgeted, Needs, Policy, applicable, load_policy, load_policy_spec
from accelsim.traces import AttentionTrace, MemoryTensors, synthetic_trace
from accelsim.traces.capture import ModelShape

SHAPE: dict[str, Any] = {"num_layers": 4, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 8}
DECODER = synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=24, **SHAPE)
ENCODER = synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=0, causal=False, **SHAPE)
FAMILY = [n for n in preset_names("policies") if load_policy(n).selection is not None]
CACHE = [n for n in FAMILY if applicable(load_policy(n), DECODER)] + ["kivi-4"]

STREAM = synthetic_trace(seed=4, prefill_tokens=0, decode_tokens=64, **SHAPE)


def with_scale(spec: str) -> str:
    """A scale for each token: one of a whole text knows what comes later."""
    return spec + ("," if ":" in spec else ":") + "quantization.scale=per_token"


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
        assert (w["write_back_bytes"].sum() > 0) == needs.write_backs or needs.merges
        assert (w["metadata_bytes"].sum() > 0) == needs.metadata
        assert (w["score_updates"].sum() > 0) == needs.updates
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


CASCADES = [
    f"{name}:{part}.accumulate={reading}"
    for reading in ("steps", "layers")
    for name, part in (
        ("spatten-tokens", "tokens"),
        ("spatten-tokens-paper-rule", "tokens"),
        ("spatten-heads", "heads"),
        ("spatten-full", f"heads.accumulate={reading},tokens"),
        ("spatten-pruned", f"values.min_keys=9,heads.accumulate={reading},tokens"),
        ("spatten-pruned", "tokens.permanent=false,heads=none,tokens.per_query=true,tokens"),
    )
]


def attend_in_a_model(policy: Policy, trace: AttentionTrace) -> tuple[Any, dict[Any, list[int]]]:
    """Run the attention of a model on a trace; also the kept keys by step, layer and KV head."""
    shape = ModelShape(4, 6, 2, 8, 512)
    attend = policy_attention(
        policy, shape, trace.tokens, causal=True, prompt_tokens=trace.prefill_tokens
    )
    found: dict[Any, Any] = {}
    run = attend._selector.run

    def watched(block: Any) -> Any:
        decision = run(block)
        grouped = decision.kept.reshape(2, 3, *decision.kept.shape[1:]).any(axis=1)
        for head, masks in enumerate(grouped):
            for position, mask in zip(block.positions.tolist(), masks, strict=True):
                place = max(position - trace.prefill_tokens + 1, 0), block.layer, head
                found.setdefault(place, set()).update(np.flatnonzero(mask).tolist())
        return decision

    attend._selector.run = watched
    every, prompt = np.arange(trace.tokens), trace.prefill_tokens
    cuts = [prompt, *range(prompt + 1, trace.tokens)] if attend.by_step else []
    for positions in np.split(every, cuts):
        for layer in range(4 if len(positions) else 0):
            end = int(positions[-1]) + 1
            key, value = trace.key(layer)[:, :end], trace.value(layer)[:, :end]
            attend(layer, trace.query(layer)[:, positions], key, value, positions)
    return attend, {place: sorted(tokens) for place, tokens in found.items() if tokens}


@pytest.mark.parametrize("trace", [DECODER, STREAM], ids=["prompt", "stream"])
@pytest.mark.parametrize("spec", [*CACHE, *CASCADES])
def test_closed_loop_decides_as_the_open_loop(spec: str, trace: AttentionTrace) -> None:
    if spec == "snapkv" and trace is STREAM:
        pytest.skip("selects after a prompt")
    policy = load_policy_spec(spec if spec == "kivi-4" else with_scale(spec))
    attend, decided = attend_in_a_model(policy, trace)
    run = run_policy(trace, policy)
    assert decided == kept(trace, policy)
    w = run.workload
    assert attend.kept_keys == int(w["query_keys"].sum())
    decode = w.select(w["step"] > 0)
    written = int(decode["write_back_bytes"].sum())
    assert attend.dram_bytes == sum(decode.policy_bytes().values()) + written
    assert attend.visible_keys == 4 * 6 * trace.tokens * (trace.tokens + 1) // 2


def test_the_readings_of_the_cascade_differ() -> None:
    by_step, by_layer = (
        run_policy(DECODER, load_policy_spec(f"spatten-tokens:tokens.accumulate={reading}"))
        for reading in ("steps", "layers")
    )
    # By step, what left the prompt has no query any more.
    assert int(by_step.workload["query_keys"].sum()) == 40668
    assert int(by_layer.workload["query_keys"].sum()) == 43260
    assert by_step.accuracy["kept_query_fraction"] < 1 == by_layer.accuracy["kept_query_fraction"]
    assert by_layer.workload["select_passes"].sum() > 0


def test_a_cascade_by_step_refuses_many_tokens_at_once() -> None:
    attend = policy_attention(
        load_policy("spatten-tokens"), ModelShape(4, 6, 2, 8, 512), 64, causal=True
    )
    tensors = DECODER.query(0), DECODER.key(0), DECODER.value(0)
    with pytest.raises(SimulationError, match="token by token"):
        attend(0, *tensors, np.arange(DECODER.tokens))


@pytest.mark.parametrize("name", [*FAMILY, "kivi-4"])
def test_what_does_not_apply_is_refused(name: str) -> None:
    policy = load_policy(name)
    other = ENCODER if trace_of(policy) is DECODER else DECODER
    with pytest.raises(TraceError, match="expected"):
        run_policy(other, policy)


@pytest.mark.parametrize(
    ("name", "need"),
    [
        ("h2o", "updates"),
        ("quest", "write_backs"),
        ("ems", "updates, merges"),
    ],
)
def test_a_rule_that_asks_for_more_than_it_declares_is_refused(
    name: str, need: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(name)
    monkeypatch.setattr(type(policy.selection), "needs", Needs(selection="every_step"))
    with pytest.raises(ConfigError, match=f"selection '{name}' asks for {need}; expected"):
        run_policy(DECODER, policy)
