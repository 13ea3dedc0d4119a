"""What a GGUF file says about its model: each key is honoured, known to be harmless, or refused.

Names and meanings are llama.cpp's (``gguf-py/gguf/constants.py`` and ``src/llama-model.cpp``): a
key that its loader reads, and that we do not, would change attention without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.errors import TraceError
from accelsim.traces.capture._decoder import DecoderShape
from accelsim.traces.capture.libraries import require

OTHERS = " (for others: --backend transformers, with pip install 'accelsim[capture]')"


class OtherModelError(TraceError):
    """A GGUF file of a model that transformers may know."""


@dataclass(frozen=True)
class Family:
    """What is particular to the models of an architecture.

    Attributes:
        keys: of its metadata that are honoured beside those that every decoder may have.
        tensors: of a layer, beside those that every decoder has.
        turned: whether the file stores queries and keys in the order of neighbours.
    """

    keys: frozenset[str] = frozenset()
    tensors: tuple[str, ...] = ()
    turned: bool = False


_QK_NORM = ("attn_q_norm.weight", "attn_k_norm.weight")
FAMILIES = {
    "llama": Family(turned=True),
    "qwen2": Family(tensors=("attn_q.bias", "attn_k.bias", "attn_v.bias")),
    "qwen3": Family(tensors=_QK_NORM),
    "gemma3": Family(
        frozenset(
            ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa")
        ),
        (*_QK_NORM, "post_attention_norm.weight", "post_ffw_norm.weight"),
    ),
}
"""Architectures that our own forward pass reads."""

_GEMMA_PERIOD = 6
"""Every sixth layer of Gemma 3 sees everything (technical report, section 2)."""
_GEMMA_WINDOW_BASE = 10000.0
"""Base of the rotation in the other five (the same section)."""
_GEMMA_HEAD = 256
"""Size of a head of all other sizes of Gemma 3, whose scale transformers assumes of a GGUF file."""
_GEMMA_27B_LAYERS = 62
"""Layers of the one size whose scores are not divided by the root of ``head_dim``: llama.cpp tells
it by them, and divides by the root of ``embedding_length / head_count``."""

_HONOURED = frozenset(
    (
        "block_count", "context_length", "embedding_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
        "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    )
)  # fmt: skip
_HARMLESS = frozenset(
    (
        "feed_forward_length", "vocab_size",  # as the tensors have it
        "rope.scaling.original_context_length", "rope.scaling.finetuned",
    )
)  # fmt: skip
_OF_TOKENIZERS = frozenset(
    (
        "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type", "tokenizer.ggml.token_type_count", "tokenizer.ggml.scores",
        "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token", "tokenizer.huggingface.json",
    )
)  # fmt: skip

_Rule = tuple[Callable[[Any, DecoderShape], bool], str]
_ONLY: dict[str, _Rule] = {
    "rope.dimension_count": (lambda v, s: v == s.head_dim, "the size of a head"),
    "attention.value_length": (lambda v, s: v == s.head_dim, "the size of a head"),
    "attention.sliding_window": (
        lambda v, s: v == 0 or v >= s.context_tokens,
        "no window within the context",
    ),
    "attention.scale": (
        lambda v, s: v == 0 or math.isclose(v, s.scale, rel_tol=1e-6),
        "the size of a head to the power of -0.5",
    ),
    "attention.causal": (lambda v, s: v is True, "true"),
    "rope.scaling.attn_factor": (lambda v, s: v == 1, "1"),
    "expert_count": (lambda v, s: v == 0, "0"),
    "expert_used_count": (lambda v, s: v == 0, "0"),
    "attn_logit_softcapping": (lambda v, s: v == 0, "0"),
    "final_logit_softcapping": (lambda v, s: v == 0, "0"),
}
"""Keys that one value alone leaves without effect."""
_NEVER = frozenset(
    f"tokenizer.ggml.{name}"
    for name in ("add_eos_token", "add_sep_token", "remove_extra_whitespaces", "add_space_prefix")
)
"""Keys of tokenizers that must be false; SentencePiece may put a space before a text."""

_FOR_TRANSFORMERS = ("rope.scaling.", "rope.scale", "attention.sliding_window", "attention.scale",
                     "attn_logit_softcapping", "attention.max_alibi_bias")  # fmt: skip


def open_gguf(path: Path) -> Any:
    """Return gguf's reader of a file.

    Raises:
        TraceError: not such a file.
    """
    base: Any = require("gguf", "gguf").GGUFReader

    class Reader(base):  # type: ignore[misc]
        """Of a plain array: slices of a memory map cost twice the reading of a vocabulary."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)

    try:
        return Reader(path)
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


