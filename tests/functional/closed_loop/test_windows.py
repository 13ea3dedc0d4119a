"""A cascade inside a model whose layers have windows: a plain reading, a trace, and models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accelsim.cli import main
from accelsim.functional import run_policy
from accelsim.functional.closed_loop import (
    PolicyAttention,
    TransformersModel,
    forward,
    policy_attention,
)
from accelsim.policies import Policy, load_policy_spec
from accelsim.traces import AttentionTrace, LayerEntry, Mask, MemoryTensors, synthetic_trace
from accelsim.traces.capture import ModelShape

TOKENS, LAYERS, HEADS, KV_HEADS, DIM = 26, 4, 4, 2, 8
Windows = tuple[int | None, ...]
Kept = dict[tuple[int, int], list[int]]
"""Layer and query to the ascending tokens that it attends to."""


def drawn(seed: int, prompt: int, windows: Windows) -> AttentionTrace:
    plain = synthetic_trace(
        num_layers=LAYERS, num_query_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM,
        prefill_tokens=prompt, decode_tokens=TOKENS - prompt, seed=seed,
    )  # fmt: skip
    entries = [
        LayerEntry(mask=None if size is None else Mask(kind="window", size=size, side="left"))
        for size in windows
    ]
    return dataclasses.replace(plain, layers=tuple(entries))


def sees(windows: Windows, layer: int, query: int, token: int) -> bool:
    window = windows[layer]
    return token <= query and (window is None or token > query - window)


def ranked(live: set[int], importance: np.ndarray, forced: set[int], budget: int) -> set[int]:
    """Those of ``live`` that stay; a protected one does, and of equals the lower."""
    order = sorted(live, key=lambda j: (j not in forced, -importance[j], j))
    return set(order[: max(budget, len(forced))])


class Plain:
    """Algorithm 2 of SpAtten, HPCA 2021, on sets of tokens, in both readings."""

    def __init__(self, policy: Policy, trace: AttentionTrace, windows: Windows) -> None:
        self.policy, self.trace, self.windows = policy, trace, windows
        self.kept: Kept = {}
        self.output = np.zeros((LAYERS, HEADS, TOKENS, DIM))
        self.gone: list[set[int]] = [set() for _ in range(LAYERS)]
        bits = policy.quantization
        self.stored = [
            [self._rounded(tensor(layer), bits.key_bits) for tensor in (trace.key, trace.value)]
            for layer in range(LAYERS)
        ]

    @staticmethod
    def _rounded(tensor: np.ndarray, bits: int) -> np.ndarray:
        scale = np.abs(tensor).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)
        return np.asarray(np.rint(tensor / scale) * scale, dtype=np.float64)

    def gives(self, layer: int, query: int, tokens: set[int], heads: set[int]) -> np.ndarray:
        """What a query gives to each token, [heads, tokens]; its output is noted."""
        kept = sorted(j for j in tokens if sees(self.windows, layer, query, j))
        self.kept[layer, query] = kept
        given_ = np.zeros((HEADS, TOKENS))
        key, value = self.stored[layer]
        for h in sorted(heads):
            own = self.trace.query(layer)[h, query].astype(np.float64)
            scores = key[h // 2, kept] @ own * self.trace.scale
            weights = np.exp(scores - scores.max())
            given_[h, kept] = weights / weights.sum()
            self.output[layer, h, query] = given_[h, kept] @ value[h // 2, kept]
        return given_

    def prune(self, layer: int, live: set[int], context: int, importance: np.ndarray) -> set[int]:
        rule = self.policy.tokens
        if rule is None:
            return live
        first, recent = rule.protected_ranges()
        recent = max(recent, 1)
        forced = {j for j in live if j < first or j >= context - recent}
        age = context - np.arange(TOKENS) if rule.per_query else np.ones(TOKENS)
        mean = importance / np.maximum(age, 1)
        left = ranked(live, mean, forced, rule.budget(layer, LAYERS, context))
        if rule.permanent:
            self.gone[layer] |= live - left
        return left

    def by_layers(self) -> None:
        """Every query on its own, by the layers before it and the queries up to it."""
        received = np.zeros((TOKENS, TOKENS))
        put_out = np.zeros((TOKENS, HEADS))
        above = [set(range(i + 1)) for i in range(TOKENS)]
        alive = [set(range(HEADS)) for _ in range(TOKENS)]
        for layer in range(LAYERS):
            more = np.zeros((TOKENS, TOKENS))
            for i in range(TOKENS):
                live, importance = above[i] - self.gone[layer], received[: i + 1].sum(axis=0)
                above[i] = self.prune(layer, live, i + 1, importance)
                if self.policy.heads is not None:
                    budget = self.policy.heads.budget(layer, LAYERS, HEADS)
                    alive[i] = ranked(alive[i], put_out[: i + 1].sum(axis=0), set(), budget)
                more[i] = self.gives(layer, i, above[i], alive[i]).sum(axis=0)
            received += more
            put_out += np.abs(self.output[layer]).sum(axis=2).T

    def by_steps(self) -> None:
        """The prompt, ranked as a whole, then token by token: all layers before the next token."""
        prompt, importance, put_out = self.trace.prefill_tokens, np.zeros(TOKENS), np.zeros(HEADS)
        chosen: dict[int, set[int]] = {}
        for positions in [range(prompt), *([i] for i in range(prompt, TOKENS))]:
            if not len(positions):
                continue
            context = positions[-1] + 1
            live, heads = set(range(context)), set(range(HEADS))
            for layer in range(LAYERS):
                live = self.prune(layer, live - self.gone[layer], context, importance)
                if self.policy.heads is not None:
                    if layer not in chosen:
                        budget = self.policy.heads.budget(layer, LAYERS, HEADS)
                        chosen[layer] = ranked(heads, put_out, set(), budget)
                    heads = heads & chosen[layer]
                for i in positions:
                    if i in live:
                        importance += self.gives(layer, i, live, heads).sum(axis=0)
                put_out += np.abs(self.output[layer, :, list(positions)]).sum(axis=(0, 2))


def inside(
    policy: Policy, trace: AttentionTrace, windows: Windows
) -> tuple[PolicyAttention, np.ndarray]:
    """Attention of a model that asks what the trace has recorded, and its outputs."""
    shape = ModelShape(LAYERS, HEADS, KV_HEADS, DIM, 64, windows=windows)
    prompt = trace.prefill_tokens
    attend = policy_attention(policy, shape, TOKENS, causal=True, prompt_tokens=prompt)
    output = np.zeros((LAYERS, HEADS, TOKENS, DIM))
    cuts = [prompt, *range(prompt + 1, TOKENS)] if attend.by_step else []
    for positions in np.split(np.arange(TOKENS), cuts):
        for layer in range(LAYERS if len(positions) else 0):
            end = positions[-1] + 1
            output[layer][:, positions] = attend(
                layer, trace.query(layer)[:, positions], trace.key(layer)[:, :end],
                trace.value(layer)[:, :end], positions,
            )  # fmt: skip
    return attend, output


def rows(trace: AttentionTrace, kept: Kept) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Step and layer to the tokens that its queries fetch."""
    found: dict[tuple[int, int], set[int]] = {}
    for (layer, query), tokens in kept.items():
        step = max(query + 1 - trace.prefill_tokens, 0)
        found.setdefault((step, layer), set()).update(tokens)
    return ((place, sorted(tokens)) for place, tokens in found.items())


