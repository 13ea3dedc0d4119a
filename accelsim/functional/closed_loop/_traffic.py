"""DRAM bytes that a policy's decisions ask for inside a running model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.functional.selection import Block, Decision, Shape
from accelsim.policies import KiviQuantization, Policy

_SCALE_BYTES = 2
"""A scale of 16 bits goes with every vector that has one of its own."""


def traffic_bytes(
    policy: Policy, shape: Shape, block: Block, decision: Decision, used: NDArray[np.bool_]
) -> int:
    """Bytes of a block, counted as the columns of the workload count them.

    A decoding row is one fetch of the union over the query heads of each KV head. Prompt rows of a
    causal model are not counted: with a prompt, this is the traffic of the decoding that follows.
    All rows of an encoder share one fetch.

    Args:
        policy: of the block's stage and layer.
        shape: of the model and the run.
        block: whose rows were decided.
        decision: what was decided.
        used: [query_heads, rows, context], keys whose values are read.
    """
    rows = np.ones(len(block.positions), dtype=np.bool_)
    if shape.causal:
        rows = block.positions >= shape.prompt_tokens
    over = (1,) if shape.causal else (1, 2)
    heads = (shape.num_kv_heads, shape.group)
    keys, values, refetched = (
        np.asarray(mask.reshape(*heads, *mask.shape[1:])[:, :, rows].any(axis=over))
        for mask in (decision.kept, used, decision.refetched)
    )
    key_counts, value_counts = keys.sum(axis=-1), values.sum(axis=-1)
    key_bits, lsb_bits, value_bits = policy.fetched_bits
    bits = key_counts.sum() * key_bits + value_counts.sum() * value_bits
    bits += (key_counts * refetched).sum() * lsb_bits
    vectors = decision.metadata_vectors[:, rows].sum() + decision.written_vectors[:, rows].sum()
    bits += vectors * (key_bits + lsb_bits)
    total = int(bits) * shape.head_dim // 8
    q = policy.quantization
    if isinstance(q, KiviQuantization):
        return total + _kivi_bytes(q, shape.head_dim, keys, values, block.positions[rows] + 1)
    if q.scale == "per_token":
        total += int(key_counts.sum() + value_counts.sum()) * _SCALE_BYTES
    return total


def _kivi_bytes(
    q: KiviQuantization,
    head_dim: int,
    keys: NDArray[np.bool_],
    values: NDArray[np.bool_],
    contexts: NDArray[np.int64],
) -> int:
    """What a KIVI cache reads beyond its narrow vectors: the residual, scales and zero points."""
    total = 0
    for row, context in enumerate(contexts.tolist()):
        old_keys, old_values = q.quantized_keys(context), q.quantized_values(context)
        recent = int(keys[:, row, old_keys:].sum()), int(values[:, row, old_values:].sum())
        residual = recent[0] * (q.full_bits - q.key_bits) + recent[1] * (q.full_bits - q.value_bits)
        grouped = keys[:, row, :old_keys].reshape(len(keys), -1, q.group_tokens)
        scales = int(grouped.any(axis=2).sum()) * head_dim
        scales += int(values[:, row, :old_values].sum()) * -(-head_dim // q.group_channels)
        total += residual * head_dim // 8 + scales * q.scale_bytes + sum(recent) * _SCALE_BYTES
    return total
