"""What holds of every policy, over a trace and inside a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from accelsim.functional import Looks, PolicyRun, run_policy
from accelsim.functional.closed_loop import PolicyAttention
from accelsim.policies import Budgeted, ByHead, Policy, applicable, load_policy_spec
from accelsim.policies.selector import Block, Decision, Shape
from accelsim.traces import (
    IMAGE,
    SYSTEM,
    TEXT,
    AttentionTrace,
    Bias,
    Indexer,
    LayerEntry,
    Mask,
    MemoryTensors,
    synthetic_trace,
)

Kept = dict[tuple[int, int, int], list[int]]
"""Step, layer and KV head to the ascending tokens whose keys are fetched."""

_MODEL: dict[str, Any] = {"num_layers": 4, "num_query_heads": 6, "num_kv_heads": 2, "head_dim": 8}


class PolicyContract:
    """Runs a policy on small synthetic traces.

    Attributes:
        policy: as ``--policy`` takes it: preset name or YAML file, with ``:KEY=VALUE,...``.
    """

    policy: ClassVar[str]

    @property
    def loaded(self) -> Policy:
        """The policy."""
        return load_policy_spec(self.policy)

    @property
    def by_token(self) -> Policy:
        """The same with a scale for each token: one of a whole text knows what comes later."""
        q = self.loaded.quantization
        if q.kind == "kivi":
            return self.loaded
        colon = "," if ":" in self.policy else ":"
        keys = ",quantization.key_scale=null" if q.kind == "static" and q.key_scale else ""
        return load_policy_spec(f"{self.policy}{colon}quantization.scale=per_token{keys}")

    def traces(self) -> list[AttentionTrace]:
        """Those of a decoder with and without a prompt, and of an encoder, that it applies to.

        One that applies to none of them is given a prompt with an image, or index keys. Of each
        there is one more under random masks, biases and sinks, and of a decoder one that reads its
        prompt in both directions, where the policy takes them.
        """
        layers = self.loaded.num_layers or _MODEL["num_layers"]
        made = [make(num_layers=layers) for make in (_decoder, _stream, _encoder)]
        if not any(self.applies(trace) for trace in made):
            made = [_seeing(), _indexed()]
        made += [_masked(trace) for trace in made] + [
            _in_both_directions(trace) for trace in made if trace.causal and trace.prefill_tokens
        ]
        return [trace for trace in made if self.applies(trace)]

    def applies(self, trace: AttentionTrace) -> bool:
        """Whether it does anything sensible on a trace."""
        rule = self.loaded.selection
        once = rule is not None and rule.needs.selection == "once"
        return applicable(self.loaded, trace) and (trace.prefill_tokens > 0 or not once)

    def run(self, trace: AttentionTrace, seed: int = 0) -> PolicyRun:
        """Open loop."""
        return run_policy(trace, self.by_token, seed=seed)

    def test_bytes_are_those_of_the_masks(self) -> None:
        """Rows are complete and in order, and count the tokens that they name."""
        for trace in self.traces():
            w = self.run(trace).workload
            assert w.key_indices is not None
            assert w.value_indices is not None
            places = np.stack([w["step"], w["layer"], w["head"]]).T.tolist()
            assert places == sorted(places)
            assert len({tuple(place) for place in places}) == w.rows
            bits = 0
            for row, (keys, values) in enumerate(zip(w.key_indices, w.value_indices, strict=True)):
                assert (len(keys), len(values)) == (w["keys"][row], w["values"][row])
                assert set(values.tolist()) <= set(keys.tolist())
                assert (np.diff(keys) > 0).all()
                runs = 1 + int(np.count_nonzero(np.diff(keys) > 1))
                assert w["key_runs"][row] == runs
                assert len(keys) <= w["query_keys"][row] <= w["queries"][row] * len(keys)
                bits += len(keys) * int(w["key_bits"][row])
            assert w.policy_bytes()["key_msb"] == bits * trace.head_dim // 8

    def test_pivots_change_no_decision(self) -> None:
        """The same input gives the same run; another seed only other passes."""
        for trace in self.traces():
            one, two, other = (self.run(trace, seed) for seed in (0, 0, 5))
            assert one.accuracy == two.accuracy == other.accuracy
            for name, column in one.workload.columns.items():
                assert (column == two.workload[name]).all(), name
            assert kept(one) == kept(other)

    def test_what_leaves_for_good_stays_away(self) -> None:
        """The query's own token is there; a budget of a layer or KV head is held."""
        rule = self.loaded.selection
        for trace in self.traces():
            gone: dict[tuple[int, int], set[int]] = {}
            for (step, layer, head), tokens in kept(self.run(trace)).items():
                if not trace.decode_tokens or not step:
                    continue
                context = trace.prefill_tokens + step
                seen = set(np.flatnonzero(trace.seen(layer, np.array([context - 1]))[0]).tolist())
                # A model's own indexer may leave the query's own token out.
                indexed = rule is not None and rule.needs.products
                assert context - 1 in tokens or context - 1 not in seen or indexed
                assert set(tokens) <= seen
                if rule is None:
                    continue
                if rule.needs.permanent:
                    before = gone.setdefault((layer, head), set())
                    assert not before & set(tokens), "a removed token came back"
                    before |= seen - set(tokens)
                fixed = rule.needs.permanent and rule.needs.selection in ("one_per_step", "batch")
                together = isinstance(rule, ByHead) and rule.head_floor is not None
                if isinstance(rule, Budgeted) and fixed and not together:
                    alone = trace.group if rule.share == "query_head" else 1
                    own = rule.at_layer(layer, trace.num_layers)
                    assert len(tokens) <= own.budget(context) * alone

    def test_later_tokens_change_no_earlier_decision(self) -> None:
        """Nothing leaks from the future."""
        for trace in self.traces():
            if not trace.decode_tokens:
                continue
            cut, rng = trace.prefill_tokens + 10, np.random.default_rng(1)
            tensors = {}
            for name in trace.tensors.names():
                tensor = trace.tensors.read(name).copy()
                if name.startswith("layer.") and not name.endswith((".mask", ".bias")):
                    later = np.moveaxis(tensor, tensor.shape.index(trace.tokens), 0)[cut:]
                    later[:] = rng.normal(size=later.shape)
                tensors[name] = tensor
            other = kept(self.run(replace(trace, tensors=MemoryTensors(tensors))))
            for place, tokens in kept(self.run(trace)).items():
                assert place[0] > 10 or other[place] == tokens, place

    def test_a_model_decides_as_the_trace(self) -> None:
        """Closed loop and open loop keep the same tokens and count the same bytes."""
        for trace in self.traces():
            attention, decided = attend(self.by_token, trace)
            run = self.run(trace)
            assert decided == kept(run)
            w = run.workload
            assert attention.kept_keys == int(w["query_keys"].sum())
            moved = w.select(w["step"] > 0) if Looks(trace).decodes else w
            written = int(moved["write_back_bytes"].sum())
            assert attention.dram_bytes == sum(moved.policy_bytes().values()) + written


