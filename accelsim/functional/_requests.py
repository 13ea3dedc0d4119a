"""Masks of kept keys and used values become requests of a workload: counts, widths, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.policies import Policy

Mask = NDArray[np.bool_]


def requested(
    policy: Policy,
    head_dim: int,
    keys: Mask,
    values: Mask,
    contexts: NDArray[np.int64],
    decoding: bool,
    refetched: Mask,
    metadata_vectors: NDArray[np.int64] | None = None,
    written_vectors: NDArray[np.int64] | None = None,
    value_dim: int | None = None,
    index_bytes: NDArray[np.int64] | None = None,
    index_products: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Columns of the workload that say what each fetch moves, each [kv_heads, rows].

    Open and closed loop both ask here, and :func:`accelsim.workloads.read_bits` turns the columns
    into bytes, so that a decision costs the same wherever it is made.

    Args:
        policy: of the stage and layer.
        head_dim: elements of a key.
        keys: [kv_heads, rows, context], keys of a fetch, the union over its queries.
        values: likewise.
        contexts: tokens before any pruning, [rows].
        decoding: whether the rows follow a prompt.
        refetched: [kv_heads, rows], whether the LSB plane of the keys is fetched too.
        metadata_vectors: vectors of head_dim read to rank pages or chunks, [kv_heads, rows]; none
            if not given.
        written_vectors: vectors of head_dim written back, likewise.
        value_dim: elements that are moved for a value; those of a key if ``None``, 0 of a latent,
            whose values lie in the keys and have their width.
        index_bytes: of index keys read beside, likewise.
        index_products: multiplications of an indexer, likewise.
    """
    key_bits, lsb_bits, value_bits = policy.fetched_bits
    if value_dim == 0:
        value_bits = key_bits
    metadata, residual = policy.quantization.beside(
        keys, values, contexts, decoding, head_dim, value_dim
    )
    size = keys.shape[:2]
    read, written, index, products = (
        np.zeros(size, dtype=np.int64) if count is None else count
        for count in (metadata_vectors, written_vectors, index_bytes, index_products)
    )
    vector_bits = head_dim * (key_bits + lsb_bits)
    starts = keys[..., 1:] & ~keys[..., :-1]
    return {
        "keys": keys.sum(axis=2),
        "values": values.sum(axis=2),
        "key_bits": np.full(size, key_bits),
        "key_lsb_bits": np.full(size, lsb_bits),
        "value_bits": np.full(size, value_bits),
        "refetch_lsb": refetched,
        "metadata_bytes": metadata + read * vector_bits // 8 + index,
        "residual_bytes": residual,
        "write_back_bytes": written * vector_bits // 8,
        "index_products": products,
        "key_runs": keys[..., 0].astype(np.int64) + starts.sum(axis=2),
    }
