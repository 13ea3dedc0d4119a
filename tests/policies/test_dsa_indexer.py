"""The rule of DSA's indexer: the model's own keys, a plain reading of it, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accelsim import exploration
from accelsim.errors import TraceError
from accelsim.functional import run_policy
from accelsim.policies import Policy, load_policy, why_closed_loop_not, why_not
from accelsim.testing._policies import _indexed
from accelsim.traces import (
    AttentionTrace,
    LayerEntry,
    MemoryTensors,
    load_trace,
    save_trace,
    synthetic_trace,
    validate_trace,
)
from accelsim.traces.capture import capture
from accelsim.traces.capture._run import index_fault

TRACE = _indexed()
SMALL: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 32, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "index_topk": 5, "index_n_heads": 8, "index_head_dim": 12,
}  # fmt: skip
MODELS = {
    "DeepseekV32": {},
    "GlmMoeDsa": {"indexer_types": ["full", "shared", "full", "shared"]},
}


def rule(top_k: int) -> Policy:
    return Policy.model_validate({"selection": {"kind": "dsa_indexer", "top_k": top_k}})


def kept(trace: AttentionTrace, policy: Policy) -> dict[tuple[int, int, int], list[int]]:
    w = run_policy(trace, policy).workload
    assert w.key_indices is not None
    places = zip(w["step"].tolist(), w["layer"].tolist(), w["head"].tolist(), strict=True)
    return {place: keys.tolist() for place, keys in zip(places, w.key_indices, strict=True)}


def best(trace: AttentionTrace, layer: int, i: int, top_k: int) -> list[int]:
    """Keys of a query by the formula, number by number."""
    read = trace.tensors.read
    while f"layer.{layer}.index_key" not in trace.tensors.names():
        layer -= 1
    query, key, weight = (read(f"layer.{layer}.index_{n}") for n in ("query", "key", "weight"))
    scores = []
    for s in range(i + 1):
        total = 0.0
        for head in range(len(query)):
            product = sum(float(a) * float(b) for a, b in zip(query[head, i], key[s], strict=True))
            total += float(weight[head, i]) * max(product, 0.0)
        scores.append(total)
    return sorted(np.argsort(-np.array(scores), kind="stable")[:top_k].tolist())


@pytest.mark.parametrize("top_k", [1, 7, 40])
def test_the_best_keys_by_the_formula(top_k: int) -> None:
    found = kept(TRACE, rule(top_k))
    prompt = TRACE.prefill_tokens
    for layer in range(TRACE.num_layers):
        union: set[int] = set()
        for i in range(prompt):
            union |= set(best(TRACE, layer, i, top_k))
        for head in range(TRACE.num_kv_heads):
            assert found[0, layer, head] == sorted(union)
            for step in range(1, TRACE.decode_tokens + 1):
                assert found[step, layer, head] == best(TRACE, layer, prompt + step - 1, top_k)


def test_what_ranking_costs() -> None:
    w, prompt = run_policy(TRACE, rule(7)).workload, TRACE.prefill_tokens
    bytes_a_key = (5 * 8 + 32) // 8
    for row in range(w.rows):
        step, layer, head = (int(w[name][row]) for name in ("step", "layer", "head"))
        ranking = [i + 1 for i in range(prompt) if i >= 7] if step == 0 else [prompt + step]
        if head or layer == 3:  # one indexer a layer; the last takes over a choice
            ranking = []
        assert w["index_products"][row] == sum(ranking) * 3 * (5 + 1)
        read = 0 if not ranking else prompt if step == 0 else prompt + step
        assert w["metadata_bytes"][row] == read * bytes_a_key
        assert w["select_passes"][row] >= len(ranking)
        assert w["select_elements"][row] >= sum(ranking)
        assert w["select_size"][row] == max(ranking, default=0)
        assert w["select_target"][row] == (7 if ranking else 0)
    # Where all keys stay, nothing is ranked.
    for policy in (load_policy("dsa-indexer"), rule(64)):
        dense = run_policy(TRACE, policy)
        for name in ("index_products", "metadata_bytes", "select_passes"):
            assert not dense.workload[name].any()
        assert dense.accuracy["kept_token_fraction"] == 1.0


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 1), (1, 6), (0, 5)])
@pytest.mark.parametrize("top_k", [1, 2, 2048])
def test_short_traces(prefill: int, decode: int, top_k: int) -> None:
    trace = _indexed(prefill, decode)
    for (step, layer, _), keys in kept(trace, rule(top_k)).items():
        if step:
            assert keys == best(trace, layer, prefill + step - 1, top_k)


def test_the_machine_is_told(tmp_path: Path) -> None:
    save_trace(TRACE, tmp_path / "t.safetensors")
    changes = {"policy.selection.top_k": 7}
    found = exploration.replay(
        str(tmp_path / "t.safetensors"), policy="dsa-indexer", overrides=changes, baselines=[]
    )
    decided = run_policy(load_trace(tmp_path / "t.safetensors"), rule(7)).workload
    assert found.manifest["not_served"]["index_products"] == decided["index_products"].sum() > 0
    assert found.dram_read_bytes_by_tensor["metadata"] >= decided["metadata_bytes"].sum() > 0


@pytest.fixture(scope="module", params=list(MODELS))
def captured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small model with random weights, on 24 tokens and 8 more."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    name = request.param
    if not hasattr(transformers, f"{name}ForCausalLM"):
        pytest.skip(f"this transformers has no {name}")
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SMALL | MODELS[name]))
    network = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(4.0)
    folder = tmp_path_factory.mktemp(name)
    network.save_pretrained(folder)
    words = {f"w{i}": i for i in range(20)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    ids = np.random.default_rng(0).integers(3, 20, 24)
    return capture(str(folder), " ".join(f"w{i}" for i in ids), decode=8)


def unmasked(trace: AttentionTrace) -> AttentionTrace:
    """The same without what the model chose."""
    entries = [entry.model_copy(update={"mask": None}) for entry in trace.layers]
    return replace(trace, layers=tuple(entries))


def seen(trace: AttentionTrace, layer: int) -> NDArray[np.bool_]:
    return trace.seen(layer, np.arange(trace.tokens))


def test_index_keys_choose_the_models_own_keys(captured: AttentionTrace) -> None:
    """Without its masks, the rule finds the keys that the model attended to; with them, too."""
    assert [captured.layer(n).mask.kind for n in range(4)] == ["stored"] * 4
    assert not any(index_fault(captured, n) for n in range(4))
    prompt = captured.prefill_tokens
    for trace in (captured, unmasked(captured)):
        found = kept(trace, rule(5))
        for layer in range(4):
            own = seen(captured, layer)
            assert own.sum(axis=1).tolist() == [min(i + 1, 5) for i in range(32)]
            prefill = np.flatnonzero(own[:prompt].any(axis=0)).tolist()
            assert found[0, layer, 0] == prefill
            for step in range(1, 9):
                expected = np.flatnonzero(own[prompt + step - 1]).tolist()
                assert found[step, layer, 3] == expected


def test_fewer_keys_than_the_model_and_more(captured: AttentionTrace) -> None:
    fewer, own, more = (kept(captured, rule(k)) for k in (3, 5, 20))
    assert more == own
    for (step, layer, head), keys in fewer.items():
        if step:
            assert len(keys) == 3
            assert set(keys) < set(own[step, layer, head])
            assert keys == best(captured, layer, captured.prefill_tokens + step - 1, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read(captured: AttentionTrace, dtype: Any, tmp_path: Path) -> None:
    save_trace(captured, tmp_path / "t.safetensors", dtype)
    again = load_trace(tmp_path / "t.safetensors")
    validate_trace(again)
    assert again.layers == captured.layers
    assert kept(again, rule(5)) == kept(captured, rule(5))


def test_a_wrong_index_key_is_found(captured: AttentionTrace) -> None:
    """The proof of a capture fails where the keys do not follow."""
    tensors = {name: captured.tensors.read(name) for name in captured.tensors.names()}
    for name, change in (
        ("index_key", lambda t: -t),
        ("index_weight", lambda t: t[::-1]),
        ("index_query", lambda t: np.roll(t, 1, axis=1)),
    ):
        own = {f"layer.2.{name}": np.ascontiguousarray(change(tensors[f"layer.2.{name}"]))}
        wrong = replace(captured, tensors=MemoryTensors(tensors | own))
        assert "leaves out a key that ranks" in index_fault(wrong, 2)
        assert index_fault(wrong, 0) == ""
    more = [
        entry.model_copy(update={"indexer": entry.indexer.model_copy(update={"top_k": 6})})
        for entry in captured.layers
        if entry.indexer is not None
    ]
    assert "attends to 5 keys; expected 6" in index_fault(replace(captured, layers=tuple(more)), 2)


def test_a_trace_without_index_keys_is_refused() -> None:
    policy, plain = load_policy("dsa-indexer"), synthetic_trace()
    message = "policy 'dsa_indexer' ranks by index keys; layer 0 has none; expected a trace of"
    assert message in why_not(policy, plain)
    with pytest.raises(TraceError, match="layer 0 has none"):
        run_policy(plain, policy)
    entries = (*TRACE.layers[:2], LayerEntry(), TRACE.layers[3])
    assert "layer 2 has none" in why_not(policy, replace(TRACE, layers=entries))
    told = why_closed_loop_not(policy, causal=True, token_ids=[1, 2, 3])
    assert "expected a trace that has some" in told