@given(
    seed=st.integers(0, 999),
    windows=st.tuples(*[st.sampled_from((None, 1, 5, 11, 40))] * LAYERS),
    prompt=st.sampled_from((0, 9, TOKENS - 1)),
    reading=st.sampled_from(("layers", "steps")),
    rule=st.fixed_dictionaries(
        {
            "mean_keep": st.sampled_from((0.3, 0.6)),
            "permanent": st.booleans(),
            "per_query": st.booleans(),
            "importance": st.sampled_from(("paper", "protected")),
        }
    ),
    parts=st.sampled_from(("tokens", "heads", "both")),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_model_and_its_trace_decide_as_a_plain_reading(
    seed: int, windows: Windows, prompt: int, reading: str, rule: dict[str, Any], parts: str
) -> None:
    tokens = rule | {"accumulate": reading, "front": 0.0, "protect": {"first": 1, "recent": 3}}
    heads = {"mean_keep": 0.6, "front": 0.0, "accumulate": reading}
    chosen = {name: own for name, own in (("tokens", tokens), ("heads", heads))
              if parts in (name, "both")}  # fmt: skip
    policy = Policy.model_validate(chosen | {"quantization": {"scale": "per_token"}})
    trace = drawn(seed, prompt, windows)
    plain = Plain(policy, trace, windows)
    plain.by_layers() if reading == "layers" else plain.by_steps()

    attend, output = inside(policy, trace, windows)
    # Codes are rounded from float32 there, now and then to the next one.
    np.testing.assert_allclose(output, plain.output, atol=3e-3)
    work = run_policy(trace, policy).workload
    assert work.key_indices is not None
    if parts == "tokens":
        expected = dict(rows(trace, plain.kept))
        for row, found in enumerate(work.key_indices):
            assert found.tolist() == expected[int(work["step"][row]), int(work["layer"][row])]
        updates = sum(map(len, plain.kept.values())) * HEADS
        assert work["score_updates"].sum() == updates
    assert attend.kept_keys == work["query_keys"].sum()
    moved = work.select(work["step"] > 0)
    assert attend.dram_bytes == sum(moved.policy_bytes().values())
    seen = [
        sum(sees(windows, layer, i, j) for j in range(i + 1))
        for layer in range(LAYERS) for i in range(TOKENS)
    ]  # fmt: skip
    assert attend.visible_keys == sum(seen) * HEADS


IDS = np.random.default_rng(0).integers(0, 64, size=40).tolist()
PER_TOKEN = "quantization.scale=per_token"


def made(kind: str, folder: Path) -> TransformersModel:
    """A small random model whose layers (but one of Gemma 3) see the newest ten tokens."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 10,
        "max_position_embeddings": 64,
    }  # fmt: skip
    if kind == "Gemma3":
        types = ["sliding_attention", "full_attention", "sliding_attention"]
        config = transformers.Gemma3TextConfig(**sizes, layer_types=types, query_pre_attn_scalar=8)
        model = transformers.Gemma3ForCausalLM(config)
    else:
        model = transformers.MistralForCausalLM(transformers.MistralConfig(**sizes))
    model.save_pretrained(folder)
    return TransformersModel(str(folder))


@pytest.mark.parametrize("kind", ["Mistral", "Gemma3"])
def test_layers_with_windows_keep_them(kind: str, tmp_path: Path) -> None:
    model = made(kind, tmp_path)
    import torch
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = plain(torch.tensor([IDS])).logits[0].numpy()
    full = [1] if kind == "Gemma3" else []
    assert model.shape.windows == tuple(None if i in full else 10 for i in range(3))

    def run(spec: str, prompt: int = 0, steps: bool = False) -> tuple[np.ndarray, PolicyAttention]:
        attend = policy_attention(
            load_policy_spec(spec), model.shape, len(IDS), causal=True, prompt_tokens=prompt
        )
        if not steps:
            return forward(model, IDS, attend, prompt), attend
        cache = model.new_cache()
        return np.concatenate([model.forward([i], attend, cache) for i in IDS]), attend

    exact = f"dense:{PER_TOKEN}"
    logits, attend = run(exact)
    np.testing.assert_allclose(logits, expected, atol=2e-3)
    pairs = attend.visible_keys
    assert attend.kept_keys == pairs
    assert pairs == 4 * sum(min(i, 40 if own in full else 10) for own in range(3)
                            for i in range(1, 41))  # fmt: skip
    np.testing.assert_allclose(run(exact, steps=True)[0], expected, atol=2e-3)
    # A budget acts where everything is seen, and nowhere else.
    budget = f"tova:{PER_TOKEN},selection.budget_fraction=null,selection.budget_tokens=6"
    pruned, attend = run(budget)
    seen = np.arange(1, len(IDS) + 1)
    kept = sum(np.minimum(seen, 6 if i in full else 10).sum() for i in range(3)) * 4
    assert attend.kept_keys == kept
    assert np.allclose(pruned, expected, atol=2e-3) == (not full)
    # A cascade goes through all layers; one that keeps everything is the model itself.
    for reading in ("layers", "steps"):
        cascade = f"spatten-tokens:{PER_TOKEN},tokens.accumulate={reading}"
        for prompt in (0, 15):
            logits, attend = run(f"{cascade},tokens.mean_keep=1.0", prompt)
            np.testing.assert_allclose(logits, expected, atol=2e-3)
            assert attend.kept_keys == attend.visible_keys == pairs
        logits, attend = run(f"{cascade},tokens.protect.recent=2,tokens.mean_keep=0.3")
        assert attend.kept_keys < 0.8 * attend.visible_keys
        assert not np.allclose(logits, expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["Mistral", "Gemma3"])
@pytest.mark.parametrize("reading", ["layers", "steps"])
def test_a_cascade_inside_decides_as_over_what_it_asked(
    kind: str, reading: str, tmp_path: Path
) -> None:
    model = made(kind, tmp_path)
    policy = load_policy_spec(
        f"spatten-full:{PER_TOKEN},tokens.protect.recent=2,tokens.accumulate={reading},"
        f"heads.accumulate={reading}"
    )
    attend = policy_attention(policy, model.shape, len(IDS), causal=True)
    asked: dict[str, list[np.ndarray]] = {}

    class Listening:
        prompt_tokens, by_step = 0, attend.by_step

        def __call__(self, layer: int, *given: np.ndarray) -> np.ndarray:
            query, key, value, _ = given
            asked.setdefault(f"layer.{layer}.query", []).append(query)
            asked[f"layer.{layer}.key"], asked[f"layer.{layer}.value"] = [key], [value]
            return attend(layer, *given)

    forward(model, IDS, Listening())  # type: ignore[arg-type]
    plain = synthetic_trace(
        num_layers=3, num_query_heads=4, num_kv_heads=2, head_dim=8, prefill_tokens=0,
        decode_tokens=len(IDS),
    )  # fmt: skip
    tensors = {name: np.concatenate(parts, axis=1) for name, parts in asked.items()}
    layers = tuple(
        LayerEntry(mask=None if size is None else Mask(kind="window", size=size, side="left"))
        for size in model.shape.windows
    )
    trace = dataclasses.replace(
        plain, tensors=MemoryTensors(tensors), scale=model.shape.scale, layers=layers
    )
    work = run_policy(trace, policy).workload
    assert attend.kept_keys == work["query_keys"].sum()
    assert attend.dram_bytes == sum(work.policy_bytes().values())


def test_verify_runs_cascades_beyond_a_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made("Gemma3", tmp_path / "model")
    text, out = tmp_path / "w.json", tmp_path / "found.json"
    text.write_text(json.dumps({"windows": {"a": IDS}}))
    specs = [f"spatten-tokens:tokens.protect.recent=2,tokens.accumulate={reading}"
             for reading in ("layers", "steps")]  # fmt: skip
    main(
        ["verify", "--closed-loop", "--model", str(tmp_path / "model"), "--tokens", str(text),
         "--skip", "20", "--prompt-tokens", "20", "--json", str(out), "--policy", "dense",
         *(word for spec in specs for word in ("--policy", spec))]
    )  # fmt: skip
    capsys.readouterr()
    results = json.loads(out.read_text())["results"]
    for spec in specs:
        assert results[spec]["kept_key_fraction"] < 0.9
        assert results[spec]["dram_bytes"] < results["dense"]["dram_bytes"]
