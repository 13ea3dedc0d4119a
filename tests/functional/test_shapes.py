"""Policies on shapes beside the same policies on a trace of the same size; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from accelsim.baselines import AttentionShape
from accelsim.configs import load
from accelsim.errors import ConfigError
from accelsim.functional import run_policy
from accelsim.functional.shapes import Habits, draws, shape_workload, why_not_without_tensors
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import Policy, load_policy
from accelsim.traces import load_trace
from accelsim.workloads import COLUMNS, Workload, quick_select_work
from accelsim.workloads.models import ModelShape, dense_workload, load_model
from accelsim.workloads.shapes import MAX_CONTEXT, read_shape

TRACE = Path(__file__).parent.parent.parent / "traces" / "smollm2-64p-32d.safetensors"


def on_shape(text: str, policy: str) -> Workload:
    source, rule = read_shape(text), load_policy(policy)
    habits = None
    if draws(rule, source):
        habits = Habits.of(run_policy(load_trace(TRACE), rule), rule, source.decode > 0)
    return shape_workload(source.load(), source, rule, habits)


@pytest.mark.parametrize("decode", [0, 32])
@pytest.mark.parametrize(
    "policy", ["dense", "static-8", "per-token-8", "spatten-heads", "spatten-full"]
)
def test_a_shape_of_the_traces_own_size_asks_for_what_the_trace_does(
    policy: str, decode: int
) -> None:
    """Sizes are the rule's, so equal; what is drawn is near."""
    whole = run_policy(load_trace(TRACE), load_policy(policy)).workload
    trace = whole.select((whole["step"] > 0) == (decode > 0))
    shape = on_shape(f"shape:smollm2-135m:context=64,decode={decode}", policy)
    assert shape.rows == trace.rows
    for name in ("step", "layer", "head", "context_tokens", "key_bits", "key_lsb_bits"):
        assert (shape[name] == trace[name]).all(), name
    # A cascade over steps depends on which tokens each layer had dropped before.
    some = 0.003 if policy == "spatten-full" else 0.0
    for name in ("keys", "query_keys", "query_values", "score_updates", "metadata_bytes"):
        assert shape[name].sum() == pytest.approx(trace[name].sum(), rel=some), name
    for name, near in (("values", 0.04), ("topk_passes", 0.02), ("refetch_queries", 0.25),
                       ("select_size", 0.35), ("key_runs", 0.12)):  # fmt: skip
        assert shape[name].sum() == pytest.approx(trace[name].sum(), rel=near), name


def test_streaming_and_kivi_are_the_traces_to_the_byte() -> None:
    for policy in ("streaming-llm", "kivi-4"):
        whole = run_policy(load_trace(TRACE), load_policy(policy)).workload
        trace = whole.select(whole["step"] > 0)
        shape = on_shape("shape:smollm2-135m:context=64,decode=32", policy)
        for name in COLUMNS:
            assert (shape[name] == trace[name]).all(), (policy, name)
        if trace.key_indices is not None and shape.key_indices is not None:
            for row in range(0, trace.rows, 97):
                assert shape.key_indices[row].tolist() == trace.key_indices[row].tolist()


@pytest.mark.parametrize(
    "budget",
    [
        {"budget_tokens": 40},
        {"budget_fraction": 0.5},
        {"budget_tokens": 80},
        {"budget_tokens": 40, "taper": 0.5},
    ],
)
def test_tova_keeps_as_many_tokens_as_on_the_trace(budget: dict[str, float]) -> None:
    rule = Policy.model_validate(
        load_policy("tova-smollm2-1pct").model_dump() | {"selection": {"kind": "tova", **budget}}
    )
    run = run_policy(load_trace(TRACE), rule)
    trace = run.workload.select(run.workload["step"] > 0)
    source = read_shape("shape:smollm2-135m:context=64,decode=32")
    habits = Habits.of(run, rule, decoding=True)
    shape = shape_workload(source.load(), source, rule, habits)
    # Passes of the one selection of many tokens, and where the kept ones lie, are drawn.
    drawn = ("select_passes", "select_elements", "select_beats", "key_runs")
    for name in set(COLUMNS) - set(drawn):
        assert (shape[name] == trace[name]).all(), name
    several = trace["select_size"] - trace["select_target"] > 1
    for name in drawn[:3]:
        assert (shape[name] == trace[name])[~several].all(), name
        assert (shape[name][several] > 0).all(), name
    assert shape["key_runs"].sum() == pytest.approx(trace["key_runs"].sum(), rel=0.12)


