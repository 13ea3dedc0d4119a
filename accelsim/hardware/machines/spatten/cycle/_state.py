"""State of the machine: one array of scalars, and tables with named columns.

A table is int64 [items, columns]. Columns above the line of dashes are given by the plan, those
below change while the machine runs. ``NEVER`` in a column of cycles: not known yet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.memories._channel import Banks, Channels
from accelsim.hardware.memories._timing import Organisation

Ints = NDArray[np.int64]
NEVER = 1 << 60

FILL = 11
"""From a joined beat to the multipliers (rel. 2.6: x + 14 against x + 3)."""
EXPONENT, ACCUMULATE, DIVIDE = 28, 23, 36
"""Stages of the softmax: dequantize 7 + exponential 21; sum 23; divide 29 + quantize 7 (2.10)."""
FORK_TO_FETCHER, VALUE_FORK_TO_FETCHER = 4, 5
"""From a fork to the address FIFOs (rel. 2.5, 2.14)."""
FIRST_CYCLE = 2
"""First cycle of the key fork (rel. 2.5)."""
REISSUE, REUSE = 2, 5
"""From a decision to the fork, and to the lines of the keys (rel. 2.16)."""

# Scalars.
(
    NOW,
    PROGRESS,
    P_STREAMED,
    P_V_LINES,
    P_S,
    P_D_LOG,
    P_S_LOG,
    P_PAR,
    P_FIFO,
    P_KEY_DEPTH,
    P_VALUE_DEPTH,
    P_LINES,
    P_ROWS,
    P_PER_QUERY,
    P_PORTS,
    P_CHANNELS,
    P_CHANNEL_BITS,
    P_ADDRESS_FIFO,
    P_RESPONSE_FIFO,
    P_RING_MASK,
    P_ID_MASK,
    P_QUERY_TRAFFIC,
    P_OUTPUTS,
    P_MATRICES,
    P_EARLY_TILES,
    OUTPUTS,
    LAST_OUTPUT,
    # key fork
    NEXT_MATRIX,
    LSB_HEAD,
    LSB_TAIL,
    QPEND_HEAD,
    QPEND_TAIL,
    BARRIER,
    UNDECIDED,
    LAST_DECIDED,
    KEY_USED,
    KEY_MOST,
    KEY_COUNT,
    KEY_HEAD,
    KEY_TAIL,
    # query x key
    QK_HEAD,
    QK_TAIL,
    QK_JOB,
    QK_BEAT,
    PIPE_HEAD,
    PIPE_TAIL,
    # softmax
    FIFO_IN,
    FIFO_OUT,
    FIFO_MOST,
    SEQ_HEAD,
    SEQ_TAIL,
    READ_BEAT,
    READ_EXTRA,
    OUT_HEAD,
    OUT_TAIL,
    DECIDE_HEAD,
    DECIDE_TAIL,
    # top-k, filter
    SEARCH_NEXT,
    FILTER_NEXT,
    TOPK_TAIL,
    SEARCH_FREE,
    FILTER_FREE,
    LAST_FILTER,
    # selector
    TOKEN_HEAD,
    TOKEN_TAIL,
    TOKENS_READ,
    TOKENS_BEGUN,
    HEADS_HEAD,
    HEADS_TAIL,
    SELECTOR_FREE,
    # values
    NEXT_EARLY,
    LATE_DONE,
    SLOT_HEAD,
    SLOT_TAIL,
    ASK_COUNT,
    VALUE_USED,
    VALUE_MOST,
    VALUE_COUNT,
    W_HEAD,
    W_TAIL,
    W_FREE,
    W_TILE_BEAT,
    # fetcher
    KEY_REQ_HEAD,
    KEY_REQ_TAIL,
    VALUE_REQ_HEAD,
    VALUE_REQ_TAIL,
    CURRENT,
    CURRENT_TX,
    PUSHED,
    LOADED,
    JOINED,
    ADDRESSES_WAITING,
    RESPONSES_WAITING,
    IN_DRAM,
    DRAM_NEXT,
    ADDRESS_MOST,
    RESPONSE_MOST,
    # busy cycles
    BUSY_FETCHER,
    BUSY_QK,
    BUSY_SOFTMAX,
    BUSY_TOPK,
    BUSY_FILTER,
    BUSY_SELECTOR,
    BUSY_PV,
    N_SCALARS,
) = range(105)

# Groups: the rows of one layer of one step.
(
    G_AHEAD,
    G_STEP_FIRST,
    G_SELECT,
    G_SELECT_PASSES,
    G_HEADS,
    G_HEADS_PASSES,
    G_TOKENS,
    # ----
    G_JOBS_LEFT,
    G_OUTPUTS_LEFT,
    G_LAST,
    G_DONE,
    G_BEGUN,
    G_TOKENS_END,
    G_HEADS_END,
    N_GROUP,
) = range(15)
"""G_AHEAD: keys may be asked for before the group before is done. G_SELECT, G_HEADS: cycles of a
token search (after a query or the layer) and of the head search, for the group after; -1: none.
G_TOKENS: token searches. G_JOBS_LEFT: queries whose last probability is to come."""

# Rows (with query-outer, the rows that a row is run as).
(ROW_GROUP, ROW_QUERY_REQUEST, ROW_QUERIES_AT, N_ROW) = range(4)
"""ROW_QUERIES_AT: request whose last beat brings the queries; -1: they come with the keys."""

# Key matrices.
(
    M_ROW,
    M_GROUP,
    M_REQUEST,
    M_VECTORS,
    M_LINES,
    M_JOB_0,
    M_JOB_1,
    M_OFFSET,
    M_FIRST,
    M_LSB,
    M_TWO,
    M_LAST_TILE,
    M_BARRIER,
    M_OWNER,
    M_HOLD,
    M_PREFIX_QUERIES,
    M_PIECE,
    # ----
    M_ASKED,
    M_FREE,
    N_MATRIX,
) = range(20)
"""M_OWNER: the matrix whose lines it uses (itself, or for the LSBs of one tile that of the MSBs).
M_HOLD: lines are released by the decision. M_BARRIER: the fork waits behind it for the decision."""

# Pieces: what shares a value tile or several: a row, or a tile of a row of one pass.
(
    P_LATE,
    P_TILE_0,
    P_TILES,
    P_UNION,
    P_MODE,
    P_JOB_0,
    P_JOB_1,
    P_LSB_0,
    P_LSB_1,
    P_MATRIX,
    P_TX_TOTAL,
    P_TWO,
    P_TWO_BEFORE,
    # ----
    P_FILTER_LEFT,
    P_FILTER_END,
    P_DECIDE_LEFT,
    P_DECIDED,
    P_SCORES_AT,
    P_QUEUED,
    P_SLOTS,
    P_DUE,
    P_GRADUAL,
    N_PIECE,
) = range(23)
"""P_LATE: values are asked for on demand, in slots (late rows, and all of two passes). P_MODE: when
(AT_PROBABILITY, WITH_FILTER, AFTER_FILTERS). P_LSB_0, P_LSB_1: matrices of the LSB pass. P_JOB_0,
P_JOB_1: in the list of jobs with values. P_TWO_BEFORE: piece of the two-pass row two before; -1:
none. P_GRADUAL: the job whose filter makes transactions known."""
AT_PROBABILITY, WITH_FILTER, AFTER_FILTERS = range(3)

# Value tiles.
(
    T_PIECE,
    T_REQUEST,
    T_VECTORS,
    T_LINES,
    T_MATRIX,
    # ----
    T_USES,
    T_ASKED,
    T_FREE,
    N_TILE,
) = range(9)

# Jobs: one pass of one query over a piece.
(
    J_PIECE,
    J_GROUP,
    J_SOURCE,
    J_KEYS,
    J_BEATS,
    J_VALUES,
    J_W_BEATS,
    J_DROPPED,
    J_PRUNES,
    J_SEARCH,
    J_EXTRA,
    J_W_EXTRA,
    J_DECIDES,
    J_TWO,
    J_OUTPUT,
    # ----
    J_SUM,
    J_LAST,
    J_SEARCHED,
    J_FILTER,
    J_PASSED,
    J_W_DONE,
    J_BUFFER,
    N_JOB,
) = range(23)

# Requests to the fetcher: two runs of transactions.
(
    R_START,
    R_LENGTH,
    R_START_2,
    R_LENGTH_2,
    R_BEAT_0,
    R_VECTOR_0,
    # ----
    R_ARRIVES,
    R_BEATS,
    R_PIECE,
    R_TX_BASE,
    N_REQUEST,
) = range(11)
"""R_PIECE: piece whose filter makes the transactions known; -1: all known."""

# Beats of the fetcher in flight.
(B_TIME, B_REQUEST, B_FIRST, B_COUNT, B_LOADED, B_ARRIVED, B_LATEST, B_JOIN, N_BEAT) = range(9)
# Ports of the fetcher, and of the DRAM channels.
(F_HEAD, F_DESTINATION, F_ADDRESS, F_ARRIVED, F_SERVED, N_PORT) = range(6)
(D_PARKED, D_OFFERED, D_LOCK, D_RESPONSE, D_CHOICE, D_ID_HEAD, D_ID_TAIL, D_IDS) = range(8)

# Entries of queues.
(Q_A, Q_B, Q_C, N_ENTRY) = range(4)


class Machine(NamedTuple):
    """All arrays; the kernels take them in this order."""

    s: Ints
    groups: Ints
    rows: Ints
    matrices: Ints
    pieces: Ints
    tiles: Ints
    jobs: Ints
    requests: Ints
    queues: Queues
    fetch: Fetch


class Queues(NamedTuple):
    """Queues: what is in them lies between the head and the tail scalars of ``s``.

    Attributes:
        lsb: matrix, first cycle at the fork.
        asked: [rows]; rows whose queries are asked for at the start of their group.
        key_ring: matrices in the order of allocation.
        value_pool: tiles in the value buffer.
        qk: matrices in the order of the fork.
        pipe: ring of score beats: cycle taken, softmax beats completed, job if it is its last.
        sequence: jobs in the order of the softmax.
        out: ring of divider beats: cycle read, job, 1 for the first of a job + 2 for the last.
        decide: cycle, job.
        topk: jobs in the order of their searches.
        buffers: [topk rows]; cycle from which a row buffer is free.
        token, heads: searches asked for: cycle, group.
        slots: pieces in the order in which they take slots.
        asks: late tiles with a slot that are not asked for yet.
        value_jobs: jobs with values, by piece.
        early_tiles: tiles of early rows in order.
        weighted: job and tile in the order of the weighted sum.
        key_requests, value_requests: requests under way to the fetcher.
        outputs: [source rows]; cycle of the last output.
    """

    lsb: Ints
    asked: Ints
    key_ring: Ints
    value_pool: Ints
    qk: Ints
    pipe: Ints
    sequence: Ints
    out: Ints
    decide: Ints
    topk: Ints
    buffers: Ints
    token: Ints
    heads: Ints
    slots: Ints
    asks: Ints
    value_jobs: Ints
    early_tiles: Ints
    weighted: Ints
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
    beats: Ints
    ports: Ints
    channels: Ints
    dram: Channels
    banks: Banks
    organisation: Organisation
