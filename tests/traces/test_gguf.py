"""What a GGUF file says of attention is honoured or refused by the name of its key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import write_gguf

from accelsim.errors import TraceError
from accelsim.traces.capture import GgufModel, Placement, capture

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

TOKENS = ["<s>", "a", "b", "c", "Ġ", "ab", "d", "e"]
WIDTH, HEADS, DIM = 16, 2, 8
BASE: dict[str, Any] = {
    "general.name": "tiny",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100.0,
    "llama.rope.dimension_count": DIM,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "vendor.note": "of no meaning to a loader",
}
TEXT = "abcdeabcde"


def write(path: Path, architecture: str = "llama", **changes: Any) -> Path:
    """Write a one-layer Llama; a change of ``None`` leaves a key out, ``__`` stands for a dot."""
    fields = BASE | {name.replace("__", "."): value for name, value in changes.items()}
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (DIM, WIDTH), "blk.0.attn_v": (DIM, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_norm": (WIDTH,),
        "blk.0.ffn_gate": (16, WIDTH), "blk.0.ffn_up": (16, WIDTH), "blk.0.ffn_down": (WIDTH, 16),
    }  # fmt: skip
    given = {name: value for name, value in fields.items() if value is not None}
    tensors = {f"{name}.weight": rng.standard_normal(shape) for name, shape in shapes.items()}
    return write_gguf(path, architecture, given, tensors)


def unturned(key: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Turn keys [1, tokens, dim] back by the angles of ``positions``."""
    angles = positions[:, None] * 100.0 ** -(np.arange(0, DIM, 2) / DIM)
    cosine, sine = np.cos(angles), np.sin(angles)
    first, second = key[0, :, : DIM // 2], key[0, :, DIM // 2 :]
    return np.concatenate([first * cosine + second * sine, second * cosine - first * sine], axis=1)


def keys(path: Path) -> np.ndarray:
    trace = capture(str(path), TEXT)
    return trace.key(0)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 1),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}, 4),
        ({"llama__rope__scaling__factor": 2.0}, 2),
        ({"llama__rope__scale_linear": 8.0}, 8),
        ({"llama__rope__scaling__factor": 0.0}, 1),
        ({"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}, 1),
        ({"llama__rope__scaling__original_context_length": 16}, 1),
    ],
)
def test_linear_scaling_divides_positions(
    tmp_path: Path, changes: dict[str, Any], factor: float
) -> None:
    """Without its rotation, a key depends on its token alone in the first layer."""
    key = keys(write(tmp_path / "m.gguf", **changes))
    plain = keys(write(tmp_path / "p.gguf"))
    positions = np.arange(key.shape[1])
    np.testing.assert_allclose(
        unturned(key, positions / factor), unturned(plain, positions), atol=1e-5
    )
    assert (factor == 1) == bool(np.allclose(key, plain, atol=1e-3))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.type", "longrope"),
        ("llama.rope.scaling.type", 1), ("llama.rope.scaling.factor", -1.0),
        ("llama.rope.scaling.factor", float("nan")), ("llama.rope.scale_linear", float("inf")),
        ("llama.rope.scaling.attn_factor", 1.5), ("llama.rope.scaling.yarn_beta_fast", 32.0),
        ("llama.rope.dimension_count", 4), ("llama.rope.dimension_sections", [2, 2]),
        ("llama.rope.freq_base", 0.0), ("llama.rope.freq_base_swa", 10.0),
        ("llama.attention.sliding_window", 8), ("llama.attention.sliding_window", True),
        ("llama.attention.sliding_window_pattern", [True]), ("llama.attention.scale", 0.5),
        ("llama.attention.causal", False), ("llama.attention.value_length", 4),
        ("llama.attention.clamp_kqv", 8.0), ("llama.attention.max_alibi_bias", 8.0),
        ("llama.attention.head_count_kv", [1]), ("llama.attention.head_count", 0),
        ("llama.attn_logit_softcapping", 50.0), ("llama.expert_count", 8),
        ("llama.logit_scale", 2.0), ("llama.residual_scale", 0.5), ("llama.use_what", True),
        ("llama.attention.layer_norm_rms_epsilon", None), ("llama.block_count", None),
        ("llama.attention.layer_norm_rms_epsilon", 0.0), ("llama.context_length", "64"),
        ("tokenizer.ggml.add_eos_token", True), ("tokenizer.ggml.add_space_prefix", True),
        ("tokenizer.ggml.what", 1), ("tokenizer.ggml.precompiled_charsmap", [1, 2]),
        ("adapter.type", "lora"), ("general.type", "adapter"),
        ("tokenizer.ggml.merges", ["a c"]), ("tokenizer.ggml.merges", ["a x"]),
        ("tokenizer.ggml.merges", ["ab"]), ("tokenizer.ggml.merges", [1, 2]),
        ("tokenizer.ggml.tokens", [1, 2]), ("tokenizer.ggml.tokens", "abc"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    path = write(tmp_path / "m.gguf", **{key: value})
    named = re.escape(key)
    with pytest.raises(TraceError, match=rf"m\.gguf: GGUF key '{named}'") as caught:
        capture(str(path), TEXT)
    assert len(str(caught.value)) - len(str(path)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.sliding_window", 64), ("llama.attention.sliding_window", 0),
        ("llama.attention.scale", DIM**-0.5), ("llama.attention.scale", 0.0),
        ("llama.attention.causal", True), ("llama.expert_count", 0),
        ("llama.rope.scaling.finetuned", True), ("tokenizer.ggml.add_eos_token", False),
        ("tokenizer.chat_template", "{{ text }}"), ("quantize.imatrix.file", "x"),
        ("llama.rope.dimension_count", None), ("general.anything", 3),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_taken(tmp_path: Path, key: str, value: Any) -> None:
    path = write(tmp_path / "m.gguf", **{key: value})
    np.testing.assert_array_equal(keys(path), keys(write(tmp_path / "p.gguf")))


def test_the_first_token_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    plain = GgufModel(write(tmp_path / "p.gguf")).encode("abc")
    assert plain == [5, 3]
    changes = {"tokenizer__ggml__add_bos_token": True}
    assert GgufModel(write(tmp_path / "m.gguf", **changes)).encode("abc") == [0, *plain]
    changes["tokenizer__ggml__bos_token_id"] = 99
    with pytest.raises(TraceError, match="bos_token_id"):
        GgufModel(write(tmp_path / "m.gguf", **changes))


def test_other_architectures_name_the_switch(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", architecture="what")
    with pytest.raises(TraceError, match=r"architecture 'what'; .*--backend transformers"):
        capture(str(path), TEXT, backend="numpy")


def test_what_transformers_does_not_read_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    changes = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    path = write(tmp_path / "m.gguf", **changes)
    with pytest.raises(TraceError, match=r"'llama\.rope\.scaling\.(type|factor)'"):
        capture(str(path), TEXT, backend="transformers")


def test_little_of_it_in_memory(tmp_path: Path) -> None:
    path = str(write(tmp_path / "m.gguf"))
    whole = capture(path, TEXT, decode=2)
    names = whole.tensors.names()
    for memory in (1e-9, 1e-5):
        part = capture(path, TEXT, decode=2, placement=Placement(weights_gb=memory))
        assert part.source == whole.source
        for name in names:
            np.testing.assert_array_equal(whole.tensors.read(name), part.tensors.read(name))
    single = capture(path, TEXT, decode=2, placement=Placement(dtype="float32"))
    assert "NumPy float32" in single.source


def test_what_numpy_cannot_do(tmp_path: Path) -> None:
    path = str(write(tmp_path / "m.gguf"))
    with pytest.raises(TraceError, match="expected --backend transformers for bfloat16 on cpu"):
        capture(path, TEXT, backend="numpy", placement=Placement(dtype="bfloat16"))
    with pytest.raises(TraceError, match=r"decodes a \.gguf file whole"):
        capture(path, TEXT, backend="transformers", placement=Placement(weights_gb=1.0))
