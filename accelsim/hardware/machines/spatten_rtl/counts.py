"""Counters that follow from the requests, whichever engine timed them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from accelsim.hardware.activity import Activity
from accelsim.hardware.machines._spatten import BITS_ON_CHIP, importance_additions, score_fifo_bytes
from accelsim.hardware.machines.spatten_rtl.facts import LSB_BITS
from accelsim.hardware.machines.spatten_rtl.requests import Requests
from accelsim.workloads import Workload


def count_requests(
    activity: Activity,
    workload: Workload,
    rows: Requests,
    read_bytes: Mapping[str, int] | None = None,
) -> None:
    """Add bytes by tensor and the work of the compute blocks.

    Args:
        activity: added to.
        workload: whose rows were run.
        rows: the same, as the machine saw them.
        read_bytes: bytes by tensor as they were fetched; derived from the rows if not given, which
            is right where vectors are fetched whole and never share a burst.
    """
    dim = workload.head_dim
    if read_bytes is None:
        read_bytes = {
            "query": 0,
            "key_msb": int((rows.keys * rows.key_bits).sum()) * dim // 8,
            "key_lsb": int((rows.keys * rows.refetch).sum()) * LSB_BITS * dim // 8,
            "value": int((rows.values * rows.value_bits).sum()) * dim // 8,
        }
    activity.dram_read_bytes = dict(read_bytes)
    one = rows.queries == 1
    first = np.where(one, rows.keys, workload["query_keys"]).sum()
    again = np.where(one, rows.keys * rows.refetch, workload["refetch_query_keys"]).sum()
    weighted = int(np.where(one, rows.values, workload["query_values"]).sum())
    scored = int(first + again)
    line_bytes = dim * BITS_ON_CHIP // 8
    used = rows.prunes == 1
    elements = int(rows.topk_elements[used].sum() + workload["select_elements"].sum())
    passes = int(rows.queries.sum() + rows.refetch.sum())
    for name, amount in {
        "query_register_bytes": passes * line_bytes,
        "softmax_fifo_bytes": score_fifo_bytes(scored),
        "importance_additions": importance_additions(workload),
        "qk_macs": scored * dim,
        "pv_macs": weighted * dim,
        "exponentials": scored,
        "divisions": scored,
        "topk_passes": int(rows.topk_passes[used].sum() + workload["select_passes"].sum()),
        "topk_comparisons": 2 * elements,
        "topk_fifo_bytes": 4 * elements,
        "key_sram_write_bytes": int((rows.keys * (1 + rows.refetch)).sum()) * line_bytes,
        "key_sram_read_bytes": scored * line_bytes,
        "value_sram_write_bytes": int(rows.values.sum()) * line_bytes,
        "value_sram_read_bytes": weighted * line_bytes,
        "fetcher_bytes": 2 * sum(read_bytes.values()),
    }.items():
        activity.count(name, amount)
    written = int(workload["write_back_bytes"].sum())
    # Posted writes: counted and charged, but they take no turn on the simulated channels.
    activity.dram_write_bytes = -(-written // 32) * 32
    activity.count("dram_writes", activity.dram_write_bytes // 32)
