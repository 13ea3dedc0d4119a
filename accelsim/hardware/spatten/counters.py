"""Counters of SpAtten's blocks, as published and as released."""

from __future__ import annotations

from accelsim.hardware.counters import ATTENTION, BUFFERS, QUERY_REGISTERS, Counter

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
