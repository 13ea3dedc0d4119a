"""Counts of a workload that holds no tensors, for machines that prune by a rule of their own.

Their rules look at real scores. Where there are none, the fractions that papers print stand in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.workloads import RivalWorkload, Workload, undecided


def assumed_queries(
    workload: Workload,
    candidate_fraction: float | None,
    kept_fraction: float | None,
    budget: Callable[[NDArray[Any]], NDArray[np.int64]],
) -> RivalWorkload:
    """Give each query its counts, as A3 needs them.

    Args:
        workload: dense, or decided already: then it is returned.
        candidate_fraction, kept_fraction: of the visible keys.
        budget: visible keys of each query to its iterations.

    Raises:
        WorkloadError: pruned by a policy, or no fractions.
    """
    if isinstance(workload, RivalWorkload):
        return workload
    undecided(workload, "A3")
    if candidate_fraction is None or kept_fraction is None:
        raise WorkloadError(
            f"workload '{workload.name}': approximate A3 decides on real tensors; expected a "
            "trace, or candidate_fraction and kept_fraction set"
        )
    queries = workload["queries"].astype(np.int64)
    visible = np.repeat(np.rint(workload["query_keys"] / queries).astype(np.int64), queries)
    candidates = np.maximum(1, np.rint(visible * candidate_fraction)).astype(np.int64)
    kept = np.maximum(1, np.rint(visible * kept_fraction)).astype(np.int64)
    return _with_counts(
        workload,
        visible=visible,
        iterations=budget(visible),
        candidates=candidates,
        kept=np.minimum(kept, candidates),
    )


def assumed_chunks(
    workload: Workload, kept_fraction: float | None, chunk_rows: int
) -> RivalWorkload:
    """Give each chunk of keys its counts, as MNNFast needs them.

    Args:
        workload: dense, or decided already: then it is returned.
        kept_fraction: values that are not skipped.
        chunk_rows: keys of a chunk.

    Raises:
        WorkloadError: pruned by a policy, or no fraction.
    """
    if isinstance(workload, RivalWorkload):
        return workload
    undecided(workload, "MNNFast")
    if kept_fraction is None:
        raise WorkloadError(
            f"workload '{workload.name}': MNNFast skips by real probabilities; expected a trace, "
            "or kept_fraction set"
        )
    scored: list[int] = []
    for keys, total in zip(workload["keys"], workload["query_keys"], strict=True):
        edges = np.minimum(np.arange(0, keys + chunk_rows, chunk_rows), keys)
        scored += np.diff(np.rint(edges * (total / keys)).astype(np.int64)).tolist()
    counts = np.array(scored, dtype=np.int64)
    kept = np.rint(counts * kept_fraction).astype(np.int64)
    return _with_counts(workload, scored=counts, kept=kept)


def one_key(head_dim: int, **counts: int) -> RivalWorkload:
    """One query with one key: enough to wire a machine and to draw it."""
    bits = {"key_bits": [12], "value_bits": [12]}
    workload = Workload.from_columns({"keys": [1], "values": [1], **bits}, head_dim=head_dim)
    return _with_counts(workload, **{name: np.array([n]) for name, n in counts.items()})


def _with_counts(workload: Workload, **counts: NDArray[np.int64]) -> RivalWorkload:
    return RivalWorkload(
        workload.columns, workload.head_dim, workload.name, cache=workload.cache, counts=counts
    )
