"""A workload with counts that the standard table has no room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.workloads._table import Workload


@dataclass(frozen=True)
class RivalWorkload(Workload):
    """A workload decided by a machine's own rule.

    Attributes:
        counts: name to a flat int64 array over all rows in row order. A3: one number for each
            query of each row (``visible``, ``iterations``, ``candidates``, ``kept``). MNNFast: one
            for each chunk of keys of each row (``scored``, ``kept``: summed over the queries).
    """

    counts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


def undecided(workload: Workload, machine: str) -> None:
    """Check that a workload from a file leaves the decisions to the machine.

    Raises:
        WorkloadError: a row holds decisions of a pruning policy.
    """
    keys, values = workload["keys"], workload["values"]
    pruned = np.flatnonzero((keys != workload["context_tokens"]) | (values != keys))
    if len(pruned):
        row = int(pruned[0])
        raise WorkloadError(
            f"workload '{workload.name}': row {row} keeps {keys[row]} keys and {values[row]} "
            f"values of {workload['context_tokens'][row]} tokens; {machine} prunes by its own "
            "rule: expected a dense workload, or a trace"
        )
