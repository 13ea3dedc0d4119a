"""Synthetic traces: seeded, small, with the skew that real attention has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.traces._file import MemoryTensors, tokens_sha256
from accelsim.traces._trace import AttentionTrace


def synthetic_trace(
    *,
    seed: int = 0,
    num_layers: int = 2,
    num_query_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    prefill_tokens: int = 12,
    decode_tokens: int = 4,
    causal: bool = True,
    sharpness: float = 2.0,
) -> AttentionTrace:
    """Return a random trace whose first token draws much of the attention, as sinks do.

    Args:
        seed: same seed, same trace.
        num_layers: recorded layers.
        num_query_heads: query heads.
        num_kv_heads: key/value heads; must divide ``num_query_heads``.
        head_dim: elements of a vector.
        prefill_tokens: tokens processed together.
        decode_tokens: tokens processed one at a time.
        causal: whether a query sees only earlier tokens.
        sharpness: standard deviation of the scores; larger is more peaked.
    """
    rng = np.random.default_rng(seed)
    tokens = prefill_tokens + decode_tokens
    tensors: dict[str, NDArray[Any]] = {}
    for layer in range(num_layers):
        keys = rng.normal(size=(num_kv_heads, tokens, head_dim))
        queries = rng.normal(size=(num_query_heads, tokens, head_dim)) * sharpness
        sinks = np.repeat(keys[:, :1], num_query_heads // num_kv_heads, axis=0)
        queries += sinks * rng.uniform(0, 1.5, size=(num_query_heads, 1, 1))
        values = rng.normal(size=keys.shape)
        for kind, tensor in (("query", queries), ("key", keys), ("value", values)):
            tensors[f"layer.{layer}.{kind}"] = tensor.astype(np.float32)
    ids = rng.integers(0, 1000, size=tokens).astype(np.int32)
    tensors["token_ids"] = ids
    return AttentionTrace(
        model="synthetic",
        source=f"synthetic_trace(seed={seed})",
        num_layers=num_layers,
        num_query_heads=num_query_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        causal=causal,
        prefill_tokens=prefill_tokens,
        decode_tokens=decode_tokens,
        scale=head_dim**-0.5,
        tensors=MemoryTensors(tensors),
        tokens_sha256=tokens_sha256(ids),
    )
