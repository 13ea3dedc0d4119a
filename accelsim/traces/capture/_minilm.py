"""all-MiniLM-L6-v2, and other BERT sentence encoders in a folder: weights and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from accelsim.errors import TraceError
from accelsim.files import read_text
from accelsim.traces.capture._bert import Bert, BertShape
from accelsim.traces.capture._recorder import Attend, Floats, dense_attention
from accelsim.traces.capture.libraries import require


class SentenceEncoder:
    """A BERT sentence encoder: the model, its tokenizer, and mean pooling.

    Args:
        folder: holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        dtype: float32, or float64 where results must not depend on the machine.

    Raises:
        TraceError: a missing or malformed file, or no plain BERT model.
    """

    causal = False

    def __init__(self, folder: str | Path, dtype: DTypeLike = np.float32) -> None:
        self.path = Path(folder)
        self._config = _read_json(self.path / "config.json")
        self.shape = self._shape()
        self.bert = Bert(self.shape, self._weights(dtype))
        tokenizers = require("tokenizers", "tokenizers")
        tokenizer_file = self.path / "tokenizer.json"
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises plain Exception
            raise TraceError(f"{tokenizer_file}: not a tokenizer ({error})") from None
        # The file asks for exactly 128 tokens, padded; here the caller decides, and none is padded.
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        limits = self.path / "sentence_bert_config.json"
        trained = _read_json(limits).get("max_seq_length") if limits.exists() else None
        self.max_tokens = int(trained or self.shape.context_tokens)
        """Tokens that :meth:`encode` cuts a text to (256 in MiniLM's own settings; the model has
        positions for 512)."""

    @property
    def name(self) -> str:
        """Name that the model gives itself."""
        return str(self._config.get("_name_or_path") or self.path.name)

    def encode(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Return the token ids of a text, between [CLS] and [SEP].

        Args:
            text: any text.
            max_tokens: a longer text is cut to this many, both special tokens included;
                ``self.max_tokens`` if not given.
        """
        limit = self.max_tokens if max_tokens is None else max_tokens
        ids = list(self.tokenizer.encode(text).ids)
        return ids if len(ids) <= limit else [*ids[: max(limit - 1, 0)], ids[-1]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def forward(self, token_ids: Sequence[int], attend: Attend | None = None) -> Floats:
        """Return the hidden states after the last layer, [tokens, width].

        Args:
            token_ids: one text, special tokens included.
            attend: attention of one layer; dense if not given.
        """
        return self.bert.forward(token_ids, attend or dense_attention(self.shape.scale, False))

    def embed(self, token_ids: Sequence[int], attend: Attend | None = None) -> Floats:
        """Return the embedding of a text: :meth:`forward`, then :func:`mean_pool`; [width]."""
        return mean_pool(self.forward(token_ids, attend))

    def _shape(self) -> BertShape:
        config, file = self._config, self.path / "config.json"
        for key, wanted in (
            ("model_type", "bert"),
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
        ):
            found = config.get(key, wanted if key == "position_embedding_type" else None)
            if found != wanted:
                raise TraceError(f"{file}: '{key}' is {found!r}; expected '{wanted}'")
        try:
            heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
            shape = BertShape(
                num_layers=int(config["num_hidden_layers"]),
                num_query_heads=heads,
                num_kv_heads=heads,
                head_dim=width // heads,
                context_tokens=int(config["max_position_embeddings"]),
                norm_epsilon=float(config["layer_norm_eps"]),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise TraceError(f"{file}: no usable sizes of a BERT model ({error})") from None
        if shape.head_dim * heads != width or min(shape.num_layers, heads, shape.head_dim) < 1:
            raise TraceError(f"{file}: 'hidden_size' {width} does not divide into {heads} heads")
        return shape

    def _weights(self, dtype: DTypeLike) -> dict[str, Floats]:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        file = self.path / "model.safetensors"
        try:
            found = load_file(file)
        except (OSError, SafetensorError) as error:
            raise TraceError(f"{file}: cannot be read ({error})") from None
        width = self.shape.num_query_heads * self.shape.head_dim
        inner = int(self._config.get("intermediate_size", 0))
        weights = {}
        for name, shape in _expected(self.shape.num_layers, width, inner).items():
            if name not in found:
                raise TraceError(f"{file}: tensor '{name}' is missing")
            fits = len(found[name].shape) == len(shape) and all(
                want in (-1, have) for want, have in zip(shape, found[name].shape, strict=True)
            )
            if not fits:
                raise TraceError(
                    f"{file}: tensor '{name}' has shape {list(found[name].shape)}; "
                    f"expected {list(shape)} (-1: any)"
                )
            weights[name] = found[name].astype(dtype)
        positions = len(weights["embeddings.position_embeddings.weight"])
        if positions < self.shape.context_tokens:
            raise TraceError(
                f"{file}: {positions} position embeddings; expected {self.shape.context_tokens}"
            )
        return weights


def mean_pool(hidden: Floats, kept: NDArray[np.int64] | NDArray[np.bool_] | None = None) -> Floats:
    """Return the sentence embedding: mean over tokens, then unit length; [width].

    Args:
        hidden: hidden states after the last layer, [tokens, width].
        kept: tokens (indices or mask) to average; all if not given. Under token pruning these are
            the survivors.
    """
    mean = (hidden if kept is None else hidden[kept]).mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def _expected(num_layers: int, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that the forward pass uses."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (-1, width),
        "embeddings.position_embeddings.weight": (-1, width),
        "embeddings.token_type_embeddings.weight": (-1, width),
    }
    norms = ["embeddings"]
    for layer in range(num_layers):
        block = f"encoder.layer.{layer}."
        norms += [block + "attention.output", block + "output"]
        dense = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        dense |= {
            "attention.output.dense": (width, width),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
        }
        for name, shape in dense.items():
            shapes[f"{block}{name}.weight"] = shape
            shapes[f"{block}{name}.bias"] = shape[:1]
    for name in norms:
        shapes[name + ".LayerNorm.weight"] = shapes[name + ".LayerNorm.bias"] = (width,)
    return shapes


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, TraceError))
    except (ValueError, RecursionError):
        raise TraceError(f"{path}: expected JSON") from None
    if not isinstance(content, dict):
        raise TraceError(f"{path}: expected a JSON mapping")
    return content
