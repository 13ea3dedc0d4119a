"""Parts of a policy by stage: how a file is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import parse_override, preset_names, validate
from accelsim.errors import ConfigError
from accelsim.policies import (
    STAGES,
    Policy,
    ProgressiveQuantization,
    StageParts,
    StaticQuantization,
    load_policy,
    load_policy_spec,
)
from accelsim.policies._stages import PARTS
from accelsim.policies.cascade import StepCascade
from accelsim.policies.selector import Shape


def parts(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in PARTS}


def test_spatten_is_static_in_a_prompt_and_progressive_after_it() -> None:
    for name in ("spatten-full", "spatten-full-paper-rule", *progressive_presets()):
        policy = load_policy(name)
        prompt, decode = (policy.at_stage(stage).quantization for stage in STAGES)
        assert isinstance(prompt, StaticQuantization)
        assert isinstance(decode, ProgressiveQuantization)
        # A prompt reads both planes of a key, and the values as they are stored.
        assert prompt.key_bits == decode.msb_bits + decode.lsb_bits
        assert prompt.value_bits == decode.fetched_value_bits
        assert prompt.scale == decode.scale
        assert any("static" in text for text in policy.assumptions)


def progressive_presets() -> list[str]:
    return [name for name in preset_names("policies") if name.startswith("progressive-")]


def test_every_progressive_preset_says_what_a_prompt_does() -> None:
    kinds = {n: load_policy(n).quantization.kind for n in preset_names("policies")}
    for name in (n for n, kind in kinds.items() if kind == "progressive"):
        assert load_policy(name).at_stage("prefill").quantization.kind == "static"


def test_a_stage_changes_single_keys() -> None:
    policy = load_policy_spec(
        "spatten-full:decode.quantization.threshold=0.2,decode.tokens.protect.first=9"
    )
    decode = policy.at_stage("decode")
    assert isinstance(decode.quantization, ProgressiveQuantization)
    assert decode.quantization.threshold == 0.2
    assert decode.quantization.msb_bits == 8
    assert decode.tokens is not None
    assert policy.tokens is not None
    assert (decode.tokens.protect.first, decode.tokens.protect.recent) == (9, 32)
    assert decode.tokens.mean_keep == policy.tokens.mean_keep
    prompt = policy.at_stage("prefill")
    assert prompt.tokens == policy.tokens
    assert prompt.values == policy.values


@pytest.mark.parametrize("off", ["none", "null"])
def test_parts_are_switched_off(off: str, tmp_path: Path) -> None:
    policy = load_policy_spec(f"spatten-full:decode.tokens={off},prefill.quantization={off}")
    assert policy.at_stage("decode").tokens is None
    assert policy.at_stage("prefill").tokens == policy.tokens
    assert policy.at_stage("prefill").quantization == StaticQuantization()
    path = tmp_path / "p.yaml"
    path.write_text(f"extends: spatten-full\ntokens: {off}\nquantization: {off}\nprefill: null\n")
    common = load_policy(str(path))
    assert common.tokens is None
    assert common.quantization == StaticQuantization()
    assert common.at_stage("prefill") == common


def test_another_kind_of_quantization_keeps_the_fields_that_both_have() -> None:
    policy = load_policy_spec("spatten-full:quantization.scale=per_token")
    assert policy.at_stage("prefill").quantization.scale == "per_token"  # type: ignore[union-attr]
    by_layer = Policy.model_validate(
        {
            "quantization": {
                "kind": "progressive", "msb_bits_by_layer": [8, 6], "value_bits_by_layer": [8, 6],
            },
            "prefill": {"quantization": {"kind": "static", "key_bits_by_layer": [12, 10]}},
        }
    )  # fmt: skip
    widths = [by_layer.at_stage("prefill").at_layer(i, 2).fetched_bits for i in range(2)]
    assert widths == [(12, 0, 8), (10, 0, 6)]
    widths = [by_layer.at_stage("decode").at_layer(i, 2).fetched_bits for i in range(2)]
    assert widths == [(8, 4, 8), (6, 4, 6)]


def test_layers_and_stages_commute() -> None:
    policy = Policy.model_validate(
        {
            "values": {"keep_by_layer": [0.5, 0.25], "min_keys": 3},
            "decode": {"values": {"keep_by_layer": [0.75, 1.0]}},
            "quantization": {"kind": "static", "key_bits_by_layer": [8, 6]},
        }
    )
    for layer in range(2):
        for stage in STAGES:
            one = policy.at_layer(layer, 2).at_stage(stage)
            assert parts(one) == parts(policy.at_stage(stage).at_layer(layer, 2))
            assert one.values is not None
            assert one.values.min_keys == 3
    assert policy.at_stage("decode").at_layer(0, 2).values.budget(8) == 6  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="keep_by_layer"):
        policy.at_layer(0, 3)


CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "tokens.mean_keep": st.sampled_from([0.3, 0.6, 1.0]),
    "tokens.min_keys": st.integers(0, 99),
    "tokens.protect.recent": st.integers(0, 9),
    "heads.slope": st.sampled_from([0.0, 0.1]),
    "values.keep": st.sampled_from([0.2, 1.0]),
    "values.min_keys": st.integers(0, 99),
    "quantization.threshold": st.sampled_from([0.0, 0.5]),
    "quantization.msb_bits": st.sampled_from([4, 6]),
    "tokens": st.just("none"),
    "values": st.sampled_from(["none", None]),
}


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(CHANGES)), st.none(), max_size=4),
    st.data(),
    st.sampled_from(STAGES),
)
def test_a_stage_is_the_policy_with_these_changes_in_common(
    chosen: dict[str, None], data: st.DataObject, stage: str
) -> None:
    whole = {key for key in chosen if "." not in key}
    keys = [key for key in chosen if key in whole or key.split(".")[0] not in whole]
    changes = {key: data.draw(CHANGES[key]) for key in keys}
    common = load_policy("spatten-full", {"prefill": {}, **changes})
    dotted = {f"{stage}.{key}": value for key, value in changes.items()}
    staged = load_policy("spatten-full", {"prefill": {}, **dotted})
    untouched = load_policy("spatten-full", {"prefill": {}})
    for each in STAGES:
        assert parts(staged.at_stage(each)) == parts(common if each == stage else untouched)
    # What is written about a run says the same when it is read.
    text = json.dumps(staged.model_dump(mode="json"))
    again = validate(Policy, json.loads(text), "text")
    assert again == staged
    assert json.dumps(again.model_dump(mode="json")) == text
    brief = staged.model_dump(mode="json", exclude_none=True)
    assert validate(Policy, brief, "text") == staged


def test_stages_can_be_given_as_objects() -> None:
    tokens = load_policy("spatten-tokens").tokens
    policy = Policy(tokens=tokens, decode=StageParts(tokens=None))
    assert policy.at_stage("decode").tokens is None
    assert policy.at_stage("prefill").tokens == tokens


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("spatten-full:decoding.values=none", "unknown key 'decoding'; did you mean 'decode'?"),
        ("spatten-full:prefil.values=none", "did you mean 'prefill'?"),
        ("spatten-full:decode.token=none", "unknown key 'decode.token'; did you mean 'tokens'?"),
        ("spatten-full:decode.decode.tokens=none", "unknown key 'decode.decode'"),
        ("spatten-full:decode=3", "key 'decode'"),
        ("spatten-full:decode.values.keep=2", "key 'decode.values.keep': expected less than"),
        ("spatten-full:decode.tokens.min_keys=-1", "decode.tokens.min_keys': expected greater"),
        ("spatten-full:heads.min_keys=1.5", "heads.min_keys': expected a valid integer"),
        ("spatten-full:values.min_keys=-1", "values.min_keys': expected greater"),
        ("h2o:selection.min_keys=-1", "min_keys': expected greater"),
        ("h2o:prefill.selection.budget_fraction=0.2", "leaves a prompt dense"),
        ("h2o:decode.tokens.mean_keep=0.5", "decode: give 'tokens' or 'selection'"),
        ("dhsa:prefill={selection: none; tokens: {mean_keep: 0.5}}", "goes on through both stages"),
        ("kivi-4:prefill={quantization: none; heads: {mean_keep: 0.5}}", "no 'kivi' cache"),
        ("dhsa:prefill={selection: {kind: quest; budget_tokens: 8; budget_fraction: null}}",
         "expected one kind in both stages"),
        ("ems:decode.quantization.kind=progressive", "decode: 'ems' merges stored vectors"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(spec: str, message: str) -> None:
    name, _, change = spec.partition(":")
    # A specification splits at commas; mappings are written with semicolons here.
    key, value = parse_override(change.replace(";", ","))
    with pytest.raises(ConfigError, match=f"{name}.yaml") as caught:
        load_policy(name, {key: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["tokens", "values"])
@settings(max_examples=30, deadline=None)
@given(least=st.integers(0, 60), count=st.integers(1, 60))
def test_budgets_below_min_keys_keep_everything(part: str, least: int, count: int) -> None:
    plain = load_policy("spatten-pruned")
    policy = load_policy("spatten-pruned", {f"{part}.min_keys": least})
    if part == "tokens":
        assert policy.tokens is not None
        assert plain.tokens is not None
        budgets = policy.tokens.budget(5, 6, count), plain.tokens.budget(5, 6, count)
    else:
        assert policy.values is not None
        assert plain.values is not None
        budgets = policy.values.budget(count), plain.values.budget(count)
    assert budgets[0] == (count if count < least else budgets[1])


@pytest.mark.parametrize(
    ("prompt", "tokens", "causal", "ranks"),
    [(8, 8, True, False), (8, 9, True, True), (0, 9, True, True), (0, 9, False, False)],
)
def test_a_prompt_is_added_up_where_a_later_stage_ranks_by_it(
    prompt: int, tokens: int, causal: bool, ranks: bool
) -> None:
    policy = Policy.model_validate({"tokens": {"mean_keep": 0.5}, "prefill": {"tokens": None}})
    cascade = StepCascade(policy, Shape(2, 4, 2, 8, tokens, prompt, causal))
    assert cascade.accumulates("prefill") == ranks