def test_tova_of_each_head_is_refused() -> None:
    source = read_shape("shape:smollm2-135m:context=64,decode=1")
    rule = Policy.model_validate(
        {"selection": {"kind": "tova", "budget_tokens": 8, "share": "kv_head"}}
    )
    with pytest.raises(ConfigError, match="share': expected layer"):
        shape_workload(source.load(), source, rule)


def test_dense_is_the_dense_workload() -> None:
    for decode in (0, 3):
        shape = on_shape(f"shape:smollm2-135m:context=40,decode={decode}", "dense")
        plain = dense_workload(load_model("smollm2-135m"), 40, decode)
        for name in ("step", "layer", "head", "context_tokens", "keys", "query_keys", "values"):
            assert (shape[name] == plain[name]).all(), name
        assert shape.key_indices is None


def test_lists_are_ascending_of_their_length_and_the_same_each_time() -> None:
    shape = on_shape("shape:llama-3-8b:context=700,decode=2,seed=3", "spatten-full")
    again = on_shape("shape:llama-3-8b:context=700,decode=2,seed=3", "spatten-full")
    other = on_shape("shape:llama-3-8b:context=700,decode=2,seed=4", "spatten-full")
    shape.check_bounds()
    assert shape.key_indices is not None
    assert again.value_indices is not None
    assert other.key_indices is not None
    assert shape.value_indices is not None
    differ = 0
    for row in range(0, shape.rows, 41):
        keys, values = shape.key_indices[row], shape.value_indices[row]
        assert len(keys) == shape["keys"][row]
        assert len(values) == shape["values"][row]
        assert set(values.tolist()) <= set(keys.tolist())
        assert keys[-1] == shape["context_tokens"][row] - 1  # the query's own
        assert 1 + (np.diff(keys) > 1).sum() == shape["key_runs"][row]
        assert values.tolist() == again.value_indices[row].tolist()
        differ += keys.tolist() != other.key_indices[row].tolist()
    assert differ
    assert (shape["refetch_queries"] > 0).any()


def test_layers_with_a_window_fetch_no_more_than_it() -> None:
    shape = on_shape("shape:gemma-3-270m:context=2000,decode=1", "static-8")
    keys = dict(zip(shape["layer"].tolist(), shape["keys"].tolist(), strict=True))
    assert [keys[layer] for layer in range(6)] == [512] * 5 + [2001]
    assert shape.key_indices is not None
    assert shape.key_indices[0].tolist() == list(range(2001 - 512, 2001))
    prompt = on_shape("shape:gemma-3-270m:context=700", "dense")
    assert prompt["query_keys"][0] == 4 * (512 * 513 // 2 + 188 * 512)
    assert prompt["query_keys"][5] == 4 * 700 * 701 // 2


def run(work: Workload) -> tuple[int, dict[str, int]]:
    machine = load_accelerator("spatten-paper")
    activity = simulate(work, machine, load(MemoryConfig, machine.memory, "memories"))
    return activity.cycles, activity.dram_read_bytes


@pytest.mark.parametrize("policy", ["dense", "spatten-full"])
def test_copies_move_as_many_times_the_bytes_and_one_is_unchanged(policy: str) -> None:
    text = "shape:smollm2-135m:context=96,decode=2"
    cycles, moved = run(on_shape(text, policy))
    assert run(on_shape(f"{text},batch=1", policy)) == (cycles, moved)
    more, three = run(on_shape(f"{text},batch=3", policy))
    assert three == {tensor: 3 * count for tensor, count in moved.items()}
    assert cycles < more <= 3 * cycles


def test_copies_are_interleaved_layer_by_layer() -> None:
    one = on_shape("shape:smollm2-135m:context=20,decode=2", "dense")
    two = one.batched(2)
    assert two["layer"][:12].tolist() == [0] * 6 + [1] * 6
    assert two["head"][:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert (np.diff(two["step"]) >= 0).all()
    assert one.batched(1) is one


def test_what_needs_tensors_is_refused_by_name() -> None:
    source, model = read_shape("shape:llama-3-8b:context=64,decode=1"), load_model("llama-3-8b")
    for name in ("h2o", "snapkv", "quest", "dhsa", "ems", "scissorhands"):
        rule = load_policy(name)
        kind = rule.at_stage("decode").selection
        assert kind is not None
        assert f"'{kind.kind}' ranks tokens" in why_not_without_tensors(rule, model, source)
        with pytest.raises(ConfigError, match="expected a trace"):
            shape_workload(model, source, rule)
    prompt = read_shape("shape:llama-3-8b:context=64")
    assert "cache of a decoder" in why_not_without_tensors(load_policy("kivi-4"), model, prompt)
    window = load_model("gpt-oss-20b")
    assert "see different ones" in why_not_without_tensors(
        load_policy("spatten-tokens"), window, source
    )
    assert not why_not_without_tensors(load_policy("spatten-values"), window, source)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shape:llama-3-8c:context=1", "did you mean 'llama-3-8b'"),
        ("shape:llama-3-8b", "key 'context' is missing"),
        ("shape:llama-3-8b:contxt=1", "contxt"),
        ("shape:llama-3-8b:context=0", "key 'context'"),
        ("shape:llama-3-8b:context=1,batch=0", "key 'batch'"),
        ("shape:llama-3-8b:context=1,decode=-1", "key 'decode'"),
        ("shape:llama-3-8b:context=1.5", "key 'context'"),
        (f"shape:llama-3-8b:context={MAX_CONTEXT + 1}", "key 'context'"),
        (f"shape:llama-3-8b:context={MAX_CONTEXT},decode=1", "at most 1,048,576"),
        ("shape:llama-3-8b:context=100000", "at most 16,384"),
        ("shape:bert-base:context=5,decode=1", "an encoder decodes nothing"),
        ("shape:deepseek-v3:context=5", "latent"),
    ],
)
def test_bad_shapes_end_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        read_shape(text).load()
    assert len(str(error.value)) <= 300
    assert "\n" not in str(error.value)


