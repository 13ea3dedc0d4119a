"""Value fork, value buffer, weighted sum, outputs (page, section 8)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.cycle._groups import ask_head_search
from accelsim.hardware.machines.spatten.cycle._keys import all_there, vector_there
from accelsim.hardware.machines.spatten.cycle._state import (
    AFTER_FILTERS,
    AT_PROBABILITY,
    NEVER,
    VALUE_FORK_TO_FETCHER,
    Ints,
    Records,
)
from accelsim.jit import inlined


@inlined
def share(values: int, tile: int, tiles: int) -> int:
    """Values of a query in one of the row's value tiles."""
    return int(values * (tile + 1) // tiles - values * tile // tiles)


@inlined
def unit_is_free(s: Records) -> bool:
    """Whether the weighted sum could begin with a new query in this cycle."""
    return bool(s[0].w_head == s[0].w_tail and s[0].w_free <= s[0].now)


@inlined
def free_value_lines(
    s: Records, requests: Records, tiles: Records, joined: Ints, value_pool: Ints
) -> None:
    """Take back the lines of released tiles."""
    kept = 0
    for i in range(s[0].value_count):
        tile = value_pool[i]
        if (
            tiles[tile].uses == 0
            and tiles[tile].free == NEVER
            and tiles[tile].asked != NEVER
            and all_there(s, requests, joined, tiles[tile].request)
        ):
            # Nobody uses it.
            tiles[tile].free = s[0].now + 1
        if tiles[tile].free > s[0].now:
            value_pool[kept] = tile
            kept += 1
        else:
            s[0].value_used -= tiles[tile].lines
            s[0].progress += 1
    s[0].value_count = kept


@inlined
def _allocate(s: Records, tiles: Records, value_pool: Ints, tile: int) -> bool:
    lines = tiles[tile].lines
    if s[0].value_count > s[0].value_depth or s[0].value_used + lines > s[0].lines:
        return False
    s[0].value_used += lines
    s[0].value_most = max(s[0].value_most, s[0].value_used)
    value_pool[s[0].value_count] = tile
    s[0].value_count += 1
    s[0].progress += 1
    return True


@inlined
def take_slot(
    s: Records,
    pieces: Records,
    tiles: Records,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    piece: int,
) -> bool:
    """Take a slot in the value buffer for the next tile of a piece, if it is its turn."""
    if s[0].slot_head == s[0].slot_tail or slots[s[0].slot_head] != piece:
        return False
    if s[0].next_early < s[0].early_tiles and tiles[early_tiles[s[0].next_early]].piece < piece:
        return False
    tile = pieces[piece].tile_0 + pieces[piece].slots
    if not _allocate(s, tiles, value_pool, tile):
        return False
    asks[s[0].ask_count] = tile
    s[0].ask_count += 1
    pieces[piece].slots += 1
    if pieces[piece].slots == pieces[piece].tiles:
        s[0].slot_head += 1
    return True


@inlined
def step_value_fork(
    s: Records,
    matrices: Records,
    pieces: Records,
    tiles: Records,
    requests: Records,
    slots: Ints,
    early_tiles: Ints,
    value_pool: Ints,
    asks: Ints,
    value_requests: Ints,
) -> None:
    """Ask for one value matrix: the oldest slot whose values are due, else an early row's."""
    now = s[0].now
    if s[0].slot_head != s[0].slot_tail:
        piece = slots[s[0].slot_head]
        if pieces[piece].follows or (pieces[piece].two and pieces[piece].due <= now):
            take_slot(s, pieces, tiles, slots, early_tiles, value_pool, asks, piece)
    for i in range(s[0].ask_count):
        tile = asks[i]
        piece = tiles[tile].piece
        # What follows a tile has a place behind it, and so is the oldest when that was asked for.
        if pieces[piece].due <= now or (i == 0 and pieces[piece].follows):
            for j in range(i + 1, s[0].ask_count):
                asks[j - 1] = asks[j]
            s[0].ask_count -= 1
            _send(s, tiles, requests, value_requests, tile)
            return
    if s[0].next_early == s[0].early_tiles:
        return
    tile = early_tiles[s[0].next_early]
    piece = tiles[tile].piece
    if matrices[tiles[tile].matrix].asked > now:
        return
    while s[0].late_done < piece:
        late = s[0].late_done
        if pieces[late].late and pieces[late].slots < pieces[late].tiles:
            return
        s[0].late_done += 1
    if _allocate(s, tiles, value_pool, tile):
        s[0].next_early += 1
        _send(s, tiles, requests, value_requests, tile)


@inlined
def _send(s: Records, tiles: Records, requests: Records, value_requests: Ints, tile: int) -> None:
    tiles[tile].asked = s[0].now
    requests[tiles[tile].request].arrives = s[0].now + VALUE_FORK_TO_FETCHER
    value_requests[s[0].value_req_tail] = tiles[tile].request
    s[0].value_req_tail += 1
    s[0].progress += 1


@inlined
def begin_values(
    s: Records,
    pieces: Records,
    tiles: Records,
    jobs: Records,
    value_jobs: Ints,
    weighted: Records,
    job: int,
) -> None:
    """The filter of a query begins: its weighted sum is next, or those of its row are."""
    piece = jobs[job].piece
    count = pieces[piece].tiles
    if pieces[piece].mode == AT_PROBABILITY and pieces[piece].due > s[0].now:
        pieces[piece].due = s[0].now
    pieces[piece].filter_left -= 1
    if pieces[piece].mode != AFTER_FILTERS:
        _queue(s, weighted, job, 0)
        return
    if pieces[piece].filter_left:
        return
    for tile in range(count):
        for i in range(pieces[piece].job_0, pieces[piece].job_1):
            values = jobs[value_jobs[i]].values
            if share(values, tile, count) or (tile == 0 and values == 0):
                _queue(s, weighted, value_jobs[i], tile)


@inlined
def _queue(s: Records, weighted: Records, job: int, tile: int) -> None:
    weighted[s[0].w_tail].job = job
    weighted[s[0].w_tail].tile = tile
    s[0].w_tail += 1


@inlined
def step_weighted_sum(
    s: Records,
    groups: Records,
    pieces: Records,
    tiles: Records,
    jobs: Records,
    requests: Records,
    heads: Records,
    weighted: Records,
    outputs: Ints,
    vectors: Ints,
    joined: Ints,
) -> None:
    """Take one beat: ``S`` values of one query."""
    if s[0].w_head == s[0].w_tail or s[0].w_free > s[0].now:
        return
    job, place = weighted[s[0].w_head].job, weighted[s[0].w_head].tile
    piece = jobs[job].piece
    passed, beats = jobs[job].passed, jobs[job].beats
    if jobs[job].prunes:
        passed = min(s[0].now - jobs[job].filter + 1, beats)
    if passed * jobs[job].w_beats < beats * (jobs[job].w_done + 1):
        return
    tile = pieces[piece].tile_0 + place
    values = share(jobs[job].values, place, pieces[piece].tiles)
    done = min((s[0].w_tile_beat + 1) * tiles[tile].scores, values)
    if values:
        if pieces[piece].union:
            if not all_there(s, requests, joined, tiles[tile].request):
                return
        else:
            last = min(done, tiles[tile].vectors) - 1
            if not vector_there(s, requests, vectors, joined, tiles[tile].request, last):
                return
    s[0].busy_pv += 1
    s[0].progress += 1
    s[0].w_tile_beat += 1
    jobs[job].w_done += 1
    if done < values:
        return
    s[0].w_tile_beat = 0
    s[0].w_head += 1
    end = s[0].now + jobs[job].w_extra
    s[0].busy_pv += jobs[job].w_extra
    s[0].w_free = end + 1
    tiles[tile].uses -= 1
    if tiles[tile].uses == 0:
        tiles[tile].free = end + 1
    if jobs[job].w_done < jobs[job].w_beats or not jobs[job].output:
        return
    at = end + 3 + s[0].log_scores
    s[0].outputs += 1
    s[0].last_output = max(s[0].last_output, at)
    source = jobs[job].source
    outputs[source] = max(outputs[source], at)
    group = jobs[job].group
    groups[group].last = max(groups[group].last, at)
    groups[group].outputs_left -= 1
    if groups[group].outputs_left == 0:
        groups[group].done = groups[group].last
        ask_head_search(s, groups, heads, group)
