"""Key fork, key buffer and query x key unit (page, sections 4 and 5)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._groups import group_keys, group_start
from accelsim.hardware.machines.spatten.cycle._state import (
    BARRIER,
    BUSY_QK,
    EXPONENT,
    FILL,
    FIRST_CYCLE,
    FORK_TO_FETCHER,
    J_KEYS,
    KEY_COUNT,
    KEY_HEAD,
    KEY_MOST,
    KEY_REQ_TAIL,
    KEY_TAIL,
    KEY_USED,
    LAST_DECIDED,
    LSB_HEAD,
    LSB_TAIL,
    M_ASKED,
    M_BARRIER,
    M_FIRST,
    M_FREE,
    M_GROUP,
    M_HOLD,
    M_JOB_0,
    M_JOB_1,
    M_LAST_TILE,
    M_LINES,
    M_OFFSET,
    M_OWNER,
    M_PIECE,
    M_PREFIX_QUERIES,
    M_REQUEST,
    M_ROW,
    M_TWO,
    M_VECTORS,
    NEXT_MATRIX,
    NOW,
    P_D_LOG,
    P_DECIDE_LEFT,
    P_DECIDED,
    P_FILTER_END,
    P_KEY_DEPTH,
    P_LINES,
    P_MATRICES,
    P_PAR,
    P_PORTS,
    P_QUERY_TRAFFIC,
    P_S,
    P_SCORES_AT,
    P_STREAMED,
    P_TWO_BEFORE,
    PIPE_HEAD,
    PIPE_TAIL,
    PROGRESS,
    Q_A,
    Q_B,
    Q_C,
    QK_BEAT,
    QK_HEAD,
    QK_JOB,
    QK_TAIL,
    QPEND_HEAD,
    QPEND_TAIL,
    R_ARRIVES,
    R_BEAT_0,
    R_LENGTH,
    R_LENGTH_2,
    R_VECTOR_0,
    REISSUE,
    REUSE,
    ROW_GROUP,
    ROW_QUERIES_AT,
    ROW_QUERY_REQUEST,
    SEQ_TAIL,
    UNDECIDED,
    Ints,
)
from accelsim.jit import inlined


@inlined
def all_there(s: Ints, requests: Ints, joined: Ints, request: int) -> bool:
    """Whether the last transaction of a request is in the buffer."""
    length = requests[request, R_LENGTH] + requests[request, R_LENGTH_2]
    last = joined[requests[request, R_BEAT_0] + (length - 1) // s[P_PORTS]]
    return bool(last + FILL <= s[NOW])


@inlined
def vector_there(
    s: Ints, requests: Ints, vectors: Ints, joined: Ints, request: int, vector: int
) -> bool:
    """Whether a vector, and with it those before, is in the buffer."""
    x = requests[request, R_LENGTH] + vectors[requests[request, R_VECTOR_0] + vector]
    return bool(joined[requests[request, R_BEAT_0] + x // s[P_PORTS]] + FILL <= s[NOW])


@inlined
def step_key_fork(
    s: Ints,
    groups: Ints,
    rows: Ints,
    matrices: Ints,
    pieces: Ints,
    requests: Ints,
    lsb: Ints,
    asked: Ints,
    key_ring: Ints,
    qk: Ints,
    key_requests: Ints,
) -> None:
    """Ask for the queries of rows whose group starts, then for one key matrix."""
    now = s[NOW]
    while s[QPEND_HEAD] != s[QPEND_TAIL]:
        row = asked[s[QPEND_HEAD]]
        if group_start(s, groups, rows[row, ROW_GROUP]) > now:
            break
        s[QPEND_HEAD] += 1
        _send(s, requests, key_requests, rows[row, ROW_QUERY_REQUEST])
    while s[KEY_HEAD] != s[KEY_TAIL] and matrices[key_ring[s[KEY_HEAD]], M_FREE] <= now:
        s[KEY_USED] -= matrices[key_ring[s[KEY_HEAD]], M_LINES]
        s[KEY_COUNT] -= 1
        s[KEY_HEAD] += 1
    if now < FIRST_CYCLE:
        return
    reissue = s[LSB_HEAD] != s[LSB_TAIL] and lsb[s[LSB_HEAD], Q_B] <= now
    if reissue:
        matrix = lsb[s[LSB_HEAD], Q_A]
    else:
        if s[NEXT_MATRIX] == s[P_MATRICES]:
            return
        if s[BARRIER] >= 0:
            if pieces[s[BARRIER], P_DECIDED] + REISSUE > now:
                return
            s[BARRIER] = -1
        matrix = s[NEXT_MATRIX]
        piece = matrices[matrix, M_PIECE]
        alone = matrices[matrix, M_TWO] and pieces[piece, P_DECIDE_LEFT]
        fresh = matrix > 0 and matrices[matrix - 1, M_GROUP] != matrices[matrix, M_GROUP]
        # The LSB passes of rows before would stand behind what cannot go on without them.
        careful = (alone and matrices[matrix, M_FIRST]) or (fresh and not s[P_STREAMED])
        if careful and (s[UNDECIDED] or s[LAST_DECIDED] + REISSUE > now):
            return
        if group_keys(s, groups, matrices[matrix, M_GROUP]) > now:
            return
    if matrices[matrix, M_OWNER] == matrix:
        lines = matrices[matrix, M_LINES]
        if s[KEY_COUNT] > s[P_KEY_DEPTH] or s[KEY_USED] + lines > s[P_LINES]:
            return
        s[KEY_USED] += lines
        s[KEY_MOST] = max(s[KEY_MOST], s[KEY_USED])
        s[KEY_COUNT] += 1
        key_ring[s[KEY_TAIL]] = matrix
        s[KEY_TAIL] += 1
    if reissue:
        s[LSB_HEAD] += 1
    else:
        s[NEXT_MATRIX] += 1
        if matrices[matrix, M_BARRIER]:
            s[BARRIER] = piece
        if matrices[matrix, M_FIRST] and pieces[piece, P_DECIDE_LEFT]:
            s[UNDECIDED] += 1
    if matrices[matrix, M_FIRST] and s[P_QUERY_TRAFFIC]:
        row = matrices[matrix, M_ROW]
        if group_start(s, groups, matrices[matrix, M_GROUP]) <= now:
            requests[matrices[matrix, M_REQUEST], R_LENGTH] += matrices[matrix, M_PREFIX_QUERIES]
            rows[row, ROW_QUERIES_AT] = -1
        else:
            asked[s[QPEND_TAIL]] = row
            s[QPEND_TAIL] += 1
    matrices[matrix, M_ASKED] = now
    qk[s[QK_TAIL]] = matrix
    s[QK_TAIL] += 1
    _send(s, requests, key_requests, matrices[matrix, M_REQUEST])


@inlined
def _send(s: Ints, requests: Ints, key_requests: Ints, request: int) -> None:
    requests[request, R_ARRIVES] = s[NOW] + FORK_TO_FETCHER
    key_requests[s[KEY_REQ_TAIL]] = request
    s[KEY_REQ_TAIL] += 1
    s[PROGRESS] += 1


@inlined
def _keys_here(matrices: Ints, jobs: Ints, matrix: int, job: int) -> int:
    """Keys that a job has in the tile of a matrix."""
    keys = jobs[job, J_KEYS] - matrices[matrix, M_OFFSET]
    return int(min(max(keys, 0), matrices[matrix, M_VECTORS]))


@inlined
def step_query_key(
    s: Ints,
    groups: Ints,
    rows: Ints,
    matrices: Ints,
    pieces: Ints,
    jobs: Ints,
    requests: Ints,
    qk: Ints,
    pipe: Ints,
    sequence: Ints,
    vectors: Ints,
    joined: Ints,
) -> None:
    """Take one beat: ``S`` keys of one query."""
    if s[QK_HEAD] == s[QK_TAIL]:
        return
    matrix = qk[s[QK_HEAD]]
    job, end = s[QK_JOB], matrices[matrix, M_JOB_1]
    if job < 0:
        job = matrices[matrix, M_JOB_0]
    while job < end and _keys_here(matrices, jobs, matrix, job) == 0:
        job += 1
    s[QK_JOB] = job
    request = matrices[matrix, M_REQUEST]
    if job == end:
        # Nobody uses this tile: its lines are free once it is there.
        if all_there(s, requests, joined, request):
            _end_matrix(s, matrices, pieces, jobs, sequence, matrix)
        return
    two = matrices[matrix, M_TWO]
    if not two and s[PIPE_TAIL] - s[PIPE_HEAD] == 2 + s[P_D_LOG] + EXPONENT:
        return
    before = pieces[matrices[matrix, M_PIECE], P_TWO_BEFORE]
    if before >= 0 and pieces[before, P_FILTER_END] > s[NOW]:
        return
    row = matrices[matrix, M_ROW]
    if group_start(s, groups, matrices[matrix, M_GROUP]) > s[NOW]:
        return
    if rows[row, ROW_QUERIES_AT] >= 0 and not all_there(
        s, requests, joined, rows[row, ROW_QUERIES_AT]
    ):
        return
    keys = _keys_here(matrices, jobs, matrix, job)
    done = min((s[QK_BEAT] + 1) * s[P_S], keys)
    if not vector_there(s, requests, vectors, joined, request, done - 1):
        return
    if not two:
        if s[QK_BEAT] == 0:
            sequence[s[SEQ_TAIL]] = job
            s[SEQ_TAIL] += 1
        _take(s, pipe, job, done, keys)
    s[BUSY_QK] += 1
    s[PROGRESS] += 1
    s[QK_BEAT] += 1
    if done < keys:
        return
    s[QK_BEAT] = 0
    job += 1
    while job < end and _keys_here(matrices, jobs, matrix, job) == 0:
        job += 1
    s[QK_JOB] = job
    if job == end:
        _end_matrix(s, matrices, pieces, jobs, sequence, matrix)


@inlined
def _take(s: Ints, pipe: Ints, job: int, done: int, keys: int) -> None:
    """Put the scores of a beat into the pipeline, with the softmax beats that they complete."""
    parallel = s[P_PAR]
    complete = done // parallel - s[QK_BEAT] * s[P_S] // parallel
    if done == keys and done % parallel:
        complete += 1
    at = s[PIPE_TAIL] % len(pipe)
    pipe[at, Q_A] = s[NOW]
    pipe[at, Q_B] = complete
    pipe[at, Q_C] = job if done == keys else -1
    s[PIPE_TAIL] += 1


@inlined
def _end_matrix(
    s: Ints, matrices: Ints, pieces: Ints, jobs: Ints, sequence: Ints, matrix: int
) -> None:
    """The last beat over a matrix: its lines are free, its scores wait to be read in."""
    s[QK_HEAD] += 1
    s[QK_JOB] = -1
    s[PROGRESS] += 1
    owner = matrices[matrix, M_OWNER]
    if owner != matrix:
        matrices[owner, M_FREE] = s[NOW] + 1 + REUSE
    elif not matrices[matrix, M_HOLD]:
        matrices[matrix, M_FREE] = s[NOW] + 1
    if matrices[matrix, M_TWO] and matrices[matrix, M_LAST_TILE]:
        pieces[matrices[matrix, M_PIECE], P_SCORES_AT] = s[NOW] + 2 + s[P_D_LOG]
        for job in range(matrices[matrix, M_JOB_0], matrices[matrix, M_JOB_1]):
            sequence[s[SEQ_TAIL]] = job
            s[SEQ_TAIL] += 1


@inlined
def reissue_keys(s: Ints, lsb: Ints, first: int, end: int) -> None:
    """Send the matrices of an LSB pass to the key fork."""
    for matrix in range(first, end):
        lsb[s[LSB_TAIL], Q_A] = matrix
        lsb[s[LSB_TAIL], Q_B] = s[NOW] + REISSUE
        s[LSB_TAIL] += 1
