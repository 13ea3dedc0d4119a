"""Qwen2, Qwen3 and Gemma 3 from GGUF: our own forward pass is transformers' on the same file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import write_gguf

from accelsim.errors import TraceError
from accelsim.functional.closed_loop import (
    PerplexityLoss,
    forward,
    load_model,
    perplexity,
    policy_attention,
)
from accelsim.policies import load_policy, load_policy_spec
from accelsim.traces import load_trace, save_trace
from accelsim.traces.capture import GgufModel, capture
from accelsim.traces.capture._run import proof_errors
from accelsim.traces.capture.gguf import FAMILIES

pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

WIDTH, HEADS, LAYERS, WINDOW = 32, 4, 3, 6
DIMS = {"qwen2": WIDTH // HEADS, "qwen3": 128, "gemma3": 256}
"""Sizes of a head; transformers has what follows from those of Qwen3 and Gemma 3 from its defaults,
not from the file."""
PIECES = [
    "<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)),
    "<start_of_turn>", "\n\n", "▁▁", "ab", "▁a", "abc", "▁ab", "bc",
    *"▁abcdefgh.\n",
]  # fmt: skip
TYPES = [3] * 4 + [6] * 256 + [3, 4] + [1] * (len(PIECES) - 262)
SCORES = [-1000.0] * 262 + [-float(rank) for rank in range(len(PIECES) - 262)]
WORDS = [*"abcdefgh.", "Ġ", "Ċ", "ab", "Ġa", "Ġab", "<|im_start|>", "1", "2", "'s", "'", "s"]
MERGES = ["a b", "Ġ a", "Ġ ab", "' s"]
TEXT = "ab abc dabc  gab.\n\nabcdef ab abch abd fab bc a."


def fields_of(name: str, **changes: Any) -> dict[str, Any]:
    """Metadata of a small file of an architecture; a change of ``None`` leaves a key out."""
    own = {
        "block_count": LAYERS, "context_length": 64, "embedding_length": WIDTH,
        "feed_forward_length": 24, "attention.head_count": HEADS, "attention.head_count_kv": 2,
        "attention.key_length": DIMS[name], "attention.value_length": DIMS[name],
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1000.0,
    }  # fmt: skip
    if name == "gemma3":
        own |= {"attention.sliding_window": WINDOW}
    if name == "qwen2":
        own |= {"attention.key_length": None, "attention.value_length": None}
    found: dict[str, Any] = {"general.name": "tiny"} | {f"{name}.{k}": v for k, v in own.items()}
    if name == "gemma3":
        found |= {
            "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": PIECES, "tokenizer.ggml.scores": SCORES,
            "tokenizer.ggml.token_type": TYPES, "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.add_space_prefix": False,
        }  # fmt: skip
    else:
        found |= {
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.merges": MERGES,
            "tokenizer.ggml.token_type": [3 if "|" in w else 1 for w in WORDS],
            "tokenizer.ggml.eos_token_id": 14, "tokenizer.ggml.bos_token_id": 14,
            "tokenizer.ggml.add_bos_token": False,
        }  # fmt: skip
    return {k: v for k, v in (found | changes).items() if v is not None}


def write(path: Path, name: str, **changes: Any) -> Path:
    """Write a small random model of an architecture."""
    dim = DIMS[name]
    fields = fields_of(name, **changes)
    rng, vocabulary = np.random.default_rng(0), len(fields["tokenizer.ggml.tokens"])
    kv, heads = fields[f"{name}.attention.head_count_kv"] * dim, HEADS * dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (WIDTH,), "attn_q.weight": (heads, WIDTH),
        "attn_k.weight": (kv, WIDTH), "attn_v.weight": (kv, WIDTH),
        "attn_output.weight": (WIDTH, heads), "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (24, WIDTH), "ffn_up.weight": (24, WIDTH),
        "ffn_down.weight": (WIDTH, 24),
        "attn_q.bias": (heads,), "attn_k.bias": (kv,), "attn_v.bias": (kv,),
        "attn_q_norm.weight": (dim,), "attn_k_norm.weight": (dim,),
        "post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,),
    }  # fmt: skip
    extra = [n for n in layer if n.endswith(".bias") or "_norm" in n]
    extra = [n for n in extra if n not in ("attn_norm.weight", "ffn_norm.weight")]
    layer = {n: s for n, s in layer.items() if n not in extra or n in FAMILIES[name].tensors}
    shapes = {"token_embd.weight": (vocabulary, WIDTH), "output_norm.weight": (WIDTH,)} | {
        f"blk.{i}.{n}": shape
        for i in range(fields[f"{name}.block_count"])
        for n, shape in layer.items()
    }
    tensors = {}
    for tensor, shape in shapes.items():
        value = rng.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.2)
        tensors[tensor] = value + 1 if tensor.endswith("norm.weight") else value
    return write_gguf(path, name, fields, tensors)


def reference(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of transformers' own forward pass."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma3"])
def test_logits_and_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = write(tmp_path / "m.gguf", name)
    model = GgufModel(path)
    text = TEXT if name == "gemma3" else "ab's ab12 a.\n\nabc  defg abh 's ab.ab a bc"
    ids = model.encode(text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert ids == theirs(text)["input_ids"]
    assert len(ids) > 2 * WINDOW
    assert model.decode(ids).removeprefix("<bos>") == text
    expected = reference(path, ids)
    logits = model.forward(ids)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    cache = model.new_cache()
    steps = np.concatenate([model.forward(part, cache=cache) for part in (ids[:5], *zip(ids[5:]))])
    np.testing.assert_allclose(steps, expected, atol=1e-4 * np.abs(expected).max())


def test_windows_follow_the_file(tmp_path: Path) -> None:
    six = write(tmp_path / "six.gguf", "gemma3", **{"gemma3.block_count": 7})
    assert GgufModel(six).shape.windows == (*(WINDOW,) * 5, None, WINDOW)
    two = {"gemma3.attention.sliding_window_pattern": 2}
    every = GgufModel(write(tmp_path / "two.gguf", "gemma3", **two))
    assert every.shape.windows == (WINDOW, None, WINDOW)
    none = GgufModel(
        write(tmp_path / "none.gguf", "gemma3", **{"gemma3.attention.sliding_window": 0})
    )
    assert none.shape.windows == ()
    ids = every.encode(TEXT)
    near = every.forward(ids)
    # Within the window, windows do nothing to a mask; behind it they do.
    other = list(ids)
    other[0] = (ids[0] + 5) % len(PIECES)
    wide = write(tmp_path / "w.gguf", "gemma3", **two, **{"gemma3.attention.sliding_window": 60})
    far = GgufModel(wide).forward(ids)
    np.testing.assert_allclose(near[:WINDOW], far[:WINDOW], atol=1e-5)
    assert np.abs(near[WINDOW:] - far[WINDOW:]).max() > 1e-3


def test_a_trace_has_the_windows_and_is_that_of_transformers(tmp_path: Path) -> None:
    """A decode that leaves the window: the prompt fits, the steps do not."""
    pytest.importorskip("transformers")
    path = write(tmp_path / "m.gguf", "gemma3", **{"gemma3.block_count": 7})
    found = [
        capture(str(path), TEXT, prefill=WINDOW - 1, decode=4, backend=backend)
        for backend in ("numpy", "transformers")
    ]
    for trace in found:
        assert trace.proof_error is not None
        assert trace.proof_error < 1e-5
        masks = [trace.layer(i).mask for i in range(7)]
        assert [m.kind for m in masks] == [*["window"] * 5, "causal", "window"]
        assert {m.size for m in masks} == {None, WINDOW}
    ours, theirs = found
    assert ours.layers == theirs.layers
    np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
    for layer in range(7):
        for kind in ("query", "key", "value"):
            np.testing.assert_allclose(
                getattr(ours, kind)(layer), getattr(theirs, kind)(layer), atol=1e-4
            )
    save_trace(ours, tmp_path / "t.safetensors")
    again = load_trace(tmp_path / "t.safetensors")
    assert again.layers == ours.layers
    inside = capture(str(path), TEXT, prefill=WINDOW - 2, decode=2)
    assert inside.layers == ()
    some = capture(str(path), TEXT, prefill=WINDOW + 2, layers=[4, 5])
    assert [some.layer(i).mask.kind for i in (0, 1)] == ["window", "causal"]


def test_policies_run_inside(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "gemma3", **{"gemma3.attention.sliding_window_pattern": 2})
    model = load_model(str(path))
    ids = model.encode(TEXT)
    exact = load_policy_spec("dense:quantization.scale=per_token")
    attend = policy_attention(exact, model.shape, len(ids), causal=True)
    plain = model.forward(ids)
    np.testing.assert_allclose(model.forward(ids, attend), plain, atol=5e-3 * np.abs(plain).max())
    assert attend.kept_keys == attend.visible_keys
    dense, pruned = (
        perplexity(model, [ids], load_policy(name), skip=8) for name in ("dense", "tova")
    )
    assert pruned.dram_bytes < dense.dram_bytes
    for reading in ("layers", "steps"):
        cascade = f"spatten-tokens:tokens.protect.recent=2,tokens.accumulate={reading}"
        every = load_policy_spec(f"{cascade},tokens.mean_keep=1.0,quantization.scale=per_token")
        attend = policy_attention(every, model.shape, len(ids), causal=True)
        logits = forward(model, ids, attend)
        np.testing.assert_allclose(logits, plain, atol=5e-3 * np.abs(plain).max())
        assert attend.kept_keys == attend.visible_keys
        found = perplexity(model, [ids], load_policy_spec(cascade), skip=8)
        assert found.kept_key_fraction < 0.95
        assert found.dram_bytes < dense.dram_bytes


def test_what_tuning_records_has_the_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "gemma3", **{"gemma3.attention.sliding_window_pattern": 2})
    model = load_model(str(path))
    ids = model.encode(TEXT)
    trace = PerplexityLoss(model, "m", {"w": ids}, {}, skip=4).trace()
    assert [trace.layer(i).mask.kind for i in range(LAYERS)] == ["window", "causal", "window"]
    seen: list[np.ndarray] = []
    dense = model.dense()
    model.forward(ids[: trace.tokens], lambda *given: seen.append(dense(*given)) or seen[-1])
    for layer, own in enumerate(seen):
        assert proof_errors(trace, layer, own).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gemma3", "gemma3.final_logit_softcapping", 30.0),
        ("gemma3", "gemma3.attn_logit_softcapping", 50.0),
        ("gemma3", "gemma3.attention.sliding_window", True),
        ("gemma3", "gemma3.attention.sliding_window_pattern", 0),
        ("gemma3", "gemma3.rope.freq_base_swa", -1.0),
        ("gemma3", "gemma3.rope.scaling.type", "yarn"),
        ("gemma3", "gemma3.what", 1),
        ("gemma3", "tokenizer.ggml.scores", [1.0]),
        ("gemma3", "tokenizer.ggml.scores", None),
        ("gemma3", "tokenizer.ggml.token_type", ["a"] * len(PIECES)),
        ("gemma3", "tokenizer.ggml.unknown_token_id", 10**6),
        ("gemma3", "tokenizer.ggml.bos_token_id", None),
        ("qwen2", "qwen2.attention.sliding_window", 8),
        ("qwen2", "qwen2.rope.scaling.type", "yarn"),
        ("qwen2", "tokenizer.ggml.add_space_prefix", True),
        ("qwen3", "qwen3.expert_count", 4),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(
    tmp_path: Path, name: str, key: str, value: Any
) -> None:
    path = write(tmp_path / "m.gguf", name, **{key: value})
    with pytest.raises(TraceError, match=rf"GGUF key '{re.escape(key)}'") as caught:
        GgufModel(path)
    assert "\n" not in str(caught.value)


def test_the_largest_gemma_has_a_scale_of_its_own(tmp_path: Path) -> None:
    """transformers does not read it from a file, and is not given one."""
    fields = {"gemma3.block_count": 62, "gemma3.attention.sliding_window_pattern": 6}
    shape = GgufModel(write(tmp_path / "m.gguf", "gemma3", **fields)).shape
    assert shape.scale == pytest.approx((WIDTH / HEADS) ** -0.5)
    narrow = write(tmp_path / "n.gguf", "gemma3", **{"gemma3.attention.key_length": 128})
    pytest.importorskip("transformers")
    with pytest.raises(TraceError, match=r"gemma3\.attention\.key_length' is 128; expected 256"):
        capture(str(narrow), TEXT, backend="transformers")


def test_a_loop_falls_back_to_transformers(tmp_path: Path) -> None:
    """A tokenizer that is not ours: capture and the closed loop both go on with transformers."""
    transformers = pytest.importorskip("transformers")
    path = write(tmp_path / "m.gguf", "qwen2", **{"tokenizer.ggml.pre": "llama-bpe"})
    with pytest.raises(TraceError, match=r"'smollm' or 'qwen2'.*--backend transformers"):
        GgufModel(path)
    model = load_model(str(path))
    assert type(model).__name__ == "TransformersModel"
    assert model.shape.num_layers == LAYERS
    assert transformers.__version__ in capture(str(path), "ab abc dab").source
