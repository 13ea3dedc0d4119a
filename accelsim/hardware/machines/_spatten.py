"""What both readings of SpAtten, published and released, count and are sized by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelsim.hardware.counters import ATTENTION, BUFFERS, QUERY_REGISTERS, Counter, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from accelsim.hardware.activity import Activity
    from accelsim.workloads import Workload

BITS_ON_CHIP = 12
"""Keys, values and scores in multipliers and buffers (SpAtten Table I; release, section 2.1)."""

SPATTEN = (
    *ATTENTION,
    *BUFFERS,
    QUERY_REGISTERS,
    Counter("softmax_fifo_bytes", "byte", "bytes of scores written to or read from the score FIFO"),
    Counter(
        "importance_additions",
        "addition",
        "probabilities added to the importance of their token, read and written back",
    ),
    Counter("fetcher_bytes", "byte", "bytes through crossbar, fetch FIFOs and bit-width converter"),
    Counter("topk_passes", "pass", "quick-select passes of the top-k engines", charged=False),
    Counter(
        "topk_comparisons",
        "comparison",
        "element-pivot comparisons in the top-k engines, two per element read",
    ),
    Counter("topk_fifo_bytes", "byte", "bytes read or written in the top-k FIFOs"),
    Counter(
        "spill_read_bytes",
        "byte",
        "bytes of scores and partial results that came back from DRAM; charged as bursts",
        charged=False,
    ),
    Counter(
        "spill_write_bytes",
        "byte",
        "bytes of scores and partial results that went to DRAM; charged as bursts",
        charged=False,
    ),
    Counter(
        "refetched_bytes",
        "byte",
        "bytes fetched again because buffers do not hold a whole row; charged as bursts",
        charged=False,
    ),
)
"""Both have the same blocks; the released one spills and fetches again nothing."""


def spatten_sizes(ports: int, lanes: int, comparators: int) -> dict[str, Size]:
    """Sizes of SpAtten's blocks, as published and as released.

    Args:
        ports: of the matrix fetcher.
        lanes: scores that the softmax takes in a cycle.
        comparators: of an array, times engines.
    """
    return {
        "fetch_channel": Size(ports, "port of the matrix fetcher"),
        "softmax_lane": Size(lanes, "score that the softmax takes in a cycle"),
        "topk_comparator": Size(comparators, "comparator of an array, of every engine"),
    }


def score_fifo_bytes(scores: int) -> int:
    """Bytes written to and read from the FIFO in which scores wait for their sum (SpAtten Table I).

    Args:
        scores: of all passes; 12 bit each (assumption: as on chip).
    """
    return 2 * scores * BITS_ON_CHIP // 8


def importance_additions(workload: Workload) -> int:
    """Probabilities added to accumulated importances (SpAtten Algorithm 2).

    As a policy recorded them; where none did and tokens are selected (benchmarks, CSV files), every
    probability of the last pass of each query.
    """
    recorded = int(workload["score_updates"].sum())
    if recorded or not (workload["select_size"] > 0).any():
        return recorded
    return int(workload["query_keys"].sum())


def count_dram(activity: Activity, counted: NDArray[np.int64]) -> None:
    """Add the commands of the DRAM channels (``memories.channel.counters``)."""
    # Numba is imported only when a machine runs.
    from accelsim.hardware.memories.channel import ACT, CONFLICTS, HITS, MISSES, PRE, RD, REFAB

    for name, column in (
        ("dram_activations", ACT),
        ("dram_precharges", PRE),
        ("dram_reads", RD),
        ("dram_refreshes", REFAB),
        ("row_hits", HITS),
        ("row_misses", MISSES),
        ("row_conflicts", CONFLICTS),
    ):
        activity.count(name, int(counted[column]))