def test_models_say_what_does_not_go_together() -> None:
    good = load_model("gemma-3-270m").model_dump()
    for changes, problem in (
        ({"kv_heads": 3}, "multiple of 'kv_heads'"),
        ({"window_tokens": None}, "'full_every' goes with"),
        ({"causal": False}, "goes with 'causal: true'"),
    ):
        with pytest.raises(ValueError, match=problem):
            ModelShape.model_validate(good | changes)


def test_heads_that_choose_alike_read_fewer_values() -> None:
    source, rule = (
        read_shape("shape:llama-3-8b:context=400,decode=1"),
        load_policy("spatten-values"),
    )
    none, one = np.zeros(0), np.array([1.0])
    parts = {"refetch": [none], "runs": [none], "below": [none]}
    read = [
        shape_workload(source.load(), source, rule, Habits(**parts, others=[one * share]))["values"]
        for share in (0.0, 0.5, 1.0)
    ]
    used = read[0][0]
    keep = used / 401
    assert (read[0] == used).all()
    assert read[2][0] == round(401 * (1 - (1 - keep) ** 4))
    assert used < read[1][0] < read[2][0]


def test_habits_need_the_stage() -> None:
    run = run_policy(load_trace(TRACE.parent / "minilm-128.safetensors"), Policy())
    with pytest.raises(ConfigError, match="no decode steps to draw from"):
        Habits.of(run, Policy(), decoding=True)


@pytest.mark.parametrize(("context", "window"), [(5, 8), (8, 8), (20, 8), (20, 1)])
def test_baselines_count_the_pairs_inside_a_window(context: int, window: int) -> None:
    for decode in (0, 1):
        model = load_model("gemma-3-270m").model_copy(
            update={"layers": 1, "full_every": None, "window_tokens": window}
        )
        (call,) = AttentionShape.from_model(model, context, decode, 3).calls
        seen = np.tri(context + decode, dtype=np.int64)
        seen -= np.tri(context + decode, k=-window, dtype=np.int64)
        rows = seen[-1:] if decode else seen
        assert call.pairs == rows.sum()
        assert call.keys == (rows.sum(axis=0) > 0).sum()


def test_selections_of_many_sizes_are_as_of_one() -> None:
    many = quick_select_work(np.array([40, 40, 7]), np.array([9, 9, 7]), 3, default_rng(1))
    one = quick_select_work(40, 9, 2, default_rng(1))
    for some, both in zip(many, one, strict=True):
        assert some.tolist() == [*both.tolist(), 0]
