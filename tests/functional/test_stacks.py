"""An encoder beside its decoder, a tower beside a language model: one trace, one workload."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim import exploration
from accelsim.baselines import AttentionShape
from accelsim.cli import main
from accelsim.errors import TraceError
from accelsim.functional import fixed_point as fp
from accelsim.functional import run_policy, verify_fixed_point
from accelsim.policies import Policy, beside, load_policy, load_policy_spec, why_not
from accelsim.traces import (
    AttentionTrace,
    LayerEntry,
    MemoryTensors,
    load_trace,
    save_trace,
    synthetic_trace,
)

Sizes = tuple[int, int, int, int]
"""Layers, query heads, KV heads, width."""


def make(
    *,
    aside: str = "encoder",
    prefill: int = 3,
    decode: int = 4,
    beside_tokens: int = 9,
    sizes: Sizes = (2, 4, 4, 8),
    own: Sizes = (2, 4, 2, 8),
    last: bool = False,
    seed: int = 0,
) -> AttentionTrace:
    """A trace of two stacks; an encoder's decoder has a cross layer after each of its own."""
    rng = np.random.default_rng(seed)
    plain = synthetic_trace(
        seed=seed, num_layers=own[0], num_query_heads=own[1], num_kv_heads=own[2], head_dim=own[3],
        prefill_tokens=prefill, decode_tokens=decode,
    )  # fmt: skip
    stacks: list[tuple[LayerEntry, dict[str, Any]]] = []

    def tensors(queries: int, keys: int, of: Sizes) -> dict[str, Any]:
        shapes = {"query": (of[1], queries), "key": (of[2], keys), "value": (of[2], keys)}
        return {
            kind: rng.normal(size=(*shape, of[3])).astype(np.float32)
            for kind, shape in shapes.items()
        }

    for index in range(sizes[0]):
        entry = LayerEntry(
            group=aside, query_tokens=beside_tokens, query_heads=sizes[1], kv_heads=sizes[2],
            key_dim=sizes[3], model_layer=index,
        )  # fmt: skip
        stacks.append((entry, tensors(beside_tokens, beside_tokens, sizes)))
    counted: list[tuple[LayerEntry, dict[str, Any]]] = []
    for index in range(own[0]):
        kinds = ("query", "key", "value")
        read = {kind: plain.tensors.read(f"layer.{index}.{kind}") for kind in kinds}
        group = "decoder" if aside == "encoder" else None
        counted.append((LayerEntry(group=group, model_layer=index), read))
        if aside == "encoder":
            entry = LayerEntry(
                group="decoder", kind="cross", key_tokens=beside_tokens, model_layer=index
            )
            counted.append((entry, tensors(prefill + decode, beside_tokens, own)))
    every = counted + stacks if last else stacks + counted
    found = {
        f"layer.{index}.{kind}": tensor
        for index, (_, own_tensors) in enumerate(every)
        for kind, tensor in own_tensors.items()
    }
    found["token_ids"] = plain.tensors.read("token_ids")
    return dataclasses.replace(
        plain,
        num_layers=len(every),
        layers=tuple(entry for entry, _ in every),
        tensors=MemoryTensors(found),
    )


def status(words: list[str]) -> int:
    """Exit status of a call of the command line."""
    try:
        main(words)
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def rows_of(work: Any, layers: tuple[int, ...]) -> Any:
    return work.select(np.isin(work["layer"], layers))


