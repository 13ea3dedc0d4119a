"""State of the machine: one record of scalars, and tables of records.

Fields of a table are given by the plan, or change while the machine runs. ``NEVER`` in a field of
cycles: not known yet.

Latencies, and the sizes in ``_plan``, are those of the event engine's blocks, stated again on
purpose: this engine is its reference, written apart from one specification.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories.channel import Banks, Channels
from accelsim.hardware.memories.timing import MAX_ENTRIES, Organisation

Ints = NDArray[np.int64]
Records = NDArray[np.void]
NEVER = 1 << 60

FILL = 11
"""From a joined beat to the multipliers (rel. 2.6: x + 14 against x + 3)."""
EXPONENT, ACCUMULATE, DIVIDE = 28, 23, 36
"""Stages of the softmax: dequantize 7 + exponential 21; sum 23; divide 29 + quantize 7 (2.10)."""
FORK_TO_FETCHER, VALUE_FORK_TO_FETCHER = 4, 5
"""From a fork to the address FIFOs (rel. 2.5, 2.14)."""
FIRST_CYCLE = 2
"""First cycle of the key fork (rel. 2.5)."""
REFETCH_DELAY, REUSE = 2, 5
"""From a decision to the fork, and to the lines of the keys (rel. 2.16)."""

MACHINE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "now",
            "progress",
            # Of the machine and the workload.
            "streamed",
            "log_dim",
            "log_scores",
            "parallelism",
            "softmax_fifo",
            "key_depth",
            "value_depth",
            "lines",
            "topk_rows",
            "ports",
            "channels",
            "channel_bits",
            "address_fifo",
            "response_fifo",
            "ring_mask",
            "query_traffic",
            "all_outputs",
            "first_passes",
            "early_tiles",
            # Outputs.
            "outputs",
            "last_output",
            # Key fork.
            "next_matrix",
            "lsb_head",
            "lsb_tail",
            "qpend_head",
            "qpend_tail",
            "barrier",
            "undecided",
            "last_decided",
            "key_used",
            "key_most",
            "key_count",
            "key_head",
            "key_tail",
            # Query x key.
            "qk_head",
            "qk_tail",
            "qk_job",
            "qk_beat",
            "pipe_head",
            "pipe_tail",
            # Softmax.
            "fifo_in",
            "fifo_out",
            "fifo_most",
            "seq_head",
            "seq_tail",
            "read_beat",
            "read_extra",
            "out_head",
            "out_tail",
            "decide_head",
            "decide_tail",
            # Top-k, filter.
            "search_next",
            "filter_next",
            "topk_tail",
            "search_free",
            "filter_free",
            "last_filter",
            # Selector.
            "token_head",
            "token_tail",
            "tokens_read",
            "tokens_begun",
            "heads_head",
            "heads_tail",
            "selector_free",
            # Values.
            "next_early",
            "late_done",
            "slot_head",
            "slot_tail",
            "ask_count",
            "value_used",
            "value_most",
            "value_count",
            "w_head",
            "w_tail",
            "w_free",
            "w_tile_beat",
            # Fetcher.
            "key_req_head",
            "key_req_tail",
            "value_req_head",
            "value_req_tail",
            "current",
            "current_tx",
            "pushed",
            "loaded",
            "joined",
            "addresses_waiting",
            "responses_waiting",
            "in_dram",
            "dram_next",
            "address_most",
            "response_most",
            # Busy cycles.
            "busy_fetcher",
            "busy_qk",
            "busy_softmax",
            "busy_topk",
            "busy_filter",
            "busy_selector",
            "busy_pv",
        )
    ]
)
"""Scalars; one record."""

GROUP = np.dtype(
    [
        (name, np.int64)
        for name in (
            "ahead",
            "step_first",
            "select",
            "select_passes",
            "heads",
            "heads_passes",
            "tokens",
            "each",
            # Changes while the machine runs.
            "jobs_left",
            "outputs_left",
            "last",
            "done",
            "begun",
            "tokens_end",
            "heads_end",
        )
    ]
)
"""Rows of one layer of one step. ``ahead``: keys may be asked for before the group before is done.
``select``, ``heads``: cycles of a token search (after a query or the layer) and of the head search,
for the group after; -1: none. ``tokens``: token searches, ``each``: one after each query.
``jobs_left``: queries whose last probability is to come."""

ROW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "group",
            "query_request",
            "queries_at",
        )
    ]
)
"""With query-outer, the rows that a row is run as. ``queries_at``: request whose last beat brings
the queries; -1: they come with the keys."""

MATRIX = np.dtype(
    [
        (name, np.int64)
        for name in (
            "row",
            "group",
            "request",
            "vectors",
            "lines",
            "scores",
            "job_0",
            "job_1",
            "offset",
            "first",
            "lsb",
            "two",
            "last_tile",
            "barrier",
            "owner",
            "hold",
            "prefix_queries",
            "piece",
            # Changes while the machine runs.
            "asked",
            "free",
        )
    ]
)
"""Of keys. ``scores``: vectors taken in a cycle. ``owner``: the matrix whose lines it uses (itself,
or for the LSBs of one tile that of the MSBs). ``hold``: lines are released by the decision.
``barrier``: the fork waits behind it for the decision."""

PIECE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "late",
            "tile_0",
            "tiles",
            "union",
            "mode",
            "job_0",
            "job_1",
            "lsb_0",
            "lsb_1",
            "matrix",
            "tx_total",
            "two",
            "two_before",
            "follows",
            # Changes while the machine runs.
            "filter_left",
            "filter_end",
            "decide_left",
            "decided",
            "scores_at",
            "queued",
            "slots",
            "due",
            "gradual",
        )
    ]
)
"""What shares a value tile or several: a row, or a tile of a row of one pass. ``late``: values are
asked for on demand, in slots (late rows, and all of two passes). ``mode``: when (AT_PROBABILITY,
WITH_FILTER, AFTER_FILTERS). ``lsb_0``, ``lsb_1``: matrices of the LSB pass. ``job_0``, ``job_1``:
in the list of jobs with values. ``two_before``: piece of the two-pass row two before; -1: none.
``follows``: a late tile in which no query has keys, which goes with the piece before it.
``gradual``: the job whose filter makes transactions known."""

AT_PROBABILITY, WITH_FILTER, AFTER_FILTERS = range(3)

TILE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "piece",
            "request",
            "vectors",
            "lines",
            "scores",
            "matrix",
            # Changes while the machine runs.
            "uses",
            "asked",
            "free",
        )
    ]
)
"""Of values. ``scores``: vectors taken in a cycle."""

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            "piece",
            "group",
            "source",
            "keys",
            "beats",
            "values",
            "w_beats",
            "dropped",
            "prunes",
            "search",
            "extra",
            "w_extra",
            "decides",
            "two",
            "output",
            # Changes while the machine runs.
            "sum",
            "last",
            "searched",
            "filter",
            "passed",
            "w_done",
            "buffer",
        )
    ]
)
"""One pass of one query over a piece."""

REQUEST = np.dtype(
    [
        (name, np.int64)
        for name in (
            "start",
            "length",
            "start_2",
            "length_2",
            "beat_0",
            "vector_0",
            # Changes while the machine runs.
            "arrives",
            "beats",
            "piece",
            "tx_base",
        )
    ]
)
"""To the fetcher: two runs of transactions. ``piece``: piece whose filter makes the transactions
known; -1: all known."""

BEAT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "pushed",
            "request",
            "first",
            "count",
            "loaded",
            "arrived",
            "latest",
            "join",
        )
    ]
)
"""Of the fetcher, in flight."""

PORT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "head",
            "destination",
            "address",
            "arrived",
            "served",
        )
    ]
)
"""Of the fetcher."""

ID_MASK = 2 * MAX_ENTRIES - 1
"""Requests in flight and parked of a channel whose ports are remembered."""
DRAM_PORT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "parked",
            "offered",
            "lock",
            "response",
            "choice",
            "id_head",
            "id_tail",
        )
    ]
    + [("ids", np.int64, ID_MASK + 1)]
)
"""Of a DRAM channel."""


def _entry(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


# Entries of queues.
REFETCH = _entry("matrix", "ready")
"""Matrix of an LSB pass, and its first cycle at the fork."""
SCORE_BEAT = _entry("taken", "complete", "job")
"""Cycle taken, softmax beats completed, job if it is its last (else -1)."""
PROBABILITY_BEAT = _entry("read", "job", "marks")
"""Cycle read, job, 1 for the first of a job + 2 for the last."""
DECISION = _entry("at", "job")
SEARCH = _entry("at", "group")
"""Asked for in a cycle."""
WEIGHING = _entry("job", "tile")


class Machine(NamedTuple):
    """All arrays; the kernels take them in this order."""

    s: Records
    groups: Records
    rows: Records
    matrices: Records
    pieces: Records
    tiles: Records
    jobs: Records
    requests: Records
    queues: Queues
    fetch: Fetch


class Queues(NamedTuple):
    """Queues: what is in them lies between the head and the tail scalars of ``s``.

    Attributes:
        lsb: of REFETCH.
        asked: [rows]; rows whose queries are asked for at the start of their group.
        key_ring: matrices in the order of allocation.
        value_pool: tiles in the value buffer.
        qk: matrices in the order of the fork.
        pipe: ring of SCORE_BEAT.
        sequence: jobs in the order of the softmax.
        out: ring of PROBABILITY_BEAT, in the dividers.
        decide: of DECISION.
        topk: jobs in the order of their searches.
        buffers: [topk rows]; cycle from which a row buffer is free.
        token, heads: of SEARCH.
        slots: pieces in the order in which they take slots.
        asks: late tiles with a slot that are not asked for yet.
        value_jobs: jobs with values, by piece.
        early_tiles: tiles of early rows in order.
        weighted: of WEIGHING, in the order of the weighted sum.
        key_requests, value_requests: requests under way to the fetcher.
        outputs: [source rows]; cycle of the last output.
    """

    lsb: Records
    asked: Ints
    key_ring: Ints
    value_pool: Ints
    qk: Ints
    pipe: Records
    sequence: Ints
    out: Records
    decide: Records
    topk: Ints
    buffers: Ints
    token: Records
    heads: Records
    slots: Ints
    asks: Ints
    value_jobs: Ints
    early_tiles: Ints
    weighted: Records
    key_requests: Ints
    value_requests: Ints
    outputs: Ints


class Fetch(NamedTuple):
    """The fetcher and the memory.

    Attributes:
        transactions: byte addresses in the order of the requests.
        vectors: [vectors of all requests]; the last transaction of each, from its request's
            first run without a prefix on.
        joined: [beats of all requests]; cycle in which a beat was joined.
        beats: ring of beats in flight.
        ports, channels: of the crossbar.
        dram, banks, organisation: of :mod:`accelsim.hardware.memories`.
    """

    transactions: Ints
    vectors: Ints
    joined: Ints
    beats: Records
    ports: Records
    channels: Records
    dram: Channels
    banks: Banks
    organisation: Organisation
