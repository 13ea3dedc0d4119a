"""Models of GGUF files, weights and tokenizer, without torch: SmolLM2, Qwen2/3, Gemma 3."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        weights_bytes: memory for weights, at most, beside embeddings and what is in use: what is
            beyond it is decoded from the file each time it is used. All are in memory if ``None``.

    Raises:
        OtherModelError: a model or a tokenizer that our own forward pass does not know.
        TraceError: not a GGUF file, or one with a key that is missing or not understood.
    """

    causal = True

    def __init__(
        self,
        path: str | Path,
        dtype: DTypeLike = np.float32,
        weights_bytes: int | None = None,
    ) -> None:
        path = Path(path)
        self.path = path
        self._gguf, self._reader = require("gguf", "gguf"), open_gguf(path)
        self._dtype, self._weights_bytes = np.dtype(dtype), weights_bytes
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
        self._check_tensors()
        return Decoder(self.shape, _Weights(self._reader.tensors, self._read, self._kept()))

    def _kept(self) -> frozenset[str]:
        """Tensors that stay in memory: as many as fit, in the order of the file."""
        left = math.inf if self._weights_bytes is None else self._weights_bytes
        kept = []
        for entry in self._reader.tensors:
            left -= int(entry.n_elements) * self._dtype.itemsize
            if left < 0:
                break
            kept.append(entry.name)
        return frozenset(kept)

    def _read(self, entry: Any) -> Floats:
        """Decode one tensor."""
        try:
            weight = np.asarray(
                self._gguf.dequantize(entry.data, entry.tensor_type), dtype=self._dtype
            )
        except Exception as error:  # unsupported quantization types land here
            raise TraceError(f"{self.path}: cannot dequantize ({_first_line(error)})") from None
        heads = self._heads().get(entry.name.rpartition(".attn_")[2].removesuffix(".weight"))
        if heads and FAMILIES[self._architecture].turned and weight.ndim == 2:
            weight = _hugging_face_order(weight, heads)
        return weight

    def _heads(self) -> dict[str, int]:
        """Heads of queries and keys, whose rows a file may have in an order of its own."""
        return {"q": self.shape.num_query_heads, "k": self.shape.num_kv_heads}

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

    def _check_tensors(self) -> None:
        shape, family = self.shape, FAMILIES[self._architecture]
        heads = {**self._heads(), "v": shape.num_kv_heads}
        kinds = ("attn_norm", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        own = [*(f"{k}.weight" for k in (*kinds, *(f"attn_{h}" for h in heads))), *family.tensors]
        expected = {"token_embd.weight", "output_norm.weight"} | {
            f"blk.{i}.{kind}" for i in range(shape.num_layers) for kind in own
        }
        # The file counts from the fastest dimension on.
        rows = {entry.name: int(entry.shape[-1]) for entry in self._reader.tensors}
        missing, foreign = expected - set(rows), set(rows) - expected - {"output.weight"}
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
                if rows[name] != count * shape.head_dim:
                    raise TraceError(
                        f"{self.path}: tensor '{name}' has {rows[name]} rows; "
                        f"expected {count} heads x {shape.head_dim}"
                    )


class _Weights(Mapping[str, Floats]):
    """Weights by name: those that are kept, decoded once, and the others, each time.

    Kept are the first: a forward pass uses all in turn, so that what was used last is needed last.

    Args:
        entries: of the file.
        read: decodes one.
        kept: names of those that stay in memory.
    """

    def __init__(
        self, entries: Sequence[Any], read: Callable[[Any], Floats], kept: frozenset[str]
    ) -> None:
        self._entries, self._decode = {entry.name: entry for entry in entries}, read
        self._kept = {entry.name: read(entry) for entry in entries if entry.name in kept}

    def __getitem__(self, name: str) -> Floats:
        kept = self._kept.get(name)
        return self._decode(self._entries[name]) if kept is None else kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


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
