"""Shapes of Transformers: what fully connected layers cost, and dense workloads without a trace."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from accelsim.configs import Config, Unit, load
from accelsim.errors import WorkloadError
from accelsim.workloads._table import Workload

Layers = Annotated[int, Field(ge=1, le=10_000), Unit("layers")]
Heads = Annotated[int, Field(ge=1, le=65_536), Unit("heads")]
Elements = Annotated[int, Field(ge=1, le=1 << 24), Unit("elements")]


class ModelShape(Config):
    """A stack of equal Transformer layers; embeddings and the output vocabulary are not in it."""

    description: str
    source: str
    layers: Layers
    width: Elements
    """Elements of a hidden vector."""
    query_heads: Heads
    kv_heads: Heads
    """Key/value heads; fewer than query heads under grouped-query attention."""
    head_dim: Annotated[int, Field(ge=1, le=65_536), Unit("elements")]
    ffn_width: Elements
    ffn_matrices: Annotated[int, Field(ge=2, le=3)] = 2
    """2: up and down; 3: gate, up and down."""
    causal: bool
    window_tokens: Annotated[int | None, Field(ge=1, le=1 << 20), Unit("tokens")] = None
    """Newest tokens that a layer with a sliding window sees, the query's own among them."""
    full_every: Layers | None = None
    """With a window: the last of every so many layers sees the whole context; none does if not
    given."""
    trained_tokens: Annotated[int | None, Field(ge=1, le=1 << 24), Unit("tokens")] = None
    """Longest context of the configuration; a longer one is run, and said."""
    not_run: str = ""
    """Why no machine here runs its attention; empty where one does."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelShape:
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"'query_heads' {self.query_heads}: expected a multiple of 'kv_heads' "
                f"{self.kv_heads}"
            )
        if self.window_tokens is None and self.full_every is not None:
            raise ValueError("'full_every' goes with 'window_tokens'")
        if self.window_tokens is not None and not self.causal:
            raise ValueError("'window_tokens' goes with 'causal: true'")
        return self

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.query_heads // self.kv_heads

    def window(self, layer: int) -> int | None:
        """Newest tokens that a query of a layer sees; ``None`` for all."""
        full = self.full_every is not None and (layer + 1) % self.full_every == 0
        return None if full else self.window_tokens

    def seen(self, layer: int, context: int) -> int:
        """Tokens that the last query of a context sees in a layer."""
        return min(context, self.window(layer) or context)

    def layer_weights(self, query_heads: int | None = None, kv_heads: int | None = None) -> int:
        """Weights of the fully connected layers of one layer.

        Args:
            query_heads: heads that are alive; all if not given.
            kv_heads: key/value heads that are alive; all if not given.
        """
        queries = self.query_heads if query_heads is None else query_heads
        pairs = self.kv_heads if kv_heads is None else kv_heads
        projections = self.width * self.head_dim * 2 * (queries + pairs)
        return projections + self.ffn_matrices * self.width * self.ffn_width


def load_model(name_or_path: str) -> ModelShape:
    """Read a shape from ``hw_configs/models``.

    Raises:
        ConfigError: with file, key and expectation.
    """
    return load(ModelShape, name_or_path, "models")


def dense_workload(
    shape: ModelShape, prefill_tokens: int, decode_tokens: int, bits: int = 12, name: str = ""
) -> Workload:
    """Return the attention of a run without pruning, one row per step, layer and KV head.

    Args:
        shape: the model.
        prefill_tokens: tokens processed together in step 0; their attention is part of the
            workload only if ``decode_tokens`` is 0 (an encoder, or a prompt), since generation is
            what decoders are measured by.
        decode_tokens: tokens generated one by one.
        bits: of key and value elements.
        name: of the workload.

    Raises:
        WorkloadError: no tokens, or layers with a window.
    """
    if shape.window_tokens is not None:
        raise WorkloadError("dense_workload: expected a model whose layers see the whole context")
    if prefill_tokens < 0 or decode_tokens < 0 or prefill_tokens + decode_tokens < 1:
        raise WorkloadError(
            f"{prefill_tokens} prompt and {decode_tokens} generated tokens: expected at least one"
        )
    steps = np.arange(1, decode_tokens + 1) if decode_tokens else np.array([0])
    per_step = shape.layers * shape.kv_heads
    step = np.repeat(steps, per_step)
    context = prefill_tokens + step
    group = shape.query_heads // shape.kv_heads
    rows_of_queries = 1 if decode_tokens else prefill_tokens
    pairs = context.astype(np.int64) * rows_of_queries
    if not decode_tokens and shape.causal:
        pairs = context.astype(np.int64) * (context + 1) // 2
    return Workload.from_columns(
        {
            "step": step,
            "layer": np.tile(np.repeat(np.arange(shape.layers), shape.kv_heads), len(steps)),
            "head": np.tile(np.arange(shape.kv_heads), len(steps) * shape.layers),
            "context_tokens": context,
            "queries": np.full(len(step), group * rows_of_queries),
            "keys": context,
            "values": context,
            "query_keys": group * pairs,
            "query_values": group * pairs,
            "key_bits": np.full(len(step), bits),
            "value_bits": np.full(len(step), bits),
        },
        head_dim=shape.head_dim,
        name=name or f"{prefill_tokens}+{decode_tokens} tokens",
    )
