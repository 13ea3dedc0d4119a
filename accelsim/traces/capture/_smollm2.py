"""SmolLM2, and other Llama-architecture GGUF files: weights and tokenizer, without torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from accelsim.errors import TraceError
from accelsim.traces.capture._llama import KVCache, Llama
from accelsim.traces.capture._recorder import Attend, Floats, dense_attention
from accelsim.traces.capture.gguf import (
    ARCHITECTURE,
    architecture,
    llama_shape,
    missing,
    open_gguf,
    unreadable,
)
from accelsim.traces.capture.packages import require

_OTHERS = " (for others: --backend transformers, with pip install 'accelsim[capture]')"
_PRE_TOKENIZER = "smollm"
"""``tokenizer.ggml.pre`` of SmolLM and SmolLM2: digits one by one, then byte-level BPE."""


class OtherModelError(TraceError):
    """A GGUF file of a model that transformers may know."""


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
        TraceError: not a GGUF file, or not a Llama-architecture model with a SmolLM tokenizer.
    """

    causal = True

    def __init__(self, path: str | Path, dtype: DTypeLike = np.float32) -> None:
        path = Path(path)
        self.path = path
        self._gguf, self._reader, self._dtype = require("gguf", "gguf"), open_gguf(path), dtype
        name = architecture(path, self._reader)
        if name != ARCHITECTURE:
            raise OtherModelError(
                f"{path}: architecture '{name}'; expected '{ARCHITECTURE}'{_OTHERS}"
            )
        try:
            self.fields: dict[str, Any] = {
                name: entry.contents() for name, entry in self._reader.fields.items()
            }
        except Exception as error:  # the library raises whatever a broken file leads it to
            raise unreadable(path, error) from None
        self.shape = llama_shape(path, self.fields)
        self.tokenizer = self._tokenizer()

    @functools.cached_property
    def llama(self) -> Llama:
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
        return Llama(self.shape, self._checked(weights))

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
        attend = attend or dense_attention(self.shape.scale, True)
        return self.llama.forward(
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
        attend = attend or dense_attention(self.shape.scale, True)
        return self.llama.greedy(token_ids, steps, attend, cache)

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            raise missing(self.path, name)
        return self.fields[name]

    def _checked(self, weights: dict[str, Floats]) -> dict[str, Floats]:
        shape = self.shape
        heads = {"q": shape.num_query_heads, "k": shape.num_kv_heads, "v": shape.num_kv_heads}
        kinds = ("attn_norm", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        expected = {"token_embd.weight", "output_norm.weight"} | {
            f"blk.{i}.{kind}.weight"
            for i in range(shape.num_layers)
            for kind in (*kinds, *(f"attn_{h}" for h in heads))
        }
        missing, foreign = expected - set(weights), set(weights) - expected - {"output.weight"}
        if missing or foreign:
            name = sorted(missing or foreign)[0]
            raise TraceError(
                f"{self.path}: tensor '{name}' is {'missing' if missing else 'not understood'}; "
                "expected a plain Llama model (for others give a folder or id for transformers)"
            )
        for layer in range(shape.num_layers):
            for head, count in heads.items():
                name = f"blk.{layer}.attn_{head}.weight"
                if weights[name].shape[0] != count * shape.head_dim:
                    raise TraceError(
                        f"{self.path}: tensor '{name}' has {weights[name].shape[0]} rows; "
                        f"expected {count} heads x {shape.head_dim}"
                    )
                if head != "v":
                    weights[name] = _hugging_face_order(weights[name], count)
        return weights

    def _tokenizer(self) -> Any:
        for name, expected in (("model", "gpt2"), ("pre", _PRE_TOKENIZER)):
            value = self._field(f"tokenizer.ggml.{name}")
            if value != expected:
                raise OtherModelError(
                    f"{self.path}: tokenizer.ggml.{name} is '{value}'; expected '{expected}'"
                    f"{_OTHERS}"
                )
        tokenizers = require("tokenizers", "tokenizers")
        tokens = self._texts("tokenizer.ggml.tokens")
        pairs = [tuple(merge.split(" ", 1)) for merge in self._texts("tokenizer.ggml.merges")]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        for pair in pairs:
            if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
                raise TraceError(
                    f"{self.path}: GGUF key 'tokenizer.ggml.merges': {' '.join(pair)[:40]!r}; "
                    "expected two tokens whose joint is one, all in the vocabulary"
                )
        self._first = self._beginning(len(tokens))
        built = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))
        built.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Digits(individual_digits=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        built.decoder = tokenizers.decoders.ByteLevel()
        return built

    def _texts(self, name: str) -> list[str]:
        value = self._field(name)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise TraceError(f"{self.path}: GGUF key '{name}': expected a list of texts")
        return value

    def _beginning(self, tokens: int) -> list[int]:
        """Ids that the file's tokenizer puts before a text."""
        wanted = self.fields.get("tokenizer.ggml.add_bos_token", False)
        first = self.fields.get("tokenizer.ggml.bos_token_id")
        if not wanted:
            return []
        if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < tokens:
            raise TraceError(
                f"{self.path}: GGUF key 'tokenizer.ggml.bos_token_id' is {first!r}; expected a "
                f"token, since add_bos_token is set"
            )
        return [first]


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
