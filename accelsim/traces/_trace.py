"""AttentionTrace: queries, keys and values of a real model, read lazily from disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError

SCHEMA = "attention-trace/1"


class TensorSource(Protocol):
    """Where the tensors of a trace come from: a mapped file, shards, or memory."""

    def names(self) -> set[str]:
        """Names of all tensors."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor; bfloat16 comes as float32."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        ...


@dataclass(frozen=True)
class AttentionTrace:
    """Recorded attention of one run of a model: a prefill, then decode steps.

    Attributes:
        model: name of the model.
        source: where weights and text come from.
        num_layers: recorded layers, 0 to num_layers - 1.
        num_query_heads: query heads per layer.
        num_kv_heads: key/value heads per layer; divides ``num_query_heads``.
        head_dim: elements of one query, key or value vector.
        causal: whether a query sees only tokens up to its own.
        prefill_tokens: tokens processed together at the start.
        decode_tokens: tokens processed one at a time after it.
        scale: factor of the scores before the softmax.
        recorded_under: ``dense`` or the YAML of the policy that ran inside the model.
        text: the text, or its beginning.
        tokens_sha256: SHA-256 of the token ids as little-endian int32.
        path: the file, for messages.
    """

    model: str
    source: str
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    causal: bool
    prefill_tokens: int
    decode_tokens: int
    scale: float
    tensors: TensorSource = field(repr=False, compare=False)
    recorded_under: str = "dense"
    text: str = ""
    tokens_sha256: str = ""
    path: str = "(in memory)"

    @property
    def tokens(self) -> int:
        """All tokens: prefill + decode."""
        return self.prefill_tokens + self.decode_tokens

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_query_heads // self.num_kv_heads

    @property
    def has_values(self) -> bool:
        """Whether values were recorded; a trace on disk always has them."""
        return "layer.0.value" in self.tensors.names()

    @property
    def token_ids(self) -> NDArray[np.int32] | None:
        """Token ids [tokens], or ``None`` if they were not recorded."""
        if "token_ids" not in self.tensors.names():
            return None
        return self.tensors.read("token_ids").astype(np.int32)

    def query(self, layer: int) -> NDArray[np.float32]:
        """Queries of a layer, [num_query_heads, tokens, head_dim] float32, after rotation."""
        return self._read(layer, "query")

    def key(self, layer: int) -> NDArray[np.float32]:
        """Keys of a layer, [num_kv_heads, tokens, head_dim] float32, after rotation."""
        return self._read(layer, "key")

    def value(self, layer: int) -> NDArray[np.float32]:
        """Values of a layer, [num_kv_heads, tokens, head_dim] float32."""
        return self._read(layer, "value")

    def _read(self, layer: int, kind: str) -> NDArray[np.float32]:
        if not 0 <= layer < self.num_layers:
            raise TraceError(
                f"{self.path}: layer {layer}: expected 0 to {self.num_layers - 1}, as recorded"
            )
        return self.tensors.read(f"layer.{layer}.{kind}").astype(np.float32, copy=False)

    def expected_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Name and shape of every tensor that the schema asks for."""
        heads = {
            "query": self.num_query_heads,
            "key": self.num_kv_heads,
            "value": self.num_kv_heads,
        }
        return {
            f"layer.{layer}.{kind}": (count, self.tokens, self.head_dim)
            for layer in range(self.num_layers)
            for kind, count in heads.items()
        }
