"""Zero-TPrune as published, against a plain reading: I' - S - I, head by head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accelsim.attention.quantization import quantize_dequantize
from accelsim.functional import run_policy
from accelsim.policies import Policy
from accelsim.policies.selections.zero_tprune_published import ZeroTPrunePublished
from accelsim.traces import LayerEntry, Mask, MemoryTensors, synthetic_trace

LAYERS, TOKENS = 4, 24


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_zero_tprune_votes_compares_and_ranks(seed: int, masked: bool) -> None:
    trace = synthetic_trace(
        seed=seed, num_layers=LAYERS, prefill_tokens=TOKENS, decode_tokens=0, causal=False
    )
    rng, sinks = np.random.default_rng(seed), np.full(trace.num_query_heads, -np.inf)
    seen = np.ones((TOKENS, TOKENS), dtype=bool)
    if masked:
        seen, sinks = (
            (rng.random(seen.shape) < 0.6) | np.eye(TOKENS, dtype=bool),
            rng.normal(size=trace.num_query_heads),
        )
        bits = np.packbits(seen, axis=1, bitorder="little")
        tensors = {name: trace.tensors.read(name) for name in trace.tensors.names()}
        tensors |= {f"layer.{layer}.mask": bits for layer in range(LAYERS)}
        entry = LayerEntry(mask=Mask(kind="stored"), sinks=tuple(sinks.tolist()))
        trace = replace(trace, layers=(entry,) * LAYERS, tensors=MemoryTensors(tensors))
    rule = {
        "kind": "zero_tprune_published", "keep_similarity": 0.8, "keep_importance": 0.7,
        "after_layers": [0.25, 0.75], "iterations": [6, 4, 2],
    }  # fmt: skip
    policy = Policy.model_validate({"selection": rule})  # reads keys of 12 bits
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    found = {
        (int(layer), int(head)): keys.tolist()
        for layer, head, keys in zip(w["layer"], w["head"], w.key_indices, strict=True)
    }
    alive = list(range(TOKENS))
    expected = []
    for layer in range(LAYERS):
        expected.append(alive)
        if layer not in (0, 2):
            continue
        times = {0: 6, 2: 4}[layer]
        query = trace.query(layer).astype(float)
        key = quantize_dequantize(trace.key(layer), 12, "per_tensor").astype(float)
        maps = []
        for head in range(trace.num_query_heads):
            scores = query[head, alive] @ key[head // trace.group, alive].T * trace.scale
            weights = np.exp(scores) * seen[np.ix_(alive, alive)]
            maps.append(weights / (weights.sum(axis=1, keepdims=True) + np.exp(sinks[head])))

        def vote(maps: list[np.ndarray], first: bool, times: int) -> np.ndarray:
            size = len(maps[0])
            squares = np.zeros(size)
            for attention in maps:
                rank = np.full(size, 1 / size)
                rank[0] *= np.sqrt(size) if first else 1
                for _ in range(times):
                    rank = attention.T @ rank
                squares += rank**2
            return np.sqrt(squares / len(maps))

        rank = vote(maps, True, 1)
        free = sorted(range(1, len(alive)), key=lambda t: rank[t])
        less, more = free[: len(free) // 2], free[len(free) // 2 :]
        flat = [np.concatenate([key[h, t] for h in range(trace.num_kv_heads)]) for t in alive]
        unit = [v / np.linalg.norm(v) for v in flat]
        near = {t: max(float(unit[t] @ unit[o]) for o in more) for t in less}
        leaving = len(alive) - int(np.ceil(0.8 * len(alive) - 1e-9))
        gone = sorted(less, key=lambda t: -near[t])[:leaving]
        left = [t for t in range(len(alive)) if t not in gone]
        rank = vote([m[np.ix_(left, left)] for m in maps], True, times)
        stay = int(np.ceil(0.7 * len(left) - 1e-9))
        best = [0, *sorted(range(1, len(left)), key=lambda t: -rank[t])[: stay - 1]]
        alive = sorted(alive[left[t]] for t in best)
    assert len(expected[-1]) < len(expected[1]) < TOKENS
    for (layer, _), keys in found.items():
        shown = seen[expected[layer]].any(axis=0)
        assert keys == [j for j in expected[layer] if shown[j]], layer


def test_products_fall_with_depth() -> None:
    rule = ZeroTPrunePublished(kind="zero_tprune_published")
    assert [rule.products(layer, 12) for layer in (2, 5, 8, 10)] == [30, 5, 1, 1]
    assert [rule.products(layer, 6) for layer in range(5)] == [30, 30, 5, 5, 1]
