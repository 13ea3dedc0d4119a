"""What stages and ``min_keys`` of a policy do to a run, open and closed loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import TraceError
from accelsim.functional import fixed_point, run_policy, verify_fixed_point
from accelsim.functional.closed_loop import policy_attention
from accelsim.policies import Policy, applicable, load_policy, load_policy_spec
from accelsim.policies.selector import Block, Shape, selector_for
from accelsim.traces import AttentionTrace, synthetic_trace
from accelsim.traces.capture import ModelShape
from accelsim.workloads import COLUMNS, Workload

SHAPE: dict[str, Any] = {"num_layers": 4, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 8}
DECODER = synthetic_trace(seed=5, prefill_tokens=40, decode_tokens=20, **SHAPE)
ENCODER = synthetic_trace(seed=5, prefill_tokens=40, decode_tokens=0, causal=False, **SHAPE)
CASCADE = "spatten-pruned:tokens.protect.recent=4,heads.mean_keep=0.6"


def run(policy: Policy | str, trace: AttentionTrace = DECODER) -> Workload:
    known = load_policy_spec(policy) if isinstance(policy, str) else policy
    return run_policy(trace, known).workload


def part(workload: Workload, stage: str) -> Workload:
    decoding = workload["step"] > 0
    return workload.select(decoding if stage == "decode" else ~decoding)


def same(one: Workload, two: Workload, *but: str) -> None:
    for name in COLUMNS:
        if name not in but:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    for name in ("key_indices", "value_indices"):
        pairs = zip(getattr(one, name), getattr(two, name), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    for name in ("position", "keys", "values", "refetch", "topk_passes", "topk_beats"):
        a, b = getattr(one.query_table, name), getattr(two.query_table, name)
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("name", ["h2o", "dhsa", "kivi-4", "dense"])
@settings(deadline=None, max_examples=15)
@given(
    prompt=st.sampled_from([0.25, 0.75, 1.0, None]),
    decode=st.sampled_from([0.5, 1.0, None]),
    bits=st.sampled_from([4, 8, None]),
)
def test_stages_that_do_not_touch_each_other(
    name: str, prompt: float | None, decode: float | None, bits: int | None
) -> None:
    # Values and widths leave no trace in later decisions.
    first: dict[str, object] = {"values": None if prompt is None else {"keep": prompt}}
    then: dict[str, object] = {"values": None if decode is None else {"keep": decode}}
    if bits is not None and name != "kivi-4":
        first["quantization"] = {"kind": "static", "key_bits": bits, "value_bits": bits}
    staged = run(load_policy(name, {"prefill": first, "decode": then}))
    alone = run(load_policy(name, {k: v for k, v in first.items() if v is not None}))
    same(part(staged, "prefill"), part(alone, "prefill"))
    if name != "h2o":  # what h2o accumulates in the prompt depends on the prompt's widths
        alone = run(load_policy(name, {k: v for k, v in then.items() if v is not None}))
        same(part(staged, "decode"), part(alone, "decode"))


def test_a_prompt_of_spatten_full_is_static() -> None:
    policy = load_policy("spatten-full")
    work = run(policy)
    prompt, decode = part(work, "prefill"), part(work, "decode")
    assert set(prompt["key_bits"]) == {12}
    assert set(decode["key_bits"]) == {8}
    assert set(prompt["key_lsb_bits"]) == {0}
    assert set(decode["key_lsb_bits"]) == {4}
    assert set(work["value_bits"]) == {8}
    assert not prompt["refetch_lsb"].any()
    harder = run_policy(DECODER, load_policy("progressive-8-4", {"quantization.threshold": 1.0}))
    assert part(harder.workload, "decode")["refetch_lsb"].all()
    assert not part(harder.workload, "prefill")["refetch_lsb"].any()
    # Of the rows that have an LSB plane at all.
    assert harder.accuracy["lsb_refetch_fraction"] == 1.0
    assert run_policy(ENCODER, policy).accuracy["lsb_refetch_fraction"] == 0.0


def test_tokens_of_one_stage_only() -> None:
    both = run(CASCADE)
    late = run(CASCADE + ",prefill.tokens=none")
    early = run(CASCADE + ",decode.tokens=none")
    prompt = part(late, "prefill")
    assert (prompt["keys"] == 40).all()
    assert not prompt["select_size"].any()
    assert part(late, "decode")["select_size"].any()
    assert (part(late, "decode")["keys"] < DECODER.prefill_tokens).any()
    # What the prompt removed stays away, and nothing more goes.
    same(part(early, "prefill"), part(both, "prefill"))
    decode = part(early, "decode")
    assert not decode["select_size"].any()
    prompt_rows = part(early, "prefill")
    assert early.key_indices is not None
    assert decode.key_indices is not None
    assert prompt_rows.key_indices is not None
    left = dict(zip(prompt_rows["layer"].tolist(), prompt_rows.key_indices, strict=True))
    for row in range(decode.rows):
        step, layer = int(decode["step"][row]), int(decode["layer"][row])
        expected = [*left[layer].tolist(), *range(40, 40 + step)]
        assert decode.key_indices[row].tolist() == expected
    # Importance is kept up for a later stage, and not for none.
    assert prompt["score_updates"].all()
    assert part(early, "prefill")["score_updates"].all()
    assert not decode["score_updates"].any()


def test_heads_of_one_stage_only() -> None:
    both = run(CASCADE)
    late = run(CASCADE + ",prefill.heads=none")
    early = run(CASCADE + ",decode.heads=none")
    full = SHAPE["num_query_heads"]

    def heads(work: Workload) -> list[int]:
        per_query = work["queries"] // np.where(work["step"] > 0, 1, work["keys"])
        steps = work["step"] * SHAPE["num_layers"] + work["layer"]
        return [int(per_query[steps == s].sum()) for s in np.unique(steps)]

    assert heads(part(late, "prefill")) == [full] * 4
    assert min(heads(part(late, "decode"))) < full
    same(part(early, "prefill"), part(both, "prefill"))
    # Selected once: a head that the prompt removed does not come back.
    assert heads(part(early, "decode")) == heads(part(both, "decode"))


def test_an_encoder_is_prefill() -> None:
    plain = run(CASCADE, ENCODER)
    same(run(CASCADE + ",decode.tokens=none,decode.values.keep=0.9", ENCODER), plain)
    off = run(CASCADE + ",prefill.tokens=none,prefill.heads=none,prefill.values=none", ENCODER)
    same(off, run("dense", ENCODER))
    cache: dict[str, Any] = {"selection": {"kind": "h2o", "budget_tokens": 9}}
    decode_only = Policy.model_validate({"decode": cache})
    assert applicable(decode_only, ENCODER)
    same(run(decode_only, ENCODER), run("dense", ENCODER))
    with pytest.raises(TraceError, match="decode tokens"):
        run_policy(ENCODER, Policy.model_validate({"prefill": cache}))


def test_a_selection_of_one_stage_only() -> None:
    dense = run("dense")
    for name in ("h2o", "snapkv", "tova", "quest", "scissorhands", "streaming-llm"):
        work = run(name)
        same(run(f"{name}:prefill.selection=none"), work)
        off = run(f"{name}:decode.selection=none")
        same(off, dense)
    dhsa = run("dhsa")
    late = run("dhsa:prefill.selection=none")
    same(part(late, "decode"), part(dhsa, "decode"))
    same(part(late, "prefill"), part(dense, "prefill"), "write_back_bytes")
    # The means of the prompt's chunks are needed in decode.
    assert (part(late, "prefill")["write_back_bytes"] > 0).all()
    early = run("dhsa:decode.selection=none")
    same(part(early, "prefill"), part(dhsa, "prefill"))
    same(part(early, "decode"), part(dense, "decode"))
    wide = run("dhsa:prefill.selection.budget_fraction=0.9")
    same(part(wide, "decode"), part(dhsa, "decode"))
    assert part(wide, "prefill")["query_keys"].sum() > part(dhsa, "prefill")["query_keys"].sum()


STAGED = [
    "dhsa:prefill.selection=none",
    "dhsa:decode.selection=none,prefill.values.keep=0.5",
    "h2o:decode.values.keep=0.4,prefill.quantization.key_bits=6,quantization.scale=per_token",
    "dhsa:selection.min_keys=50",
    "h2o:selection.min_keys=50,values.keep=0.5,values.min_keys=15",
    "quest:selection.min_keys=45",
    "tova:selection.min_keys=55",
    "ems:selection.min_keys=52",
    "snapkv:selection.min_keys=41",
    "scissorhands:selection.min_keys=47",
    "streaming-llm:selection.min_keys=51",
]


@pytest.mark.parametrize("spec", STAGED)
def test_closed_loop_decides_as_the_open_loop(spec: str) -> None:
    policy = load_policy_spec(spec)
    attend = policy_attention(
        policy, ModelShape(4, 6, 2, 8, 512), DECODER.tokens, causal=True,
        prompt_tokens=DECODER.prefill_tokens,
    )  # fmt: skip
    for layer in range(4):
        attend(layer, DECODER.query(layer), DECODER.key(layer), DECODER.value(layer),
               np.arange(DECODER.tokens))  # fmt: skip
    work = run(policy)
    assert attend.kept_keys == int(work["query_keys"].sum())
    decode = {c: part(work, "decode")[c].astype(np.int64) for c in work.columns}
    vectors = decode["keys"] * decode["key_bits"] + decode["values"] * decode["value_bits"]
    beside = ("metadata_bytes", "residual_bytes", "write_back_bytes")
    expected = int(vectors.sum()) * work.head_dim // 8 + sum(int(decode[c].sum()) for c in beside)
    assert attend.dram_bytes == expected


@pytest.mark.parametrize(
    "name", ["h2o", "tova", "ems", "quest", "dhsa", "scissorhands", "streaming-llm"]
)
@pytest.mark.parametrize("least", [41, 50, 61])
def test_a_selection_waits_for_min_keys(name: str, least: int) -> None:
    work = run(f"{name}:selection.min_keys={least}")
    waiting = work["context_tokens"] < least
    assert (work["keys"] == work["context_tokens"])[waiting].all()
    for column in ("select_size", "select_passes", "select_elements", "select_beats",
                   "metadata_bytes"):  # fmt: skip
        assert not work[column][waiting].any(), column
    acting = ~waiting & (work["step"] > 0) & (work["layer"] >= 2)
    assert acting.any() == (least < 61)
    assert (work["query_keys"] < work["queries"] * work["context_tokens"])[acting].all()


def test_a_selection_after_the_prompt_waits_for_a_long_prompt() -> None:
    same(run("snapkv:selection.min_keys=40"), run("snapkv"))
    same(run("snapkv:selection.min_keys=41"), run("dense"))
    encoder = load_policy("zero-tprune")
    assert encoder.selection is not None
    least = load_policy("zero-tprune", {"selection.min_keys": 41})
    same(run(least, ENCODER), run("dense", ENCODER))
    same(
        run(load_policy("zero-tprune", {"selection.min_keys": 20}), ENCODER), run(encoder, ENCODER)
    )


@pytest.mark.parametrize("name", ["h2o", "tova", "ems", "quest", "dhsa", "scissorhands", "snapkv"])
def test_a_budget_that_holds_everything_selects_nothing(name: str) -> None:
    for tokens, fraction in ((60, "null"), ("null", 1.0)):
        budget = f"selection.budget_tokens={tokens},selection.budget_fraction={fraction}"
        work = run(f"{name}:{budget}")
        assert (work["keys"] == work["context_tokens"]).all()
        for column in ("select_size", "select_target", "select_passes", "select_elements",
                       "select_beats", "topk_passes", "metadata_bytes"):  # fmt: skip
            assert not work[column].any(), column


@pytest.mark.parametrize("least", [40, 41, 50, 61])
def test_tokens_wait_for_min_keys(least: int) -> None:
    work = run(f"{CASCADE},tokens.min_keys={least}")
    waiting = work["context_tokens"] < least
    assert (work["keys"] == work["context_tokens"])[waiting].all()
    assert not work["select_size"][waiting].any()
    if not waiting.all():
        first = int(work["context_tokens"][~waiting].min())
        assert first == least
        late = (work["context_tokens"] == first) & (work["layer"] == 3)
        assert (work["keys"] < work["context_tokens"])[late].all()
    if least == 40:
        same(work, run(CASCADE))


@pytest.mark.parametrize("least", [40, 50, 61])
def test_heads_wait_for_min_keys(least: int) -> None:
    work = run(f"{CASCADE},tokens=none,heads.min_keys={least}")
    waiting = work["context_tokens"] < least
    heads = work["queries"] // np.where(work["step"] > 0, 1, work["context_tokens"])
    last = work["layer"] == 3
    count = [int(heads[(work["step"] == s) & last].sum()) for s in np.unique(work["step"])]
    for step, total in enumerate(count):
        pruned = 40 + step >= least
        assert (total < SHAPE["num_query_heads"]) == pruned
    assert waiting.all() == (least == 61)


@settings(deadline=None, max_examples=20)
@given(least=st.integers(0, 70), seed=st.integers(0, 100))
def test_values_wait_for_min_keys(least: int, seed: int) -> None:
    trace = synthetic_trace(
        seed=seed, num_layers=2, num_query_heads=2, num_kv_heads=1, head_dim=4, prefill_tokens=40,
        decode_tokens=20,
    )  # fmt: skip
    table = run(f"spatten-values:values.keep=0.5,values.min_keys={least}", trace).query_table
    assert table is not None
    few = table.keys < least
    assert np.array_equal(table.values[few], table.keys[few])
    assert not table.topk_passes[few].any()
    assert not table.topk_beats[few].any()
    assert np.array_equal(table.values[~few], -(-table.keys[~few] // 2))
    assert (table.topk_passes[~few & (table.keys > 1)] > 0).all()


def outputs(spec: str) -> np.ndarray:
    """Output of the first layer in a closed loop, [heads, tokens, head_dim]."""
    attend = policy_attention(
        load_policy_spec(spec), ModelShape(4, 6, 2, 8, 512), DECODER.tokens, causal=True,
        prompt_tokens=40,
    )  # fmt: skip
    return attend(0, DECODER.query(0), DECODER.key(0), DECODER.value(0), np.arange(DECODER.tokens))


def test_a_closed_loop_reads_values_and_widths_by_stage() -> None:
    first = "values.keep=0.2,quantization.key_bits=4"
    then = "values.keep=0.6,quantization.key_bits=6"
    staged = outputs(
        "dense:" + ",".join(f"prefill.{c}" for c in first.split(","))
        + "," + ",".join(f"decode.{c}" for c in then.split(","))
    )  # fmt: skip
    assert np.array_equal(staged[:, :40], outputs(f"dense:{first}")[:, :40])
    assert np.array_equal(staged[:, 40:], outputs(f"dense:{then}")[:, 40:])
    assert not np.array_equal(staged[:, :40], outputs(f"dense:{then}")[:, :40])


def streamed(policy: Policy, prompt: int) -> np.ndarray:
    """Keys kept by each query head, [layers, heads, positions], of the cascade in a closed loop."""
    shape = Shape(4, 6, 2, 8, DECODER.tokens, prompt)
    selector = selector_for(policy, shape)
    counts = np.zeros((4, 6, DECODER.tokens), dtype=int)
    for layer in range(4):
        for rows in (np.arange(prompt), np.arange(prompt, DECODER.tokens)):
            if not len(rows):
                continue
            context = int(rows[-1]) + 1
            query = DECODER.query(layer)[:, rows].astype(np.float64)
            key, value = (
                t[:, :context].astype(np.float64)
                for t in (DECODER.key(layer), DECODER.value(layer))
            )
            scores = np.ascontiguousarray(query @ np.repeat(key, 3, axis=0).transpose(0, 2, 1))
            block = Block(layer, rows, query, key, value, scores, scores, 0.0, True, 1.0)
            assert (selector.rows(layer, rows) == rows).all()
            kept = selector.run(block).kept
            selector.learn(block, scores @ np.repeat(value, 3, axis=0))
            counts[layer][:, rows] = kept.sum(axis=2)
    return counts


def test_a_cascade_by_layer_follows_stages_and_min_keys() -> None:
    seen = np.arange(DECODER.tokens) + 1
    by_layer = f"{CASCADE},tokens.accumulate=layers,heads.accumulate=layers"
    plain = streamed(load_policy_spec(by_layer), 0)
    assert (plain[3][:, 30:] < seen[30:]).all()
    least = streamed(load_policy_spec(f"{by_layer},tokens.min_keys=33,heads.min_keys=45"), 0)
    assert (least[:, :, :32] == seen[:32]).all()
    last = least[3]
    assert (last[:, 32:44] < seen[32:44]).all()
    assert (last[:, 32:44] > 0).all()
    assert (np.count_nonzero(last[:, 44:], axis=0) < 6).all()
    late = streamed(load_policy_spec(f"{by_layer},prefill.tokens=none,prefill.heads=none"), 40)
    assert (late[:, :, :40] == seen[:40]).all()
    assert (late[3][:, 40:] < seen[40:]).all()
    early = streamed(load_policy_spec(f"{by_layer},decode.tokens=none,decode.heads=none"), 40)
    assert np.array_equal(early[:, :, :40], streamed(load_policy_spec(by_layer), 40)[:, :, :40])
    assert (np.count_nonzero(early[3][:, 40:], axis=0) == 6).all()
    # One more key a step, and none that the prompt removed.
    assert (np.diff(early[3][:, 40:], axis=1) == 1).all()
    assert (early[3][:, 40:] < seen[40:]).all()


def test_the_datapath_follows_the_stages() -> None:
    policy = load_policy("progressive-8-4", {"quantization.threshold": 0.4})
    result = verify_fixed_point(DECODER, policy, fixed_point.load_datapath("published"))
    # At 12 bit the prompt is as near to float64 as the datapath lets it be.
    assert result.summary["relative_error_to_policy"] < 0.01
    assert 0 < result.summary["lsb_refetch_fraction"] <= 1
    float_fraction = result.policy["lsb_refetch_fraction"]
    assert result.summary["lsb_refetch_fraction"] == pytest.approx(float_fraction, abs=0.02)