def kept(run: PolicyRun) -> Kept:
    """Tokens whose keys are fetched, of an open loop."""
    w = run.workload
    assert w.key_indices is not None
    places = zip(w["step"].tolist(), w["layer"].tolist(), w["head"].tolist(), strict=True)
    return {place: keys.tolist() for place, keys in zip(places, w.key_indices, strict=True)}


def attend(policy: Policy, trace: AttentionTrace) -> tuple[PolicyAttention, Kept]:
    """Ask the attention of a model for every query of a trace, in the order that it needs.

    Returns:
        The attention, and the tokens whose keys it fetched.
    """
    looks = Looks(trace)
    shape = Shape(
        trace.num_layers, trace.num_query_heads, trace.num_kv_heads, trace.head_dim, trace.tokens,
        trace.prefill_tokens if looks.decodes else 0, looks.decodes, token_type=trace.token_type,
        scores=trace.scores, recorded=trace, both_ways=looks.decodes and not trace.causal,
    )  # fmt: skip
    attention = PolicyAttention(policy, shape, trace.scale, looks=looks)
    found: dict[tuple[int, int, int], set[int]] = {}
    decide: Callable[[Block], Decision] = attention.selector.run

    def watched(block: Block) -> Decision:
        decision = decide(block)
        hidden = block.look.hidden
        read = decision.kept if hidden is None else decision.kept & ~hidden
        grouped = read.reshape(len(block.key), -1, *read.shape[1:])
        for head, rows in enumerate(np.asarray(grouped.any(axis=1))):
            for position, mask in zip(block.positions.tolist(), rows, strict=True):
                step = max(position - trace.prefill_tokens + 1, 0) if looks.decodes else 0
                tokens = found.setdefault((step, block.layer, head), set())
                tokens.update(np.flatnonzero(mask).tolist())
        return decision

    attention.selector.run = watched  # type: ignore[method-assign]
    prompt = trace.prefill_tokens
    one_by_one = attention.by_step and looks.decodes
    cuts = [prompt, *range(prompt + 1, trace.tokens)] if one_by_one else []
    for positions in np.split(np.arange(trace.tokens), cuts):
        for layer in range(trace.num_layers if len(positions) else 0):
            end = int(positions[-1]) + 1
            query = trace.query(layer)[:, positions]
            attention(
                layer, query, trace.key(layer)[:, :end], trace.value(layer)[:, :end], positions
            )
    return attention, {place: sorted(tokens) for place, tokens in found.items() if tokens}


