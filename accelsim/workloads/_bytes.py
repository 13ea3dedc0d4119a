"""The one count of what decisions ask of DRAM, and what else they ask of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNQUANTIZED_BITS = 12
"""Width of SpAtten's multipliers, and what a width of -1 in a file stands for."""

SERVICES: dict[str, tuple[str, str]] = {
    "bits": ("vectors", f"keys and values stored in other widths than {UNQUANTIZED_BITS} bit"),
    "planes": ("vectors", "LSB planes of keys, fetched again where a row asks"),
    "runs": ("runs", "contiguous runs of keys gathered beyond one a request"),
    "top_k": ("passes", "passes of a top-k engine, over tokens or over probabilities"),
    "updates": ("updates", "accumulators that rank tokens, read, added to and written"),
    "metadata": (
        "bytes",
        "DRAM reads beside vectors: bounds, means, index keys, scales, residuals",
    ),
    "soft_caps": ("scores", "tanh of a score under the model's soft cap"),
    "biases": ("scores", "additions of the model's bias (ALiBi, relative, stored) to a score"),
    "index_products": (
        "multiplications",
        "products of an indexer that chooses keys, before those of attention",
    ),
    "write_backs": ("bytes", "DRAM writes of a policy: merged vectors, bounds, means"),
}
"""What a policy or a model can ask of a machine beyond whole vectors of one width: name to (unit,
meaning). An accelerator declares which of them it serves."""


def read_bits(
    columns: Mapping[str, NDArray[Any]],
    head_dim: int | NDArray[np.int64],
    value_dim: int | NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Bits that requests read, by tensor and bit plane, each int64 of the columns' shape.

    No rounding to bursts and no over-fetch: what the decisions ask for, to be compared with what an
    accelerator moves. ``metadata`` and ``residual`` are what a policy reads beside.

    Args:
        columns: of a workload, or arrays of equal shape with the names that count bytes.
        head_dim: elements of a key; of each row where they differ.
        value_dim: elements of a value, likewise; those of a key if ``None``, 0 where values are
            parts of the keys (a latent).
    """
    keys, values = (columns[name].astype(np.int64) for name in ("keys", "values"))
    key_bits, value_bits = (
        np.where(columns[name] < 0, UNQUANTIZED_BITS, columns[name])
        for name in ("key_bits", "value_bits")
    )
    key_dims = np.asarray(head_dim, dtype=np.int64)
    value_dims = key_dims if value_dim is None else np.asarray(value_dim, dtype=np.int64)
    refetched = np.where(columns["refetch_lsb"], keys * columns["key_lsb_bits"], 0)
    return {
        "key_msb": keys * key_bits * key_dims,
        "key_lsb": refetched * key_dims,
        "value": values * value_bits * value_dims,
        "metadata": columns["metadata_bytes"].astype(np.int64) * 8,
        "residual": columns["residual_bytes"].astype(np.int64) * 8,
    }


def asked(columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Amount of each of :data:`SERVICES` that the requests ask for; only those above zero."""
    keys, values = columns["keys"].astype(np.int64), columns["values"].astype(np.int64)
    amounts = {
        "bits": sum(
            int(count[(width >= 0) & (width != UNQUANTIZED_BITS)].sum())
            for count, width in ((keys, columns["key_bits"]), (values, columns["value_bits"]))
        ),
        "planes": int(keys[columns["refetch_lsb"]].sum()),
        "runs": int(np.maximum(columns["key_runs"].astype(np.int64) - 1, 0).sum()),
        "top_k": sum(
            int(np.maximum(columns[name].astype(np.int64), 0).sum())
            for name in ("topk_passes", "select_passes")
        ),
        "updates": int(columns["score_updates"].sum()),
        "metadata": int(columns["metadata_bytes"].sum() + columns["residual_bytes"].sum()),
        "soft_caps": int(columns["capped_scores"].sum()),
        "biases": int(columns["biased_scores"].sum()),
        "index_products": int(columns["index_products"].sum()),
        "write_backs": int(columns["write_back_bytes"].sum()),
    }
    return {name: amount for name, amount in amounts.items() if amount}
