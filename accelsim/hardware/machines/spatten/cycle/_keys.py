"""Key fork, key buffer and query x key unit (page, sections 4 and 5)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._groups import group_keys, group_start
from accelsim.hardware.machines.spatten.cycle._state import (
    EXPONENT,
    FILL,
    FIRST_CYCLE,
    FORK_TO_FETCHER,
    REFETCH_DELAY,
    REUSE,
    Ints,
    Records,
)
from accelsim.jit import inlined


@inlined
def all_there(s: Records, requests: Records, joined: Ints, request: int) -> bool:
    """Whether the last transaction of a request is in the buffer."""
    length = requests[request].length + requests[request].length_2
    last = joined[requests[request].beat_0 + (length - 1) // s[0].ports]
    return bool(last + FILL <= s[0].now)


@inlined
def vector_there(
    s: Records, requests: Records, vectors: Ints, joined: Ints, request: int, vector: int
) -> bool:
    """Whether a vector, and with it those before, is in the buffer."""
    x = requests[request].length + vectors[requests[request].vector_0 + vector]
    return bool(joined[requests[request].beat_0 + x // s[0].ports] + FILL <= s[0].now)


@inlined
def step_key_fork(
    s: Records,
    groups: Records,
    rows: Records,
    matrices: Records,
    pieces: Records,
    requests: Records,
    lsb: Records,
    asked: Ints,
    key_ring: Ints,
    qk: Ints,
    key_requests: Ints,
) -> None:
    """Ask for the queries of rows whose group starts, then for one key matrix."""
    now = s[0].now
    while s[0].qpend_head != s[0].qpend_tail:
        row = asked[s[0].qpend_head]
        if group_start(s, groups, rows[row].group) > now:
            break
        s[0].qpend_head += 1
        _send(s, requests, key_requests, rows[row].query_request)
    while s[0].key_head != s[0].key_tail and matrices[key_ring[s[0].key_head]].free <= now:
        s[0].key_used -= matrices[key_ring[s[0].key_head]].lines
        s[0].key_count -= 1
        s[0].key_head += 1
    if now < FIRST_CYCLE:
        return
    waiting = s[0].lsb_head != s[0].lsb_tail and lsb[s[0].lsb_head].ready <= now
    if waiting:
        matrix = lsb[s[0].lsb_head].matrix
    else:
        if s[0].next_matrix == s[0].first_passes:
            return
        if s[0].barrier >= 0:
            if pieces[s[0].barrier].decided + REFETCH_DELAY > now:
                return
            s[0].barrier = -1
        matrix = s[0].next_matrix
        piece = matrices[matrix].piece
        alone = matrices[matrix].two and pieces[piece].decide_left
        fresh = matrix > 0 and matrices[matrix - 1].group != matrices[matrix].group
        # The LSB passes of rows before would stand behind what cannot go on without them.
        careful = (alone and matrices[matrix].first) or (fresh and not s[0].streamed)
        if careful and (s[0].undecided or s[0].last_decided + REFETCH_DELAY > now):
            return
        if group_keys(s, groups, matrices[matrix].group) > now:
            return
    if matrices[matrix].owner == matrix:
        lines = matrices[matrix].lines
        if s[0].key_count > s[0].key_depth or s[0].key_used + lines > s[0].lines:
            return
        s[0].key_used += lines
        s[0].key_most = max(s[0].key_most, s[0].key_used)
        s[0].key_count += 1
        key_ring[s[0].key_tail] = matrix
        s[0].key_tail += 1
    if waiting:
        s[0].lsb_head += 1
    else:
        s[0].next_matrix += 1
        if matrices[matrix].barrier:
            s[0].barrier = piece
        if matrices[matrix].first and pieces[piece].decide_left:
            s[0].undecided += 1
    if matrices[matrix].first and s[0].query_traffic:
        row = matrices[matrix].row
        if group_start(s, groups, matrices[matrix].group) <= now:
            requests[matrices[matrix].request].length += matrices[matrix].prefix_queries
            rows[row].queries_at = -1
        else:
            asked[s[0].qpend_tail] = row
            s[0].qpend_tail += 1
    matrices[matrix].asked = now
    qk[s[0].qk_tail] = matrix
    s[0].qk_tail += 1
    _send(s, requests, key_requests, matrices[matrix].request)


@inlined
def _send(s: Records, requests: Records, key_requests: Ints, request: int) -> None:
    requests[request].arrives = s[0].now + FORK_TO_FETCHER
    key_requests[s[0].key_req_tail] = request
    s[0].key_req_tail += 1
    s[0].progress += 1


@inlined
def _keys_here(matrices: Records, jobs: Records, matrix: int, job: int) -> int:
    """Keys that a job has in the tile of a matrix."""
    keys = jobs[job].keys - matrices[matrix].offset
    return int(min(max(keys, 0), matrices[matrix].vectors))


@inlined
def step_query_key(
    s: Records,
    groups: Records,
    rows: Records,
    matrices: Records,
    pieces: Records,
    jobs: Records,
    requests: Records,
    qk: Ints,
    pipe: Records,
    sequence: Ints,
    vectors: Ints,
    joined: Ints,
) -> None:
    """Take one beat: ``S`` keys of one query."""
    if s[0].qk_head == s[0].qk_tail:
        return
    matrix = qk[s[0].qk_head]
    job, end = s[0].qk_job, matrices[matrix].job_1
    if job < 0:
        job = matrices[matrix].job_0
    while job < end and _keys_here(matrices, jobs, matrix, job) == 0:
        job += 1
    s[0].qk_job = job
    request = matrices[matrix].request
    if job == end:
        # Nobody uses this tile: its lines are free once it is there.
        if all_there(s, requests, joined, request):
            _end_matrix(s, matrices, pieces, jobs, sequence, matrix)
        return
    two = matrices[matrix].two
    if not two and s[0].pipe_tail - s[0].pipe_head == 2 + s[0].log_dim + EXPONENT:
        return
    before = pieces[matrices[matrix].piece].two_before
    if before >= 0 and pieces[before].filter_end > s[0].now:
        return
    row = matrices[matrix].row
    if group_start(s, groups, matrices[matrix].group) > s[0].now:
        return
    if rows[row].queries_at >= 0 and not all_there(s, requests, joined, rows[row].queries_at):
        return
    keys = _keys_here(matrices, jobs, matrix, job)
    scores = matrices[matrix].scores
    done = min((s[0].qk_beat + 1) * scores, keys)
    if not vector_there(s, requests, vectors, joined, request, done - 1):
        return
    if not two:
        if s[0].qk_beat == 0:
            sequence[s[0].seq_tail] = job
            s[0].seq_tail += 1
        _take(s, pipe, job, s[0].qk_beat * scores, done, keys)
    s[0].busy_qk += 1
    s[0].progress += 1
    s[0].qk_beat += 1
    if done < keys:
        return
    s[0].qk_beat = 0
    job += 1
    while job < end and _keys_here(matrices, jobs, matrix, job) == 0:
        job += 1
    s[0].qk_job = job
    if job == end:
        _end_matrix(s, matrices, pieces, jobs, sequence, matrix)


@inlined
def _take(s: Records, pipe: Records, job: int, before: int, done: int, keys: int) -> None:
    """Put the scores of a beat into the pipeline, with the softmax beats that they complete."""
    parallel = s[0].parallelism
    complete = done // parallel - before // parallel
    if done == keys and done % parallel:
        complete += 1
    at = s[0].pipe_tail % len(pipe)
    pipe[at].taken = s[0].now
    pipe[at].complete = complete
    pipe[at].job = job if done == keys else -1
    s[0].pipe_tail += 1


@inlined
def _end_matrix(
    s: Records, matrices: Records, pieces: Records, jobs: Records, sequence: Ints, matrix: int
) -> None:
    """The last beat over a matrix: its lines are free, its scores wait to be read in."""
    s[0].qk_head += 1
    s[0].qk_job = -1
    s[0].progress += 1
    owner = matrices[matrix].owner
    if owner != matrix:
        matrices[owner].free = s[0].now + 1 + REUSE
    elif not matrices[matrix].hold:
        matrices[matrix].free = s[0].now + 1
    if matrices[matrix].two and matrices[matrix].last_tile:
        pieces[matrices[matrix].piece].scores_at = s[0].now + 2 + s[0].log_dim
        for job in range(matrices[matrix].job_0, matrices[matrix].job_1):
            sequence[s[0].seq_tail] = job
            s[0].seq_tail += 1


@inlined
def refetch_keys(s: Records, lsb: Records, first: int, end: int) -> None:
    """Send the matrices of an LSB pass to the key fork."""
    for matrix in range(first, end):
        lsb[s[0].lsb_tail].matrix = matrix
        lsb[s[0].lsb_tail].ready = s[0].now + REFETCH_DELAY
        s[0].lsb_tail += 1