def _decoder(**changes: Any) -> AttentionTrace:
    return synthetic_trace(seed=3, prefill_tokens=40, decode_tokens=24, **(_MODEL | changes))


def _stream(**changes: Any) -> AttentionTrace:
    return synthetic_trace(seed=4, prefill_tokens=0, decode_tokens=64, **(_MODEL | changes))


def _encoder(**changes: Any) -> AttentionTrace:
    return synthetic_trace(
        seed=3, prefill_tokens=40, decode_tokens=0, causal=False, **(_MODEL | changes)
    )


def _indexed(prefill: int = 40, decode: int = 24) -> AttentionTrace:
    """A model whose layers have indexers, the last of which takes over the choice before it."""
    trace = synthetic_trace(seed=3, prefill_tokens=prefill, decode_tokens=decode, **_MODEL)
    own = Indexer(top_k=9, heads=3, dim=5)
    entries = [LayerEntry(indexer=own)] * 3 + [LayerEntry(indexer=Indexer(top_k=9, shared=True))]
    trace = replace(trace, layers=tuple(entries))
    rng = np.random.default_rng(7)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32)
        if "index" in name
        else trace.tensors.read(name)
        for name, shape in trace.expected_shapes()
    }
    return replace(trace, tensors=MemoryTensors(tensors))


def _seeing() -> AttentionTrace:
    """A deep model whose prompt has an image, with what rules of visual tokens look at."""
    model = _MODEL | {"num_layers": 28, "num_query_heads": 16}  # SparseVLM+ asks 14 heads
    trace = synthetic_trace(seed=5, prefill_tokens=40, decode_tokens=24, **model)
    tensors = {name: trace.tensors.read(name) for name in trace.tensors.names()}
    kinds = np.full(trace.tokens, TEXT, dtype=np.int8)
    kinds[:4], kinds[4:28] = SYSTEM, IMAGE
    rng = np.random.default_rng(6)
    for name in ("vtc_cls", "vflowopt"):
        tensors[f"score.{name}"] = rng.random((28, trace.tokens)).astype(np.float32)
    tensors["embedding"] = rng.normal(size=(trace.tokens, 12)).astype(np.float32)
    tensors["layer.5.hidden"] = rng.normal(size=(trace.tokens, 12)).astype(np.float32)
    tensors["vision.layer.1.cls"] = rng.random((3, 24)).astype(np.float32)
    for layer in range(6, 12):
        own = rng.uniform(-1, 1, (2, trace.tokens, 2)).astype(np.float32)
        tensors[f"layer.{layer}.transition"] = np.abs(own)
    return replace(trace, tensors=MemoryTensors(tensors | {"token_type": kinds}))


def _masked(trace: AttentionTrace) -> AttentionTrace:
    """The same with windows, chunks and random masks, biases, soft caps and sinks."""
    rng = np.random.default_rng(7)
    heads, tokens = trace.num_query_heads, trace.tokens
    tensors = {name: trace.tensors.read(name) for name in trace.tensors.names()}
    slopes = Bias(kind="alibi", slopes=tuple(rng.uniform(0.0, 0.3, size=heads).tolist()))
    sinks = tuple(rng.normal(size=heads).tolist())
    window = Mask(kind="window", size=13, side="left" if trace.causal else "both")
    kinds = [
        LayerEntry(mask=window, sinks=sinks),
        LayerEntry(mask=Mask(kind="stored"), softcap=2.0),
        LayerEntry(mask=Mask(kind="chunk", size=17) if trace.causal else None, bias=slopes),
        LayerEntry(sinks=sinks),
    ]
    layers = tuple(kinds[layer % len(kinds)] for layer in range(trace.num_layers))
    for layer in range(1, trace.num_layers, len(kinds)):
        seen = rng.random((tokens, tokens)) < 0.6
        seen |= np.eye(tokens, dtype=bool)
        seen &= np.tri(tokens, dtype=bool) | (not trace.causal)
        tensors[f"layer.{layer}.mask"] = np.packbits(seen, axis=1, bitorder="little")
    return replace(trace, layers=layers, tensors=MemoryTensors(tensors))


def _in_both_directions(trace: AttentionTrace) -> AttentionTrace:
    """The same with a prompt that is read in both directions, in whole or in part."""
    prompt = trace.prefill_tokens
    kinds = [Mask(kind="prefix", length=prompt), Mask(kind="prefix", length=prompt // 2 + 1)]
    layers = tuple(
        LayerEntry(mask=kinds[layer % 2], sinks=(0.5,) * trace.num_query_heads if layer else None)
        for layer in range(trace.num_layers)
    )
    return replace(trace, causal=False, layers=layers)
