"""Machines that prune by their own rule: what they cannot be given."""

from __future__ import annotations

import numpy as np

from accelsim.errors import WorkloadError
from accelsim.workloads._table import Workload


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
