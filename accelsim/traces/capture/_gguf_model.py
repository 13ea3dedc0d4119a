"""Models of GGUF files, weights and tokenizer, without torch: SmolLM2, Qwen2/3, Gemma 3."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from accelsim.errors import TraceError
from accelsim.traces.capture._decoder import Decoder, KVCache
from accelsim.traces.capture._recorder import Attend, Floats, dense_attention
from accelsim.traces.capture._tokenizers import build_tokenizer, first_tokens
from accelsim.traces.capture.gguf import (
    FAMILIES,
    OTHERS,
    OtherModelError,
    architecture,
    decoder_shape,
    open_gguf,
    unreadable,
)
from accelsim.traces.capture.libraries import require


class GgufModel:
    """A GGUF file: the model, and the tokenizer that it carries.

    Attributes:
        path: the file.
        fields: its metadata.
        shape: sizes of the model.
        tokenizer: built from the vocabulary in the metadata.

    Args:
        path: the ``.gguf`` file.
        dtype: float32, or float64 where results must not depend on the machine.

    Raises:
        OtherModelError: a model or a tokenizer that our own forward pass does not know.
        TraceError: not a GGUF file, or one with a key that is missing or not understood.
    """

    causal = True

    def __init__(self, path: str | Path, dtype: DTypeLike = np.float32) -> None:
        path = Path(path)
        self.path = path
        self._gguf, self._reader, self._dtype = require("gguf", "gguf"), open_gguf(path), dtype
        self._architecture = architecture(path, self._reader)
        if self._architecture not in FAMILIES:
            raise OtherModelError(
                f"{path}: architecture '{self._architecture}'; expected {', '.join(FAMILIES)}"
                f"{OTHERS}"
            )
        try:
            self.fields: dict[str, Any] = {
                name: entry.contents() for name, entry in self._reader.fields.items()
            }
        except Exception as error:  # the library raises whatever a broken file leads it to
            raise unreadable(path, error) from None
        self.shape = decoder_shape(path, self._architecture, self.fields)
        self.tokenizer = build_tokenizer(path, self.fields)
        vocabulary = len(self.fields["tokenizer.ggml.tokens"])
        self._first = first_tokens(path, self.fields, vocabulary)

    @functools.cached_property
    def decoder(self) -> Decoder:
        """The model with its weights, read when first used (4 s for SmolLM2).

        Raises:
            TraceError: tensors that are missing, not understood, or of the wrong shape.
        """
        try:
            weights = {
                entry.name: np.asarray(
                    self._gguf.dequantize(entry.data, entry.tensor_type), dtype=self._dtype
                )
                for entry in self._reader.tensors
            }
        except Exception as error:  # as above; unsupported quantization types land here too
            raise TraceError(f"{self.path}: cannot dequantize ({_first_line(error)})") from None
        return Decoder(self.shape, self._checked(weights))

    @property
    def name(self) -> str:
        """Name that the file gives itself."""
        return str(self.fields.get("general.name", self.path.stem))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, with the first token that the file asks for."""
        return self._first + list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def forward(
        self,
        token_ids: Sequence[int],
        attend: Attend | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Floats:
        """Return the logits of new tokens, [new (1 if ``last_only``), vocabulary].

        Args:
            token_ids: the new tokens.
            attend: attention of one layer; dense if not given.
            cache: what came before them, extended in place; nothing if not given.
            last_only: compute the logits of the last token only.
        """
        attend = attend or self.dense()
        return self.decoder.forward(
            token_ids, KVCache() if cache is None else cache, attend, last_only
        )

    def new_cache(self) -> KVCache:
        """Return an empty cache, for :meth:`forward` in several calls."""
        return KVCache()

    def greedy(
        self,
        token_ids: Sequence[int],
        steps: int,
        attend: Attend | None = None,
        cache: KVCache | None = None,
    ) -> list[int]:
        """Return the prompt and ``steps`` tokens decoded greedily, each of them fed back.

        Args:
            token_ids: the prompt.
            steps: tokens to decode; end-of-text does not stop it.
            attend: attention of one layer; dense if not given.
            cache: what came before, extended in place; nothing if not given.
        """
        attend = attend or self.dense()
        return self.decoder.greedy(token_ids, steps, attend, cache)

    def dense(self) -> Attend:
        """Return exact attention, with the windows of the model."""
        return dense_attention(self.shape.scale, True, self.shape.windows)

    def _checked(self, weights: dict[str, Floats]) -> dict[str, Floats]:
        shape, family = self.shape, FAMILIES[self._architecture]
        heads = {"q": shape.num_query_heads, "k": shape.num_kv_heads, "v": shape.num_kv_heads}
        kinds = ("attn_norm", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        own = [*(f"{k}.weight" for k in (*kinds, *(f"attn_{h}" for h in heads))), *family.tensors]
        expected = {"token_embd.weight", "output_norm.weight"} | {
            f"blk.{i}.{kind}" for i in range(shape.num_layers) for kind in own
        }
        missing, foreign = expected - set(weights), set(weights) - expected - {"output.weight"}
        if missing or foreign:
            name = sorted(missing or foreign)[0]
            raise TraceError(
                f"{self.path}: tensor '{name}' is {'missing' if missing else 'not understood'}; "
                f"expected a plain model of architecture '{self._architecture}' (for others give a "
                "folder or id for transformers)"
            )
        for layer in range(shape.num_layers):
            for head, count in heads.items():
                name = f"blk.{layer}.attn_{head}.weight"
                if weights[name].shape[0] != count * shape.head_dim:
                    raise TraceError(
                        f"{self.path}: tensor '{name}' has {weights[name].shape[0]} rows; "
                        f"expected {count} heads x {shape.head_dim}"
                    )
                if family.turned and head != "v":
                    weights[name] = _hugging_face_order(weights[name], count)
        return weights


def _hugging_face_order(weight: Floats, heads: int) -> Floats:
    """Undo GGUF's order of the rows of Q and K.

    GGUF stores them so that rotation acts on neighbours (2i, 2i + 1). Scores do not depend on the
    order, but in this one a trace agrees element by element with one taken by transformers.
    """
    rows, width = weight.shape
    split = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3).reshape(rows, width))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