@given(
    name=st.sampled_from(("dense", "spatten-full", "static-8", "spatten-tokens", "h2o", "kivi-4")),
    aside=st.sampled_from(("encoder", "vision")),
    prefill=st.integers(0, 6),
    decode=st.integers(1, 5),
    tokens=st.integers(1, 20),
    heads=st.sampled_from((2, 4, 8)),
    width=st.sampled_from((4, 8, 16)),
    last=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_each_stack_is_as_it_is_alone(
    name: str, aside: str, prefill: int, decode: int, tokens: int, heads: int, width: int,
    last: bool, seed: int,
) -> None:  # fmt: skip
    trace = make(
        aside=aside, prefill=prefill, decode=decode, beside_tokens=tokens,
        sizes=(2, heads, 2, width), last=last, seed=seed,
    )  # fmt: skip
    policy = load_policy(name)
    whole = run_policy(trace, policy)
    stacks = trace.stacks()
    assert [stack.name for stack in stacks] == [
        aside,
        {"encoder": "decoder"}.get(aside, "language"),
    ]
    for stack in stacks:
        here = beside(policy) if stack.aside else policy
        alone = run_policy(stack.trace, here)
        mine = rows_of(whole.workload, stack.layers)
        place = np.array(stack.layers)
        assert mine["layer"].tolist() == place[alone.workload["layer"]].tolist()
        for column in set(mine.columns) - {"layer"}:
            assert mine[column].tolist() == alone.workload[column].tolist(), column
        for left, right in ((mine.key_indices, alone.workload.key_indices),):
            assert [row.tolist() for row in left] == [row.tolist() for row in right]
        assert mine.policy_bytes() == alone.workload.policy_bytes()
        for index, layer in enumerate(stack.layers):
            figures = dict(whole.per_layer[layer], layer=index)
            assert figures == alone.per_layer[index]
    # What another stack reads comes before it, and all its tokens stay.
    step, layer = whole.workload["step"], whole.workload["layer"]
    early = np.isin(layer, stacks[0].layers)
    assert (step[early] == 0).all()
    assert early[: early.sum()].all()
    assert (whole.workload["keys"][early] == tokens).all()
    # Nothing tells a prompt of one token from a step.
    assert whole.workload.stages()[1] == decode + (tokens == 1 and prefill <= 1)


@pytest.mark.parametrize("aside", ["encoder", "vision"])
@pytest.mark.parametrize("policy", ["dense", "spatten-full"])
def test_machines_run_them_one_after_another(aside: str, policy: str) -> None:
    trace = make(
        aside=aside, prefill=12, decode=4, beside_tokens=40, sizes=(3, 8, 8, 32), own=(2, 4, 2, 64)
    )
    event, cycle = (
        exploration.replay(trace, policy=policy, engine=engine, baselines=["a100"])
        for engine in ("event", "cycle")
    )
    assert abs(event.metrics["latency_cycles"] / cycle.metrics["latency_cycles"] - 1) < 0.05
    for tensor, moved in event.dram_read_bytes_by_tensor.items():
        assert moved == cycle.dram_read_bytes_by_tensor[tensor]
    parts = [
        exploration.replay(stack.trace, policy=policy, baselines=["a100"])
        for stack in trace.stacks()
    ]
    if policy == "dense":
        assert event.dram_read_bytes_by_tensor["key_msb"] == sum(
            part.dram_read_bytes_by_tensor["key_msb"] for part in parts
        )
        latency = sum(part.metrics["latency_cycles"] for part in parts)
        # Vectors lie in other rows of DRAM there.
        assert event.metrics["latency_cycles"] == pytest.approx(latency, rel=0.1)
    for row in ("a100/roofline",):
        assert event.baselines[row]["latency_s"] == pytest.approx(
            sum(part.baselines[row]["latency_s"] for part in parts)
        )
    shape = AttentionShape.from_trace(trace)
    alone = [AttentionShape.from_trace(stack.trace) for stack in trace.stacks()]
    assert shape.flops == sum(part.flops for part in alone)


def test_a_stack_is_a_trace_of_its_own(tmp_path: Any, capsys: Any) -> None:
    trace = make(aside="vision", beside_tokens=30, sizes=(4, 4, 4, 8), decode=6)
    path, part = tmp_path / "t.safetensors", tmp_path / "vision.safetensors"
    save_trace(trace, path, np.float32)
    tower = load_trace(path).of_group("vision")
    assert (tower.causal, tower.prefill_tokens, tower.decode_tokens) == (False, 30, 0)
    save_trace(tower, part, np.float32)
    again = load_trace(part)
    for layer in range(4):
        np.testing.assert_array_equal(again.query(layer), trace.query(layer))
        assert dataclasses.replace(again.layer(layer), model_layer=0) == dataclasses.replace(
            tower.layer(layer), model_layer=0
        )
    pruned = run_policy(tower, load_policy("zero-tprune")).workload
    assert pruned["keys"].min() < 30
    assert (load_trace(path).of_group("language").token_ids == trace.token_ids).all()
    with pytest.raises(TraceError, match="group 'encoder': the trace has vision, language"):
        trace.of_group("encoder")
    given = ["replay", str(path), "--group", "vision", "--policy", "zero-tprune", "--json", "-"]
    assert status(given) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["latency_cycles"] > 0
    given[3] = "encoder"
    assert status(given) == 2
    assert "group 'encoder': the trace has vision, language" in capsys.readouterr().err


def test_what_is_refused() -> None:
    trace = make(aside="vision")
    listed = Policy.model_validate({"values": {"keep_by_layer": [1.0, 0.5]}})
    assert "has 2 entries, one for each layer of a stack" in why_not(listed, trace)
    assert why_not(load_policy("zero-tprune"), trace).startswith("language: policy 'zero_tprune'")
    # Cross attention is left whole.
    crossed, spec = make(aside="encoder"), "spatten-tokens:tokens.accumulate=layers"
    assert why_not(load_policy_spec(spec), crossed) == ""


def test_fixed_point_follows_both() -> None:
    trace = make(aside="encoder", beside_tokens=12)
    found = verify_fixed_point(trace, load_policy("dense"), fp.DATAPATHS["published"])
    assert found.summary["relative_error_to_policy"] < 0.02
    assert {row["layer"] for row in found.per_head} == set(range(trace.num_layers))