def decoder_shape(path: Path, name: str, fields: Mapping[str, Any]) -> DecoderShape:
    """Return the sizes of a decoder, once every key of its file is understood.

    Args:
        path: of the file, for errors.
        name: of its architecture, one of :data:`FAMILIES`.
        fields: its metadata.

    Raises:
        TraceError: naming the key that is missing, has no such value, or is not understood.
    """
    heads = _count(path, fields, f"{name}.attention.head_count")
    width = _count(path, fields, f"{name}.embedding_length")
    head_dim = _count(path, fields, f"{name}.attention.key_length", max(width // heads, 1))
    layers = _count(path, fields, f"{name}.block_count")
    own: dict[str, Any] = {}
    if name == "gemma3":
        own = {
            "windows": _windows(path, fields, layers),
            "window_rope_base": _positive(
                path, fields, "gemma3.rope.freq_base_swa", _GEMMA_WINDOW_BASE
            ),
            "activation": "gelu",
            "embedding_scale": math.sqrt(width),
            "query_scalar": width / heads if layers == _GEMMA_27B_LAYERS else None,
        }
    shape = DecoderShape(
        num_layers=layers,
        num_query_heads=heads,
        num_kv_heads=_count(path, fields, f"{name}.attention.head_count_kv", heads),
        head_dim=head_dim,
        context_tokens=_count(path, fields, f"{name}.context_length"),
        rope_base=_positive(path, fields, f"{name}.rope.freq_base", 10000.0),
        norm_epsilon=_positive(path, fields, f"{name}.attention.layer_norm_rms_epsilon"),
        rope_factor=_rope_factor(path, name, fields),
        **own,
    )
    for key, value in fields.items():
        _check(path, name, key, value, shape, fields)
    if heads % shape.num_kv_heads:
        raise wrong(
            path, f"{name}.attention.head_count_kv", shape.num_kv_heads,
            f"a divisor of {heads} heads",
        )  # fmt: skip
    if shape.head_dim % 2:
        raise wrong(path, f"{name}.attention.key_length", shape.head_dim, "an even size of a head")
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
    size = reader.fields.get("gemma3.attention.key_length")
    if name == "gemma3" and size is not None and size.contents() != _GEMMA_HEAD:
        raise wrong(
            path, "gemma3.attention.key_length", size.contents(),
            f"{_GEMMA_HEAD}: transformers takes the scale of its scores from its own defaults",
        )  # fmt: skip
    neutral = (None, 0, 1, False, "none")
    for key, entry in reader.fields.items():
        suffix = key.removeprefix(f"{name}.")
        if suffix == key or not suffix.startswith(_FOR_TRANSFORMERS) or known.get(suffix):
            continue
        if suffix.endswith(("original_context_length", "finetuned")):
            continue
        value = entry.contents()
        if value not in neutral:
            raise wrong(path, key, value, "none: transformers does not read this key")


def _check(
    path: Path,
    architecture: str,
    name: str,
    value: Any,
    shape: DecoderShape,
    fields: Mapping[str, Any],
) -> None:
    own = name.removeprefix(f"{architecture}.") if name.startswith(f"{architecture}.") else None
    if own in _HONOURED or own in _HARMLESS or own in FAMILIES[architecture].keys:
        return
    if name in _OF_TOKENIZERS or name.endswith("_token_id"):
        return
    if name == "general.type" and value != "model":
        raise wrong(path, name, value, "'model'")
    if own in _ONLY:
        right, expected = _ONLY[str(own)]
        try:
            fits = right(value, shape)
        except TypeError:
            fits = False
        if not fits:
            raise wrong(path, name, value, expected)
    elif name in _NEVER:
        pieces = fields.get("tokenizer.ggml.model") == "llama"
        if value is not False and not (pieces and name.endswith("add_space_prefix")):
            raise wrong(path, name, value, "false")
    elif own is not None or name.startswith(("adapter.", "tokenizer.ggml.")):
        raise TraceError(
            f"{path}: GGUF key '{name[:80]}' is not understood; expected a plain model of "
            f"architecture '{architecture}' (for others give a folder or id for transformers)"
        )


def _windows(path: Path, fields: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Newest keys that each layer of Gemma 3 sees; empty where no layer has a window."""
    key = "gemma3.attention.sliding_window"
    if fields.get(key, 0) == 0 and not isinstance(fields.get(key), bool):
        return ()
    window = _count(path, fields, key)
    period = _count(path, fields, f"{key}_pattern", _GEMMA_PERIOD)
    return tuple(None if layer % period == period - 1 else window for layer in range(layers))


def _rope_factor(path: Path, name: str, fields: Mapping[str, Any]) -> float:
    """What positions are divided by before the rotation."""
    key = f"{name}.rope.scaling.factor"
    if key not in fields:
        key = f"{name}.rope.scale_linear"  # its older name
    factor = fields.get(key, 1.0)
    if factor == 0:  # llama.cpp: not set
        factor = 1.0
    kind = fields.get(f"{name}.rope.scaling.type", "linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise wrong(path, f"{name}.rope.scaling.type", kind, "'linear' or 'none'")
    return _positive(path, {key: factor}, key)


def _count(path: Path, fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if value is None:
        raise missing(path, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise wrong(path, name, value, "a whole number from 1")
    return value


def _positive(
    path: Path, fields: Mapping[str, Any], name: str, default: float | None = None
) -> float:
    value = fields.get(name, default)
    if value is None:
        raise missing(path, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise wrong(path, name, value, "a number above 0")
    return float(value)


def missing(path: Path, name: str) -> TraceError:
    """The error for a key that must be there."""
    return TraceError(f"{path}: GGUF key '{name}' is missing")


def wrong(path: Path, name: str, value: Any, expected: str) -> TraceError:
    """The error for a key with another value than what can be honoured."""
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:20] + "…" + shown[-15:]
    return TraceError(f"{path}: GGUF key '{name}' is {shown}; expected {expected}")
