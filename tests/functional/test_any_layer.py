"""Every kind of layer under every kind of policy: outputs, what is fetched, what is refused."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim import exploration
from accelsim.attention import reference
from accelsim.attention.quantization import progressive_planes, quantize_dequantize
from accelsim.baselines import AttentionShape
from accelsim.configs import load
from accelsim.errors import TraceError, WorkloadError
from accelsim.functional import _selected, run_policy, verify_fixed_point
from accelsim.functional import fixed_point as fp
from accelsim.functional._record import Record
from accelsim.functional._walk import visit
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import Policy, applicable, load_policy, load_policy_spec
from accelsim.policies.cascade import LayerCascade
from accelsim.traces import (
    OTHER_HEADS,
    OTHER_KV_HEADS,
    OWN_SCALE,
    AttentionTrace,
    Bias,
    LayerEntry,
    Mask,
    MemoryTensors,
    synthetic_trace,
)
from accelsim.workloads import read_parquet, write_csv, write_parquet

KINDS = (
    "window",
    "chunk",
    "prefix",
    "stored",
    "alibi",
    "relative",
    "stored_bias",
    "cross",
    "softcap",
    "sinks",
    "scale",
    "query_heads",
    "kv_heads",
    "width",
    "latent",
)
SHAPES = frozenset(("query_heads", "kv_heads", "width", "latent"))


def stored_bits(rng: np.random.Generator, ends: Any, tokens: int, keys: int) -> Any:
    """A mask that shows each query about half of the keys before its end, at least one."""
    seen = rng.random((tokens, keys)) < 0.5
    seen &= np.arange(keys) < np.broadcast_to(ends, tokens)[:, None]
    seen[np.arange(tokens), rng.integers(0, ends, size=tokens)] = True
    return np.packbits(seen, axis=1, bitorder="little")


def make(
    seed: int,
    kinds: list[set[str]],
    *,
    prefill: int,
    decode: int,
    causal: bool = True,
    value_dim: int | None = None,
    latent: bool = False,
    heads: tuple[int, int] = (4, 2),
    dim: int = 8,
) -> AttentionTrace:
    """A trace with one layer for each set of kinds."""
    rng = np.random.default_rng(seed)
    plain = synthetic_trace(
        seed=seed, num_layers=len(kinds), num_query_heads=heads[0], num_kv_heads=heads[1],
        head_dim=dim, prefill_tokens=prefill, decode_tokens=decode, causal=causal,
    )  # fmt: skip
    tokens, entries = prefill + decode, []
    tensors: dict[str, Any] = {name: plain.tensors.read(name) for name in plain.tensors.names()}
    common_heads, common_dim, common_value, common_latent = heads, dim, value_dim, latent
    for layer, has in enumerate(kinds):
        fields: dict[str, Any] = {}
        name, keys = f"layer.{layer}", tokens
        heads, dim, value_dim, latent = common_heads, common_dim, common_value, common_latent
        if has & SHAPES:
            if "query_heads" in has:
                heads = (heads[0] * 2, heads[1])
            if "kv_heads" in has:
                heads = (heads[0], heads[0] // 2)
            if "width" in has:
                dim, value_dim = 2 * dim, value_dim or dim
            if "latent" in has and "cross" not in has:
                latent, value_dim = True, value_dim and min(value_dim, dim)
            fields |= {"query_heads": heads[0], "kv_heads": heads[1], "key_dim": dim}
            shapes = {"query": (heads[0], tokens, dim), "key": (heads[1], tokens, dim)}
            shapes["value"] = shapes["key"]
            for tensor, shape in shapes.items():
                tensors[f"{name}.{tensor}"] = rng.normal(size=shape).astype(np.float32)
        if "cross" in has:
            keys = int(rng.integers(1, 2 * tokens))
            fields |= {"kind": "cross", "key_tokens": keys}
            for tensor in ("key", "value"):
                shape = (heads[1], keys, dim)
                tensors[f"{name}.{tensor}"] = rng.normal(size=shape).astype(np.float32)
        elif "window" in has:
            fields["mask"] = Mask(kind="window", size=int(rng.integers(1, tokens + 2)), side="left")
        elif "chunk" in has:
            fields["mask"] = Mask(kind="chunk", size=int(rng.integers(1, tokens + 2)))
        elif "prefix" in has and prefill and not causal:
            fields["mask"] = Mask(kind="prefix", length=int(rng.integers(1, prefill + 1)))
        elif decode and not causal:
            fields["mask"] = Mask(kind="causal")
        if "stored" in has:
            fields["mask"] = Mask(kind="stored")
            ends: Any = keys
            if "cross" not in has and (causal or decode > 0):
                ends = np.arange(tokens) + 1
                ends = ends if causal else np.where(ends <= prefill, prefill, ends)
            tensors[f"{name}.mask"] = stored_bits(rng, ends, tokens, keys)
        if "alibi" in has and "cross" not in has:
            fields["bias"] = Bias(kind="alibi", slopes=tuple(rng.normal(size=heads[0]).tolist()))
        elif "relative" in has and "cross" not in has:
            buckets = tuple(rng.integers(0, 4, size=int(rng.integers(1, 9))).tolist())
            fields["bias"] = Bias(kind="relative", first=int(rng.integers(-6, 3)), buckets=buckets)
            table = rng.normal(size=(heads[0], max(buckets) + 1))
            tensors[f"{name}.bias"] = table.astype(np.float32)
        elif "stored_bias" in has:
            fields["bias"] = Bias(kind="stored")
            shape = (heads[0], tokens, keys)
            tensors[f"{name}.bias"] = rng.normal(size=shape).astype(np.float32)
        if "softcap" in has:
            fields["softcap"] = float(rng.uniform(0.5, 3.0))
        if "sinks" in has:
            fields["sinks"] = tuple(rng.normal(size=heads[0]).tolist())
        if "scale" in has:
            fields["scale"] = float(rng.uniform(0.1, 0.6))
        if latent and "cross" not in has:
            fields |= {"kind": "latent", "value_dim": value_dim or dim}
            del tensors[f"{name}.value"]
        elif value_dim is not None:
            fields["value_dim"] = value_dim
            shape = (heads[1], keys, value_dim)
            tensors[f"{name}.value"] = rng.normal(size=shape).astype(np.float32)
        entries.append(LayerEntry(**fields))
    return dataclasses.replace(plain, layers=tuple(entries), tensors=MemoryTensors(tensors))


@st.composite
def traces(
    draw: Any, *, allowed: tuple[str, ...] = KINDS, decoder: bool = False, both: bool = False
) -> AttentionTrace:
    """Any such trace; of a decoder, one that decodes, and sees later tokens only if ``both``."""
    causal = (decoder and not both) or draw(st.booleans())
    prefill = draw(st.integers(0 if causal else 1, 9))
    decode = draw(st.integers(max(1 - prefill, int(decoder)), 6))
    latent = draw(st.booleans())
    kinds = draw(st.lists(st.sets(st.sampled_from(allowed), max_size=4), min_size=1, max_size=3))
    if latent:
        kinds = [has - {"cross"} for has in kinds]
    return make(
        draw(st.integers(0, 99)), kinds, prefill=prefill, decode=decode, causal=causal,
        value_dim=draw(st.sampled_from((None, 3, 8) if latent else (None, 3, 12))), latent=latent,
    )  # fmt: skip


POLICIES = (
    "dense", "static-8", "spatten-tokens", "spatten-heads", "progressive-6-4", "spatten-values",
    "spatten-full",
)  # fmt: skip


def planes(policy: Policy, trace: AttentionTrace, layer: int) -> tuple[Any, Any, Any, Any]:
    """Keys and values as the first fetch reads them, and with both planes."""
    own, key, value = trace.layer(layer), trace.key(layer), trace.value(layer)
    q: Any = policy.quantization
    if q.kind == "static":
        first = both = quantize_dequantize(key, q.key_bits, q.scale)
        bits = q.value_bits
    else:
        first, both = progressive_planes(key, q.msb_bits, q.lsb_bits, q.split, q.scale)
        bits = q.fetched_value_bits
    if own.kind == "latent":
        return first, both, first[..., : own.value_dim], both[..., : own.value_dim]
    stored = quantize_dequantize(value, bits, q.scale)
    return first, both, stored, stored


def bias_of(trace: AttentionTrace, layer: int, positions: Any) -> Any:
    """Bias [query_heads, rows, keys] of a layer, or ``None``; by the words of the schema."""
    own = trace.layer(layer)
    if own.bias is None:
        return None
    if own.bias.kind == "stored":
        return trace.tensors.read(f"layer.{layer}.bias").astype(float)[:, positions]
    away = np.arange(own.keys)[None, :] - positions[:, None]
    if own.bias.kind == "alibi":
        return np.array(own.bias.slopes)[:, None, None] * away
    last = len(own.bias.buckets) - 1
    place = np.vectorize(lambda d: own.bias.buckets[min(max(d - own.bias.first, 0), last)])(away)
    return trace.tensors.read(f"layer.{layer}.bias").astype(float)[:, place]


def pruned(weights: Any, seen: Any, budgets: Any, value: Any, group: int) -> Any:
    """Outputs of the largest weights only, as many as the budget of the keys that a row sees."""
    output = np.zeros((*weights.shape[:2], value.shape[2]))
    for head, row in np.ndindex(*weights.shape[:2]):
        keys = np.flatnonzero(seen[row])
        top = keys[reference.stable_topk(weights[head, row, keys], int(budgets[len(keys)]))]
        output[head, row] = weights[head, row, top] @ value[head // group, top].astype(float)
    return output


@given(trace=traces(), name=st.sampled_from(POLICIES))
@settings(max_examples=150, deadline=None)
def test_outputs_are_those_of_the_reference(trace: AttentionTrace, name: str) -> None:
    policy, steps = load_policy(name), []
    if OTHER_HEADS in trace.beyond() and any(p.heads for p in policy.by_stage().values()):
        assert not applicable(policy, trace)
        return
    run = run_policy(trace, policy, observe=steps.append)
    rows = {}
    work = run.workload
    for row in range(work.rows):
        rows[int(work["step"][row]), int(work["layer"][row]), int(work["head"][row])] = row
    for at in steps:
        own = trace.layer(at.layer)
        here = policy.at_stage("decode" if at.step else "prefill").at_layer(
            at.layer, trace.num_layers
        )
        first, both, value, value_both = planes(here, trace, at.layer)
        threshold = getattr(here.quantization, "threshold", 0.0)
        seen = trace.seen(at.layer, at.positions)
        kept = np.zeros(own.keys, dtype=bool)
        kept[at.kept] = True
        seen = seen & kept
        blind = ~seen.any(axis=1)
        asked = seen | blind[:, None]  # softmax needs a key; such rows are zero below
        given = {
            "scale": own.scale, "softcap": own.softcap, "sinks": own.sinks,
            "bias": bias_of(trace, at.layer, at.positions),
        }  # fmt: skip
        query = trace.query(at.layer)[:, at.positions]
        weights, output = reference.dense(query, first, value, asked, **given)
        again, precise = reference.dense(query, both, value_both, asked, **given)
        low = weights.max(axis=2) < threshold
        if here.values is not None:
            budgets = np.array([here.values.budget(n) for n in range(own.keys + 1)])
            output = pruned(weights, asked, budgets, value, own.group)
            precise = pruned(again, asked, budgets, value_both, own.group)
        output = np.where(low[..., None], precise, output)
        output[~at.alive] = 0.0
        output[:, blind] = 0.0
        np.testing.assert_allclose(at.outputs, output, atol=1e-10)
        for head in range(own.kv_heads):
            living = at.alive[head * own.group : (head + 1) * own.group]
            row = rows.get((at.step, at.layer, head))
            if not living.any() or blind.all():
                assert row is None
                continue
            read = work.key_indices[row]
            assert read.tolist() == np.flatnonzero(seen.any(axis=0)).tolist()
            assert work["query_keys"][row] == seen.sum() * living.sum()
            assert work["context_tokens"][row] == at.context
            scored = work["query_keys"][row] + work["refetch_query_keys"][row]
            assert work["biased_scores"][row] == scored * (own.bias is not None)
            assert work["capped_scores"][row] == scored * (own.softcap is not None)
    read = work.policy_bytes()
    bits = {name: work[name].astype(int) for name in work.columns}
    owns = [trace.layer(layer) for layer in bits["layer"]]
    keys = np.array([own.key_dim for own in owns])
    moved = np.array([0 if own.kind == "latent" else own.value_dim for own in owns])
    assert read["key_msb"] == (bits["keys"] * bits["key_bits"] * keys).sum() // 8
    assert read["value"] == (bits["values"] * bits["value_bits"] * moved).sum() // 8


@given(trace=traces(), name=st.sampled_from(("dense", "spatten-full", "spatten-tokens")))
@settings(max_examples=40, deadline=None)
def test_fixed_point_stays_near_the_same_policy(trace: AttentionTrace, name: str) -> None:
    if not applicable(load_policy(name), trace):
        return
    found = verify_fixed_point(trace, load_policy(name), fp.DATAPATHS["published"])
    run = run_policy(trace, load_policy(name))
    assert found.policy == run.accuracy
    rows = run.workload["queries"].sum()
    assert found.summary["rows"] == rows
    if name == "dense":
        # Sinks take most of what a row gives, and the steps of a code stay.
        limit = 0.02 if "sinks" not in trace.beyond() else 0.1
        assert found.summary["relative_error_to_policy"] < limit
        assert found.summary["relative_output_error"] < limit
        assert abs(found.summary["kept_mass"] - run.accuracy["kept_mass"]) < 1e-9


def test_heads_that_differ_are_not_pruned_from_layer_to_layer() -> None:
    trace = make(1, [set(), {"query_heads"}], prefill=4, decode=2)
    with pytest.raises(TraceError, match="another number of query heads; a cascade that prunes"):
        run_policy(trace, load_policy("spatten-heads"))
    work = run_policy(trace, load_policy("spatten-tokens")).workload
    assert {layer: shape.query_heads for layer, shape in work.layers.items()} == {0: 4, 1: 8}
    # More KV heads for as many query heads: a cascade of heads follows them.
    grouped = make(1, [set(), {"kv_heads"}], prefill=4, decode=2, heads=(8, 2))
    heads = run_policy(grouped, load_policy("spatten-heads")).workload
    assert set(heads["head"][heads["layer"] == 1]) <= set(range(4))


def test_a_latent_is_fetched_once() -> None:
    """Absorbed MLA: one KV head for all, values in the keys, in the width of the keys."""
    trace = make(
        3, [set()] * 2, prefill=6, decode=3, heads=(4, 1), dim=16, value_dim=12, latent=True
    )
    work = run_policy(trace, load_policy("dense")).workload
    assert (work.head_dim, work.value_dim, work.latent) == (16, 12, True)
    assert work.policy_bytes()["value"] == 0
    assert work.policy_bytes()["key_msb"] == (6 + 7 + 8 + 9) * 2 * 16 * 12 // 8
    static = run_policy(trace, load_policy("static-8", {"quantization.value_bits": 4})).workload
    assert set(static["value_bits"]) == {8}


@pytest.mark.parametrize("policy", ["dense", "spatten-full"])
def test_machines_move_narrow_values_and_other_sequences(policy: str) -> None:
    kinds: list[set[str]] = [set(), {"cross"}, {"stored"}, {"alibi"}]
    trace = make(5, kinds, prefill=40, decode=6, dim=64, value_dim=32)
    decided = run_policy(trace, load_policy(policy)).workload
    asked = decided.policy_bytes()
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    event, cycle = (simulate(decided, machine, memory, engine) for engine in ("event", "cycle"))
    assert abs(event.cycles / cycle.cycles - 1) < 0.05
    for activity in (event, cycle):
        for tensor in ("key_msb", "key_lsb", "value"):
            # Gaps between kept vectors cost a burst at either end.
            moved = activity.dram_read_bytes[tensor]
            assert asked[tensor] <= moved <= asked[tensor] * 1.6 + 64
        assert activity.counters["pv_macs"] == decided["query_values"].sum() * 32
        assert activity.dram_write_bytes == -(-decided["queries"].sum() * 32 * 12 // 8 // 32) * 32
        assert activity.not_served["biases"] == decided["biased_scores"].sum() > 0
    for tensor, moved in event.dram_read_bytes.items():
        assert moved == cycle.dram_read_bytes[tensor]
    found = exploration.replay(trace, policy=policy, baselines=["a100"])
    assert found.metrics["latency_cycles"] == event.cycles
    wide = simulate(dataclasses.replace(decided, value_dim=None), machine, memory)
    assert wide.dram_read_bytes["value"] > event.dram_read_bytes["value"]


@pytest.mark.parametrize("policy", ["dense", "spatten-tokens", "spatten-full", "h2o"])
@pytest.mark.parametrize("dependencies", ["causal", "streamed"])
def test_machines_take_layers_of_any_shape(policy: str, dependencies: str, tmp_path: Any) -> None:
    kinds: list[set[str]] = [set(), {"width"}, {"kv_heads"}, {"width", "kv_heads"}, {"window"}]
    trace = make(5, kinds, prefill=40, decode=6, dim=64, heads=(8, 2))
    work = run_policy(trace, load_policy(policy)).workload
    assert not work.one_width
    assert work.layers[3] == (8, 4, 128, 64, False)
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    event, cycle = (
        simulate(work, machine, memory, engine, dependencies=dependencies)
        for engine in ("event", "cycle")
    )
    assert abs(event.cycles / cycle.cycles - 1) < 0.05
    widths = np.where(np.isin(work["layer"], (1, 3)), 128, 64)
    for activity in (event, cycle):
        assert activity.counters["pv_macs"] == work["query_values"].sum() * 64
        scored = work["query_keys"] + work["refetch_query_keys"]
        assert activity.counters["qk_macs"] == (scored * widths).sum()
    assert event.counters == cycle.counters | {
        n: event.counters[n] for n in event.counters if n.startswith(("dram_", "row_"))
    }
    for tensor, moved in event.dram_read_bytes.items():
        assert moved == cycle.dram_read_bytes[tensor]
    # A layer alone takes the beats that it takes among others of another width.
    alone = [
        simulate(work.select(work["layer"] == layer), machine, memory, dependencies=dependencies)
        for layer in range(5)
    ]
    for module in ("qk_unit", "pv_unit"):
        busy = sum(activity.modules[module].busy_cycles for activity in alone)
        assert busy == event.modules[module].busy_cycles
    write_parquet(work, tmp_path / "w.parquet")
    back = read_parquet(tmp_path / "w.parquet")
    assert back.layers == work.layers
    assert back.policy_bytes() == work.policy_bytes()
    single = make(5, [set(), {"width"}], prefill=0, decode=2, heads=(2, 2))
    with pytest.raises(WorkloadError, match="17-column schema holds"):
        write_csv(run_policy(single, load_policy("dense")).workload, tmp_path / "w.csv")


@pytest.mark.parametrize("dim", [72, 80, 96, 192])
@pytest.mark.parametrize("policy", ["dense", "spatten-full"])
def test_keys_that_do_not_divide_the_line_lie_padded(dim: int, policy: str) -> None:
    """A line of 512 holds as many whole keys as fit, and so many scores a cycle come of it."""
    trace = make(5, [set(), set()], prefill=0, decode=40, dim=dim, heads=(2, 2))
    work = run_policy(trace, load_policy(policy)).workload
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    event, cycle = (simulate(work, machine, memory, engine) for engine in ("event", "cycle"))
    assert abs(event.cycles / cycle.cycles - 1) < 0.05
    assert event.counters["qk_macs"] == cycle.counters["qk_macs"]
    lanes = min(512 // dim, 8)
    table = work.query_table
    passes = -(-table.keys // lanes) * (1 + (table.refetch > 0))
    for activity in (event, cycle):
        assert activity.modules["qk_unit"].busy_cycles == passes.sum()
    with pytest.raises(WorkloadError, match=f"head_dim {dim} does not divide the line of 512"):
        simulate(work, machine.model_copy(update={"supports": ()}), memory)


def test_keys_wider_than_the_line_are_refused() -> None:
    trace = make(5, [set()], prefill=0, decode=2, dim=576, heads=(2, 2))
    work = run_policy(trace, load_policy("static-12")).workload
    config, memory = (
        load_accelerator("spatten-paper"),
        load(MemoryConfig, "hbm2-nominal", "memories"),
    )
    with pytest.raises(WorkloadError, match="head_dim 576 is wider than the line of 512"):
        simulate(work, config, memory)


@pytest.mark.parametrize("machine", ["spatten-e2e", "spatten-rtl"])
def test_machines_of_one_width_say_so(machine: str) -> None:
    trace = make(5, [set(), {"width"}], prefill=4, decode=2, dim=64)
    work = run_policy(trace, load_policy("static-12")).workload
    config, memory = load_accelerator(machine), load(MemoryConfig, "hbm2-nominal", "memories")
    with pytest.raises(WorkloadError, match="layers of different widths, which an accelerator of"):
        simulate(work, config, memory)


@pytest.mark.parametrize("machine", ["spatten-paper", "spatten-e2e", "spatten-rtl", "mnnfast"])
def test_machines_refuse_vectors_that_they_do_not_take(machine: str) -> None:
    decoder = make(5, [set()], prefill=4, decode=2, dim=64, value_dim=12, latent=True)
    latent = run_policy(decoder, load_policy("static-12")).workload
    wide = dataclasses.replace(latent, latent=False, value_dim=128)
    config, memory = load_accelerator(machine), load(MemoryConfig, "hbm2-nominal", "memories")
    for work, what in ((latent, "64 elements .a latent."), (wide, "128 elements beside keys of")):
        with pytest.raises(WorkloadError, match=f"{what}.*which an accelerator of kind"):
            simulate(work, config, memory)


def test_baselines_are_given_what_is_seen() -> None:
    kinds: list[set[str]] = [{"stored"}, {"cross"}, {"prefix"}]
    trace = make(8, kinds, prefill=7, decode=2, causal=False, value_dim=4)
    shape = AttentionShape.from_trace(trace)
    pairs = sum(int(trace.seen(layer, np.arange(9)).sum()) for layer in range(3))
    assert sum(call.count * call.pairs for call in shape.calls) == pairs
    assert shape.flops == 2 * pairs * 4 * (8 + 4)
    assert {call.context for call in shape.calls if call.queries > 1} == {7, trace.layer(1).keys}
    latent = make(8, [set()], prefill=3, decode=0, value_dim=4, latent=True)
    shape = AttentionShape.from_trace(latent)
    assert shape.bytes_moved(1.0) == 3 * 2 * 8 + 3 * 4 * (8 + 4)


def test_parquet_keeps_the_widths(tmp_path: Any) -> None:
    trace = make(3, [set()], prefill=5, decode=2, value_dim=3, latent=True, heads=(2, 2))
    work = run_policy(trace, load_policy("dense")).workload
    write_parquet(work, tmp_path / "w.parquet")
    back = read_parquet(tmp_path / "w.parquet")
    assert (back.head_dim, back.value_dim, back.latent) == (8, 3, True)
    assert back.policy_bytes() == work.policy_bytes()
    assert work.rows_at(np.array([0])).latent
    with pytest.raises(WorkloadError, match="17-column schema holds"):
        write_csv(work.select(work["queries"] == 1), tmp_path / "w.csv")
    with pytest.raises(WorkloadError, match="value_dim = 9; expected 1 to head_dim, of a latent"):
        dataclasses.replace(work, value_dim=9)


TOKENS_BY_LAYER = "spatten-tokens:tokens.accumulate=layers"
ALL_BY_LAYER = "spatten-full:tokens.accumulate=layers,heads.accumulate=layers"
MOBA = "moba:selection.block_tokens=2,selection.blocks=2"
LINES = (
    "vertical-slash:selection.vertical=3,selection.slash=3,selection.window=2,selection.first=1,"
    "selection.recent=1,selection.block_tokens=1"
)
DHSA_BLOCKS = tuple(
    "dhsa-blocks:selection.query_block=2,selection.key_block=2,selection.density=0.4,"
    f"selection.mode={mode}"
    for mode in ("topk", "a", "vs", "vsb")
)
IN_PROMPT = ("dhsa", MOBA, LINES, *DHSA_BLOCKS)
"""Rules of the queries of a prompt, which read it in one direction."""
SELECTING = (
    "h2o", "tova", "streaming-llm", "scissorhands", "snapkv", "knorm", "keydiff", "quest",
    "ems", "kivi-4", "centrality:selection.sinks=1,selection.recent=1", "pyramidkv",
    "expected-attention:selection.sinks=1", "duo-attention:selection.sinks=1,selection.recent=2",
    TOKENS_BY_LAYER, ALL_BY_LAYER, *IN_PROMPT,
)  # fmt: skip
FOLLOWED = (
    "window", "chunk", "stored", "alibi", "relative", "stored_bias", "softcap", "scale", "kv_heads",
    "width", "latent", "cross", "sinks", "prefix",
)  # fmt: skip
BOTH_WAYS = {"a prefix", "causal and full layers side by side"}


@given(
    trace=traces(allowed=FOLLOWED, decoder=True, both=True),
    name=st.sampled_from(SELECTING),
)
@settings(max_examples=120, deadline=None)
def test_selections_attend_to_what_is_seen_and_kept(trace: AttentionTrace, name: str) -> None:
    policy = load_policy_spec(name)
    beyond = set(trace.beyond())
    if name == "ems":
        merges = {
            "sliding windows", "chunks", "stored masks", "soft-capped scores", "ALiBi",
            "a relative bias", "a stored bias", "cross attention", "sinks",
            OTHER_KV_HEADS, OWN_SCALE, *BOTH_WAYS,
        }  # fmt: skip
        assert applicable(policy, trace) or beyond - merges
    else:
        refused = {"latent attention"} if name == "kivi-4" else set()
        one_way = name in IN_PROMPT or "accumulate" in name
        no_prompt = "duo" in name and not trace.prefill_tokens
        cannot = no_prompt or (one_way and not trace.causal)
        assert applicable(policy, trace) or refused & beyond or cannot
    if not applicable(policy, trace):
        with pytest.raises(TraceError, match=r"layer \d has .*, which policy '|prompt|decodes"):
            run_policy(trace, policy)
        return
    work = run_policy(trace, policy).workload
    table = work.query_table
    for row in range(work.rows):
        layer, own = int(work["layer"][row]), slice(table.start[row], table.start[row + 1])
        position, keys = table.position[own], table.keys[own]
        seen = trace.seen(layer, np.unique(position))
        assert set(work.key_indices[row]) <= set(np.flatnonzero(seen.any(axis=0)))
        shown = seen.sum(axis=1)[np.searchsorted(np.unique(position), position)]
        assert (keys <= shown).all()
        dense = work["step"][row] == 0 and name not in IN_PROMPT and "accumulate" not in name
        if dense or trace.layer(layer).kind == "cross":
            assert (keys == shown).all()  # a prompt is dense
        scored = work["query_keys"][row] + work["refetch_query_keys"][row]
        assert work["biased_scores"][row] == scored * (trace.layer(layer).bias is not None)
        assert work["capped_scores"][row] == scored * (trace.layer(layer).softcap is not None)


@given(trace=traces(allowed=FOLLOWED, decoder=True, both=True), wide=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_selection_that_keeps_everything_is_dense(trace: AttentionTrace, wide: bool) -> None:
    """The two ways of computing a trace agree where they decide alike."""
    dense = load_policy("dense")
    if wide:
        dense = Policy.model_validate(
            {"quantization": {"kind": "progressive", "msb_bits": 6, "threshold": 0.4}}
        )
    every = Policy.model_validate(
        dense.model_dump(exclude_defaults=True, exclude={"description", "source"})
        | {"selection": {"kind": "streaming_llm", "budget_tokens": 1000}}
    )
    left, right = run_policy(trace, dense), run_policy(trace, every)
    for name, figure in left.accuracy.items():
        assert right.accuracy[name] == pytest.approx(figure, abs=1e-9), name
    for name in ("keys", "values", "query_keys", "refetch_queries", "biased_scores", "key_runs"):
        assert left.workload[name].tolist() == right.workload[name].tolist()
    assert left.workload.policy_bytes() == right.workload.policy_bytes()


@given(
    trace=traces(allowed=FOLLOWED, decoder=True, both=True), name=st.sampled_from(SELECTING),
    rows=st.integers(1, 5), tile=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_tiles_change_no_decision(trace: AttentionTrace, name: str, rows: int, tile: int) -> None:
    policy = load_policy_spec(name)
    if not applicable(policy, trace):
        return
    whole = run_policy(trace, policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_selected, "_ROWS_PER_BLOCK", rows)
        patch.setattr(_selected, "_TILE_BYTES", tile * LayerCascade.STATE_BYTES * trace.tokens)
        tiled = run_policy(trace, policy)
        patch.setattr(_selected, "_SCORES_PER_BLOCK", 1)
        one_by_one = run_policy(trace, policy)
    for cut in (tiled, one_by_one):
        for column in whole.workload.columns:
            assert cut.workload[column].tolist() == whole.workload[column].tolist(), column
        for name, figure in whole.accuracy.items():
            assert cut.accuracy[name] == pytest.approx(figure, abs=1e-9), name


def test_layer_by_layer_leaves_cross_attention_whole() -> None:
    """All heads and all keys of it; and what a tile holds goes when its last own layer is done."""
    trace = make(2, [set(), {"cross"}, set(), {"cross"}], prefill=9, decode=4)
    policy = load_policy_spec(f"{ALL_BY_LAYER},heads.mean_keep=0.5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_selected, "_TILE_BYTES", 2 * LayerCascade.STATE_BYTES * trace.tokens)
        rule = _selected.SelectedRule(trace, policy, 0)
        record = Record(trace, True)
        visit(trace, rule, record)
    work = record.result(rule.keep_ratio).workload
    assert rule.order == "tiles"
    assert len(rule._selector._tiles) <= 2  # type: ignore[attr-defined]
    for row in range(work.rows):
        layer, step = int(work["layer"][row]), int(work["step"][row])
        if layer in (1, 3):
            keys = trace.layer(layer).keys
            assert work["keys"][row] == keys
            assert work["queries"][row] == (9 if step == 0 else 1) * 2
            assert work["query_keys"][row] == work["queries"][row] * keys
    pruned = work["layer"] == 2
    assert work["queries"][pruned].sum() < work["queries"][work["layer"] == 0].sum()
    places = list(zip(*(work[n].tolist() for n in ("step", "layer", "head")), strict=True))
    assert len(set(places)) == len(places)


def test_memory_does_not_grow_with_the_square_of_the_context() -> None:
    """A prompt of 1,536 tokens holds 2.4 million pairs a head; what is kept of them is far less."""
    trace = make(1, [set(), set()], prefill=1536, decode=1, heads=(4, 2), dim=16)
    for name in ("h2o", ALL_BY_LAYER):
        policy = load_policy_spec(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_selected, "_SCORES_PER_BLOCK", 1 << 15)
            patch.setattr(_selected, "_TILE_BYTES", 1 << 18)
            tracemalloc.start()
            run_policy(trace, policy, indices=False)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 1536**2 * 4, name


def test_baselines_count_layers_of_each_shape() -> None:
    kinds: list[set[str]] = [set(), {"width"}, {"kv_heads"}, {"window"}]
    trace = make(8, kinds, prefill=7, decode=2, heads=(8, 2))
    shape = AttentionShape.from_trace(trace)
    assert len(shape.parts) == 3
    pairs = [int(trace.seen(layer, np.arange(9)).sum()) for layer in range(4)]
    dims = [16, 16 + 8, 16, 16]
    assert shape.flops == sum(2 * 8 * n * dim for n, dim in zip(pairs, dims, strict=True))
    assert shape.layer_calls == 4 * 3
    found = AttentionShape.from_workload(run_policy(trace, load_policy("dense")).workload)
    assert [part.head_dim for part in found.parts] == [8, 16, 8]
    rows = exploration.replay(trace, policy="dense", baselines=["a100", "h100"]).baselines
    assert all(row["latency_s"] > 0 for row in rows.values())


def blocks_seen(seen: Any, full: int, size: int) -> list[int]:
    """Full blocks of which a row sees a key."""
    return [b for b in range(full) if seen[b * size : (b + 1) * size].any()]


def quest_keeps(rule: Any, query: Any, key: Any, seen: Any, position: int, prompt: int) -> Any:
    """Keys that a query of one head reads, and pages that were ranked; in plain NumPy."""
    size, budget = rule.page_tokens, rule.budget(position + 1)
    full = position // size
    pages = blocks_seen(seen, full, size)
    allowed = max(1, budget // size) - 1
    if position < prompt or len(pages) <= allowed or position + 1 <= budget:
        return seen, []
    kept = np.zeros_like(seen)
    kept[full * size :] = True
    bounds = []
    for page in pages:
        keys = key[page * size : (page + 1) * size]
        bounds.append(np.maximum(query * keys.min(axis=0), query * keys.max(axis=0)).sum())
    for place in reference.stable_topk(np.array(bounds), allowed) if allowed else ():
        kept[pages[place] * size : (pages[place] + 1) * size] = True
    return kept & seen, pages if allowed else []


def dhsa_keeps(rule: Any, query: Any, key: Any, seen: Any, position: int, prompt: int) -> Any:
    """The same of DHSA."""
    size, end = rule.chunk_tokens, position + 1
    token, full = np.arange(len(seen)), position // rule.chunk_tokens
    kept = seen & ((token < rule.sinks) | (token >= end - rule.local) | (token >= full * size))
    left = rule.budget(end) - kept.sum()
    if left >= seen.sum() - kept.sum():
        return seen, []
    if left <= 0:
        return kept, []
    chunks = blocks_seen(seen, full, size)
    means = [key[c * size : (c + 1) * size].mean(axis=0) for c in chunks]
    order = np.argsort([-(query @ mean) * np.sqrt(size) for mean in means], kind="stable")
    for chunk in (chunks[place] for place in order):
        for j in range(chunk * size, (chunk + 1) * size):
            if left > 0 and seen[j] and not kept[j]:
                kept[j], left = True, left - 1
    return kept, chunks


BLOCKS = {
    "quest": (
        {"kind": "quest", "budget_tokens": 4, "page_tokens": 2, "dense_layers": 0},
        quest_keeps,
    ),
    "dhsa": (
        {"kind": "dhsa", "budget_tokens": 5, "chunk_tokens": 2, "sinks": 1, "local": 2},
        dhsa_keeps,
    ),
}


@given(
    trace=traces(allowed=("window", "chunk", "stored", "alibi", "softcap", "width"), decoder=True),
    name=st.sampled_from(sorted(BLOCKS)),
)
@settings(max_examples=80, deadline=None)
def test_blocks_that_no_query_sees_are_not_ranked_or_read(trace: AttentionTrace, name: str) -> None:
    settings_of, keeps = BLOCKS[name]
    policy = Policy.model_validate({"selection": settings_of})
    work = run_policy(trace, policy).workload
    for row in range(work.rows):
        layer, head = int(work["layer"][row]), int(work["head"][row])
        own, step = trace.layer(layer), int(work["step"][row])
        key = quantize_dequantize(trace.key(layer), 12, "per_tensor")[head].astype(float)
        context, prompt = int(work["context_tokens"][row]), trace.prefill_tokens
        positions = range(prompt) if step == 0 else [context - 1]
        union, ranked = np.zeros(own.keys, dtype=bool), 0
        for position in positions:
            seen = trace.seen(layer, np.array([position]))[0]
            pages: list[int] = []
            for each in range(head * own.group, (head + 1) * own.group):
                query = trace.query(layer)[each, position].astype(float)
                kept, found = keeps(
                    policy.selection, query, key[: position + 1], seen[: position + 1], position,
                    prompt,
                )  # fmt: skip
                union[: position + 1] |= kept
                pages = pages or found
            ranked += len(pages)
        assert work.key_indices[row].tolist() == np.flatnonzero(union).tolist()
        vectors = ranked * (2 if name == "quest" else 1)
        assert work["metadata_bytes"][row] == vectors * (own.key_dim * 12) // 8


@given(
    trace=traces(
        allowed=(
            "window", "chunk", "stored", "kv_heads", "softcap", "alibi", "relative", "stored_bias",
            "sinks",
        ),
        decoder=True,
    )
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_merged_key_is_seen_where_it_lies(trace: AttentionTrace) -> None:
    """EMS whose budget holds everything is dense; with a small one no hidden key is fetched."""
    if "latent attention" in trace.beyond() or any("another width" in w for w in trace.beyond()):
        return
    dense = run_policy(trace, load_policy("static-12"))
    every = Policy.model_validate({"selection": {"kind": "ems", "budget_tokens": 1000}})
    whole = run_policy(trace, every)
    for name in ("relative_output_error", "kept_mass", "mean_kl"):
        assert whole.accuracy[name] == pytest.approx(dense.accuracy[name], abs=1e-9)
    assert whole.workload["query_keys"].tolist() == dense.workload["query_keys"].tolist()
    few = Policy.model_validate({"selection": {"kind": "ems", "budget_tokens": 2}})
    work = run_policy(trace, few).workload
    for row in np.flatnonzero(work["step"] > 0):
        seen = trace.seen(int(work["layer"][row]), np.array([work["context_tokens"][row] - 1]))[0]
        assert set(work.key_indices[row]) <= set(np.flatnonzero(seen))


@given(trace=traces(allowed=("stored", "alibi", "stored_bias", "softcap", "scale")))
@settings(max_examples=30, deadline=None)
def test_an_encoder_under_masks_ranks_what_it_sees(trace: AttentionTrace) -> None:
    policy = load_policy("zero-tprune")
    if trace.causal or trace.decode_tokens:
        assert not applicable(policy, trace)
        return
    run = run_policy(trace, policy)
    work = run.workload
    for row in range(work.rows):
        seen = trace.seen(int(work["layer"][row]), np.arange(trace.tokens))
        assert set(work.key_indices[row]) <= set(np.flatnonzero(seen.any(axis=0)))
    whole = Policy.model_validate(
        {"selection": {"kind": "zero_tprune", "keep_importance": 1.0, "keep_similarity": 1.0}}
    )
    dense = run_policy(trace, load_policy("static-12"))
    kept = run_policy(trace, whole)
    assert kept.accuracy["mean_kl"] == pytest.approx(dense.accuracy["mean_kl"], abs=1e-9)
    assert kept.workload["query_keys"].tolist() == dense.workload["query_keys"].tolist()
