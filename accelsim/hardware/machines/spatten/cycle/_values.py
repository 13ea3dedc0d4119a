"""Value fork, value buffer, weighted sum, outputs (page, section 8)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._groups import ask_head_search
from accelsim.hardware.machines.spatten.cycle._keys import all_there, vector_there
from accelsim.hardware.machines.spatten.cycle._state import (
    AFTER_FILTERS,
    ASK_COUNT,
    AT_PROBABILITY,
    BUSY_PV,
    G_DONE,
    G_LAST,
    G_OUTPUTS_LEFT,
    J_BEATS,
    J_FILTER,
    J_GROUP,
    J_OUTPUT,
    J_PASSED,
    J_PIECE,
    J_PRUNES,
    J_SOURCE,
    J_VALUES,
    J_W_BEATS,
    J_W_DONE,
    J_W_EXTRA,
    LAST_OUTPUT,
    LATE_DONE,
    M_ASKED,
    NEVER,
    NEXT_EARLY,
    NOW,
    OUTPUTS,
    P_DUE,
    P_EARLY_TILES,
    P_FILTER_LEFT,
    P_JOB_0,
    P_JOB_1,
    P_LATE,
    P_LINES,
    P_MODE,
    P_S,
    P_S_LOG,
    P_SLOTS,
    P_TILE_0,
    P_TILES,
    P_TWO,
    P_UNION,
    P_VALUE_DEPTH,
    PROGRESS,
    Q_A,
    Q_B,
    R_ARRIVES,
    SLOT_HEAD,
    SLOT_TAIL,
    T_ASKED,
    T_FREE,
    T_LINES,
    T_MATRIX,
    T_PIECE,
    T_REQUEST,
    T_USES,
    T_VECTORS,
    VALUE_COUNT,
    VALUE_FORK_TO_FETCHER,
    VALUE_MOST,
    VALUE_REQ_TAIL,
    VALUE_USED,
    W_FREE,
    W_HEAD,
    W_TAIL,
    W_TILE_BEAT,
    Ints,
)
from accelsim.jit import inlined


@inlined
def share(values: int, tile: int, tiles: int) -> int:
    """Values of a query in one of the row's value tiles."""
    return int(values * (tile + 1) // tiles - values * tile // tiles)


@inlined
def unit_is_free(s: Ints) -> bool:
    """Whether the weighted sum could begin with a new query in this cycle."""
    return bool(s[W_HEAD] == s[W_TAIL] and s[W_FREE] <= s[NOW])


@inlined
def free_value_lines(s: Ints, requests: Ints, tiles: Ints, joined: Ints, value_pool: Ints) -> None:
    """Take back the lines of released tiles."""
    kept = 0
    for i in range(s[VALUE_COUNT]):
        tile = value_pool[i]
        if (
            tiles[tile, T_USES] == 0
            and tiles[tile, T_FREE] == NEVER
            and tiles[tile, T_ASKED] != NEVER
            and all_there(s, requests, joined, tiles[tile, T_REQUEST])
        ):
            # Nobody uses it.
            tiles[tile, T_FREE] = s[NOW] + 1
        if tiles[tile, T_FREE] > s[NOW]:
            value_pool[kept] = tile
            kept += 1
        else:
            s[VALUE_USED] -= tiles[tile, T_LINES]
            s[PROGRESS] += 1
    s[VALUE_COUNT] = kept


@inlined
def _allocate(s: Ints, tiles: Ints, value_pool: Ints, tile: int) -> bool:
    lines = tiles[tile, T_LINES]
    if s[VALUE_COUNT] > s[P_VALUE_DEPTH] or s[VALUE_USED] + lines > s[P_LINES]:
        return False
    s[VALUE_USED] += lines
    s[VALUE_MOST] = max(s[VALUE_MOST], s[VALUE_USED])
    value_pool[s[VALUE_COUNT]] = tile
    s[VALUE_COUNT] += 1
    s[PROGRESS] += 1
    return True


@inlined
def take_slot(
    s: Ints,
    pieces: Ints,
    tiles: Ints,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    piece: int,
) -> bool:
    """Take a slot in the value buffer for the next tile of a piece, if it is its turn."""
    if s[SLOT_HEAD] == s[SLOT_TAIL] or slots[s[SLOT_HEAD]] != piece:
        return False
    if s[NEXT_EARLY] < s[P_EARLY_TILES] and tiles[early_tiles[s[NEXT_EARLY]], T_PIECE] < piece:
        return False
    tile = pieces[piece, P_TILE_0] + pieces[piece, P_SLOTS]
    if not _allocate(s, tiles, value_pool, tile):
        return False
    asks[s[ASK_COUNT]] = tile
    s[ASK_COUNT] += 1
    pieces[piece, P_SLOTS] += 1
    if pieces[piece, P_SLOTS] == pieces[piece, P_TILES]:
        s[SLOT_HEAD] += 1
    return True


@inlined
def step_value_fork(
    s: Ints,
    matrices: Ints,
    pieces: Ints,
    tiles: Ints,
    requests: Ints,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    value_requests: Ints,
) -> None:
    """Ask for one value matrix: the oldest slot whose values are due, else an early row's."""
    now = s[NOW]
    if s[SLOT_HEAD] != s[SLOT_TAIL]:
        piece = slots[s[SLOT_HEAD]]
        if pieces[piece, P_TWO] and pieces[piece, P_DUE] <= now:
            take_slot(s, pieces, tiles, slots, early_tiles, value_pool, asks, piece)
    for i in range(s[ASK_COUNT]):
        tile = asks[i]
        if pieces[tiles[tile, T_PIECE], P_DUE] <= now:
            for j in range(i + 1, s[ASK_COUNT]):
                asks[j - 1] = asks[j]
            s[ASK_COUNT] -= 1
            _send(s, tiles, requests, value_requests, tile)
            return
    if s[NEXT_EARLY] == s[P_EARLY_TILES]:
        return
    tile = early_tiles[s[NEXT_EARLY]]
    piece = tiles[tile, T_PIECE]
    if matrices[tiles[tile, T_MATRIX], M_ASKED] > now:
        return
    while s[LATE_DONE] < piece:
        late = s[LATE_DONE]
        if pieces[late, P_LATE] and pieces[late, P_SLOTS] < pieces[late, P_TILES]:
            return
        s[LATE_DONE] += 1
    if _allocate(s, tiles, value_pool, tile):
        s[NEXT_EARLY] += 1
        _send(s, tiles, requests, value_requests, tile)


@inlined
def _send(s: Ints, tiles: Ints, requests: Ints, value_requests: Ints, tile: int) -> None:
    tiles[tile, T_ASKED] = s[NOW]
    requests[tiles[tile, T_REQUEST], R_ARRIVES] = s[NOW] + VALUE_FORK_TO_FETCHER
    value_requests[s[VALUE_REQ_TAIL]] = tiles[tile, T_REQUEST]
    s[VALUE_REQ_TAIL] += 1
    s[PROGRESS] += 1


@inlined
def begin_values(
    s: Ints,
    pieces: Ints,
    tiles: Ints,
    jobs: Ints,
    value_jobs: Ints,
    weighted: Ints,
    job: int,
) -> None:
    """The filter of a query begins: its weighted sum is next, or those of its row are."""
    piece = jobs[job, J_PIECE]
    count = pieces[piece, P_TILES]
    if pieces[piece, P_MODE] == AT_PROBABILITY and pieces[piece, P_DUE] > s[NOW]:
        pieces[piece, P_DUE] = s[NOW]
    pieces[piece, P_FILTER_LEFT] -= 1
    if pieces[piece, P_MODE] != AFTER_FILTERS:
        _queue(s, weighted, job, 0)
        return
    if pieces[piece, P_FILTER_LEFT]:
        return
    for tile in range(count):
        for i in range(pieces[piece, P_JOB_0], pieces[piece, P_JOB_1]):
            values = jobs[value_jobs[i], J_VALUES]
            if share(values, tile, count) or (tile == 0 and values == 0):
                _queue(s, weighted, value_jobs[i], tile)


@inlined
def _queue(s: Ints, weighted: Ints, job: int, tile: int) -> None:
    weighted[s[W_TAIL], Q_A] = job
    weighted[s[W_TAIL], Q_B] = tile
    s[W_TAIL] += 1


@inlined
def step_weighted_sum(
    s: Ints,
    groups: Ints,
    pieces: Ints,
    tiles: Ints,
    jobs: Ints,
    requests: Ints,
    heads: Ints,
    weighted: Ints,
    outputs: Ints,
    vectors: Ints,
    joined: Ints,
) -> None:
    """Take one beat: ``S`` values of one query."""
    if s[W_HEAD] == s[W_TAIL] or s[W_FREE] > s[NOW]:
        return
    job, place = weighted[s[W_HEAD], Q_A], weighted[s[W_HEAD], Q_B]
    piece = jobs[job, J_PIECE]
    passed, beats = jobs[job, J_PASSED], jobs[job, J_BEATS]
    if jobs[job, J_PRUNES]:
        passed = min(s[NOW] - jobs[job, J_FILTER] + 1, beats)
    if passed * jobs[job, J_W_BEATS] < beats * (jobs[job, J_W_DONE] + 1):
        return
    tile = pieces[piece, P_TILE_0] + place
    values = share(jobs[job, J_VALUES], place, pieces[piece, P_TILES])
    done = min((s[W_TILE_BEAT] + 1) * s[P_S], values)
    if values:
        if pieces[piece, P_UNION]:
            if not all_there(s, requests, joined, tiles[tile, T_REQUEST]):
                return
        else:
            last = min(done, tiles[tile, T_VECTORS]) - 1
            if not vector_there(s, requests, vectors, joined, tiles[tile, T_REQUEST], last):
                return
    s[BUSY_PV] += 1
    s[PROGRESS] += 1
    s[W_TILE_BEAT] += 1
    jobs[job, J_W_DONE] += 1
    if done < values:
        return
    s[W_TILE_BEAT] = 0
    s[W_HEAD] += 1
    end = s[NOW] + jobs[job, J_W_EXTRA]
    s[BUSY_PV] += jobs[job, J_W_EXTRA]
    s[W_FREE] = end + 1
    tiles[tile, T_USES] -= 1
    if tiles[tile, T_USES] == 0:
        tiles[tile, T_FREE] = end + 1
    if jobs[job, J_W_DONE] < jobs[job, J_W_BEATS] or not jobs[job, J_OUTPUT]:
        return
    at = end + 3 + s[P_S_LOG]
    s[OUTPUTS] += 1
    s[LAST_OUTPUT] = max(s[LAST_OUTPUT], at)
    source = jobs[job, J_SOURCE]
    outputs[source] = max(outputs[source], at)
    group = jobs[job, J_GROUP]
    groups[group, G_LAST] = max(groups[group, G_LAST], at)
    groups[group, G_OUTPUTS_LEFT] -= 1
    if groups[group, G_OUTPUTS_LEFT] == 0:
        groups[group, G_DONE] = groups[group, G_LAST]
        ask_head_search(s, groups, heads, group)
