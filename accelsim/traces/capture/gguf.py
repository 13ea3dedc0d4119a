"""What a GGUF file says about its model: each key is honoured, known to be harmless, or refused.

Names and meanings are llama.cpp's (``gguf-py/gguf/constants.py`` and ``src/llama-model.cpp``): a
key that its loader reads, and that we do not, would change attention without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelsim.errors import TraceError
from accelsim.traces.capture._llama import LlamaShape
from accelsim.traces.capture.packages import require

ARCHITECTURE = "llama"

_HONOURED = frozenset(
    f"llama.{name}"
    for name in (
        "block_count", "context_length", "embedding_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
        "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    )
)  # fmt: skip
_HARMLESS = frozenset(
    (
        "llama.feed_forward_length", "llama.vocab_size",  # as the tensors have it
        "llama.rope.scaling.original_context_length", "llama.rope.scaling.finetuned",
        "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type", "tokenizer.ggml.token_type_count", "tokenizer.ggml.scores",
        "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token", "tokenizer.huggingface.json",
    )
)  # fmt: skip

_Rule = tuple[Callable[[Any, LlamaShape], bool], str]
_ONLY: dict[str, _Rule] = {
    "llama.rope.dimension_count": (lambda v, s: v == s.head_dim, "the size of a head"),
    "llama.attention.value_length": (lambda v, s: v == s.head_dim, "the size of a head"),
    "llama.attention.sliding_window": (
        lambda v, s: v == 0 or v >= s.context_tokens,
        "no window within the context",
    ),
    "llama.attention.scale": (
        lambda v, s: v == 0 or math.isclose(v, s.scale, rel_tol=1e-6),
        "the size of a head to the power of -0.5",
    ),
    "llama.attention.causal": (lambda v, s: v is True, "true"),
    "llama.rope.scaling.attn_factor": (lambda v, s: v == 1, "1"),
    "llama.expert_count": (lambda v, s: v == 0, "0"),
    "llama.expert_used_count": (lambda v, s: v == 0, "0"),
    "tokenizer.ggml.add_eos_token": (lambda v, s: v is False, "false"),
    "tokenizer.ggml.add_sep_token": (lambda v, s: v is False, "false"),
    "tokenizer.ggml.add_space_prefix": (lambda v, s: v is False, "false"),
    "tokenizer.ggml.remove_extra_whitespaces": (lambda v, s: v is False, "false"),
}
"""Keys that one value alone leaves a plain Llama."""

_FOR_TRANSFORMERS = ("rope.scaling.", "rope.scale", "attention.sliding_window", "attention.scale",
                     "attn_logit_softcapping", "attention.max_alibi_bias")  # fmt: skip


def open_gguf(path: Path) -> Any:
    """Return gguf's reader of a file.

    Raises:
        TraceError: not such a file.
    """
    gguf = require("gguf", "gguf")
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the library raises whatever a broken file leads it to
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> TraceError:
    """The error for a file that the library cannot read."""
    detail = (str(error) or type(error).__name__).splitlines()[0][:120]
    return TraceError(f"{path}: not a readable GGUF file ({detail})")


def architecture(path: Path, reader: Any) -> str:
    """Name of the architecture, without reading the vocabulary.

    Raises:
        TraceError: the file does not say.
    """
    entry = reader.fields.get("general.architecture")
    try:
        return str(entry.contents())
    except Exception:
        raise TraceError(f"{path}: GGUF key 'general.architecture' is missing") from None


def llama_shape(path: Path, fields: Mapping[str, Any]) -> LlamaShape:
    """Return the sizes of a plain Llama, once every key of its file is understood.

    Raises:
        TraceError: naming the key that is missing, has no such value, or is not understood.
    """
    heads = _count(path, fields, "llama.attention.head_count")
    width = _count(path, fields, "llama.embedding_length")
    shape = LlamaShape(
        num_layers=_count(path, fields, "llama.block_count"),
        num_query_heads=heads,
        num_kv_heads=_count(path, fields, "llama.attention.head_count_kv", heads),
        head_dim=_count(path, fields, "llama.attention.key_length", max(width // heads, 1)),
        context_tokens=_count(path, fields, "llama.context_length"),
        rope_base=_positive(path, fields, "llama.rope.freq_base", 10000.0),
        norm_epsilon=_positive(path, fields, "llama.attention.layer_norm_rms_epsilon"),
        rope_factor=_rope_factor(path, fields),
    )
    for name, value in fields.items():
        _check(path, name, value, shape)
    if heads % shape.num_kv_heads:
        raise _wrong(
            path, "llama.attention.head_count_kv", shape.num_kv_heads, f"a divisor of {heads} heads"
        )
    if shape.head_dim % 2:
        raise _wrong(path, "llama.attention.key_length", shape.head_dim, "an even size of a head")
    return shape


def check_for_transformers(path: Path) -> None:
    """Refuse what a file says of attention that transformers does not read from it.

    Raises:
        TraceError: naming the key.
    """
    from transformers.integrations import ggml

    reader = open_gguf(path)
    name = architecture(path, reader)
    known = getattr(ggml, "GGUF_CONFIG_MAPPING", {}).get(name, {})
    neutral = (None, 0, 1, False, "none")
    for key, entry in reader.fields.items():
        suffix = key.removeprefix(f"{name}.")
        if suffix == key or not suffix.startswith(_FOR_TRANSFORMERS) or known.get(suffix):
            continue
        if suffix.endswith(("original_context_length", "finetuned")):
            continue
        value = entry.contents()
        if value not in neutral:
            raise _wrong(path, key, value, "none: transformers does not read this key")


def _check(path: Path, name: str, value: Any, shape: LlamaShape) -> None:
    if name in _HONOURED or name in _HARMLESS or name.endswith("_token_id"):
        return
    if name == "general.type" and value != "model":
        raise _wrong(path, name, value, "'model'")
    if name in _ONLY:
        right, expected = _ONLY[name]
        try:
            fits = right(value, shape)
        except TypeError:
            fits = False
        if not fits:
            raise _wrong(path, name, value, expected)
    elif name.startswith(("llama.", "adapter.", "tokenizer.ggml.")):
        raise TraceError(
            f"{path}: GGUF key '{name[:80]}' is not understood; expected a plain Llama model (for "
            "others give a folder or id for transformers)"
        )


def _rope_factor(path: Path, fields: Mapping[str, Any]) -> float:
    """What positions are divided by before the rotation."""
    key = "llama.rope.scaling.factor"
    if key not in fields:
        key = "llama.rope.scale_linear"  # its older name
    factor = fields.get(key, 1.0)
    if factor == 0:  # llama.cpp: not set
        factor = 1.0
    kind = fields.get("llama.rope.scaling.type", "linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise _wrong(path, "llama.rope.scaling.type", kind, "'linear' or 'none'")
    return _positive(path, {key: factor}, key)


def _count(path: Path, fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if value is None:
        raise missing(path, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise _wrong(path, name, value, "a whole number from 1")
    return value


def _positive(
    path: Path, fields: Mapping[str, Any], name: str, default: float | None = None
) -> float:
    value = fields.get(name, default)
    if value is None:
        raise missing(path, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise _wrong(path, name, value, "a number above 0")
    return float(value)


def missing(path: Path, name: str) -> TraceError:
    """The error for a key that must be there."""
    return TraceError(f"{path}: GGUF key '{name}' is missing")


def _wrong(path: Path, name: str, value: Any, expected: str) -> TraceError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:20] + "…" + shown[-15:]
    return TraceError(f"{path}: GGUF key '{name}' is {shown}; expected {expected}")
