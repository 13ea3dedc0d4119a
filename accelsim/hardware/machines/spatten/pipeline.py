"""What happens to the queries of a tile: scores, softmax, top-k, weighted sum, one after the other.

The blocks of :mod:`accelsim.hardware.blocks` hold their own state and rules; here they are put in a
row. Times follow from those of the query before and of the block before, so a whole tile is one
call. All functions work on the arrays of :class:`Queries`; sections are those of
docs/accelerators/spatten-published.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks import dot_product, softmax, top_k, weighted_sum
from accelsim.hardware.blocks.dot_product import stream_end
from accelsim.hardware.blocks.softmax import BEATS, FIRST, FROM_FIFO, READ, TO_FIFO, TO_SUM
from accelsim.hardware.blocks.top_k import row_free, search
from accelsim.jit import in_place

Ints = NDArray[np.int64]

GIVEN, FILTERED, SIZE, OUT, DECIDED = range(5)
"""Columns of a query's times: the cycles of its first probability and of the beginning of its
filter pass, the beats of that pass, and the cycles of its output and of its decision."""

enter, room, mark, read_out = softmax.enter, softmax.room, softmax.mark, softmax.read
filtered, weigh = top_k.filtered, weighted_sum.weigh


@in_place
def latest(times: Ints, first: int, last: int, column: int, other: int) -> int:
    """Last cycle of a column of the times of some queries.

    Args:
        times: [queries, 5].
        first, last: from which query on, and that after the last.
        column: which.
        other: one that is added to it, or -1.
    """
    found = np.int64(0)
    for query in range(first, last):
        found = max(found, times[query, column] + (times[query, other] if other >= 0 else 0))
    return int(found)


@in_place
def score(
    dot: Any,
    soft: Any,
    fifo: Ints,
    beats: Any,
    keys: Ints,
    refetch: Ints,
    query: int,
    last: int,
    offset: int,
    tile: int,
    again: bool,
    stored: bool,
    begin: int,
    end: int,
    before: int,
    transactions: int,
    vectors: int,
    arrived: int,
    ready: int,
) -> int:
    """Multiply queries with the keys of a tile (sections 5 and 2).

    Args:
        dot, soft, fifo: states of dot product and softmax.
        beats: of the fetcher.
        keys, refetch: of the queries.
        query, last: from which query on, and that after the last.
        offset, tile: first vector of the tile, and how many it may have.
        again: the pass with the LSB plane, of the queries that need it.
        stored: scores are kept and do not enter the softmax.
        begin, end, before, transactions, vectors: of the matrix, see ``stream_end``.
        arrived: cycle from which all its vectors can be used.
        ready: cycle before which no query may begin.

    Returns:
        The first query of which it is not known yet when the softmax takes it.
    """
    while query < last:
        count = min(keys[query] - offset, tile)
        if count <= 0 or (again and not refetch[query]):
            query += 1
            continue
        taken = -(-count // dot[0].scores)
        if not stored and not room(soft, -(-count // soft[0].parallelism)):
            break
        free = dot[0].free
        first = max(free, ready)
        with_keys = first + taken - 1
        if arrived > first:
            with_keys = stream_end(
                beats,
                begin,
                end,
                before,
                transactions,
                vectors,
                count,
                dot[0].scores,
                first,
            )
        final = np.int64(with_keys)
        if not stored:
            latency = dot[0].latency + TO_FIFO
            final = np.int64(enter(soft, fifo, count, dot[0].scores, with_keys, latency))
        dot[0].no_keys += with_keys + 1 - free - taken
        dot[0].softmax_full += final - with_keys
        dot[0].busy += taken
        dot[0].free = final + 1
        if not stored:
            mark(soft, fifo)
        query += 1
    return query


@in_place
def score_ahead(
    dot: Any,
    soft: Any,
    fifo: Ints,
    beats: Any,
    keys: Ints,
    refetch: Ints,
    query: int,
    last: int,
    offset: int,
    tile: int,
    again: bool,
    begin: int,
    end: int,
    before: int,
    transactions: int,
    vectors: int,
    arrived: int,
    ready: int,
    never: int,
) -> int:
    """As :func:`score`, on copies of states and as if the softmax read nothing more.

    Args:
        dot, soft, fifo: such copies.
        never: cycle in which what is not read is read.
        beats, keys, refetch, query, last, offset, tile, again, begin, end, before: as there.
        transactions, vectors, arrived, ready: as there.

    Returns:
        Cycle after the last beat; ``never`` or later if that is not known.
    """
    # What enters the FIFO behind these is later, too.
    fifo[soft[0].read % len(fifo), READ] = never
    soft[0].read = soft[0].gone = never
    while query < last and dot[0].free < never:
        query = score(
            dot,
            soft,
            fifo,
            beats,
            keys,
            refetch,
            query,
            query + 1,
            offset,
            tile,
            again,
            False,
            begin,
            end,
            before,
            transactions,
            vectors,
            arrived,
            ready,
        )
    return int(dot[0].free)


@in_place
def select(
    soft: Any,
    fifo: Ints,
    topk: Any,
    buffers: Ints,
    selector: Any,
    begun: Ints,
    sums: Any,
    keys: Ints,
    values: Ints,
    refetch: Ints,
    searches: Ints,
    times: Ints,
    query: int,
    last: int,
    offset: int,
    tile: int,
    drops: bool,
    again: bool,
    early: bool,
    slot: int,
    beats: Any,
    begin: int,
    end: int,
    transactions: int,
    vectors: int,
    values_at: int,
    streams: bool,
    extra: int,
    spill: int,
    selects: int,
) -> int:
    """Read queries out of the softmax, through top-k; early rows through the weighted sum too.

    Args:
        soft, fifo, topk, buffers, sums: states of the blocks.
        selector, begun: state of the second top-k engine, and when its last two searches began.
        keys, values, refetch, searches: of the queries.
        times: [queries, 5].
        query, last: from which query on, and that after the last.
        offset, tile: of the keys.
        drops: queries that need the LSB plane are dropped here.
        again: the pass with the LSB plane.
        early: the row goes on to the weighted sum.
        slot: of a late row, cycle from which it has a value slot.
        beats, begin, end, transactions, vectors: of the values of an early row, see
            ``stream_end``.
        values_at: cycle from which all of them can be used.
        streams: queries use the first of the values, and so need not wait for all.
        extra, spill: cycles of the weighted sum for rescaling and for partial results.
        selects: cycles of the token selection after every query; 0 if there is none.

    Returns:
        Cycle after the last read.
    """
    for q in range(query, last):
        count = min(keys[q] - offset, tile)
        if count <= 0 or (again and not refetch[q]):
            continue
        row = soft[0].rows_out % len(fifo)
        size = fifo[row, BEATS]
        times[q, SIZE] = size
        if drops and refetch[q]:
            times[q, GIVEN] = read_out(soft, fifo, 0)
            times[q, DECIDED] = fifo[row, FIRST] + FROM_FIFO
            continue
        prunes = values[q] < keys[q]
        taken = np.int64(0)
        searches_tokens = selects > 0 and offset + tile >= keys[q]
        if searches_tokens:
            taken = begun[selector[0].rows % 2]
        if prunes:
            taken = max(taken, np.int64(row_free(topk, buffers)))
        else:
            taken = max(taken, topk[0].filter_free)
            taken = max(taken, sums[0].free if early else np.int64(slot))
        came = read_out(soft, fifo, taken)
        times[q, DECIDED] = fifo[row, FIRST] + FROM_FIFO
        at = np.int64(came)
        if prunes:
            at = max(search(topk, came + size - 1, searches[q]), topk[0].filter_free)
            at = max(at, sums[0].free if early else np.int64(slot))
            filtered(topk, buffers, came, at, size)
        else:
            topk[0].filter_free = came + size
        if searches_tokens:
            done = search(selector, came + size - 1, selects)
            begun[selector[0].rows % 2] = done - selects
            selector[0].rows += 1
        times[q, GIVEN], times[q, FILTERED] = came, at
        if early:
            amount = values[q] if prunes else count
            parts = max(-(-amount // sums[0].scores), 1)
            final, ready = at + size - 1, np.int64(values_at)
            first = max(sums[0].free, at)
            if streams and values_at > first and amount > 0:
                ready = np.int64(0)
                come = stream_end(
                    beats, begin, end, 0, transactions, vectors, amount, sums[0].scores, first
                )
                final = max(final, np.int64(come))
            final = weigh(sums, at, ready, final, parts, extra, spill)
            times[q, OUT] = final + sums[0].latency
    return int(soft[0].free)


@in_place
def select_kept(
    soft: Any,
    left: Ints,
    topk: Any,
    buffers: Ints,
    selector: Any,
    begun: Ints,
    keys: Ints,
    values: Ints,
    refetch: Ints,
    searches: Ints,
    times: Ints,
    query: int,
    last: int,
    drops: bool,
    again: bool,
    ready: int,
    on_chip: int,
    score_bits: int,
    peak: float,
    selects: int,
) -> int:
    """As :func:`select`, for rows whose scores were kept (section 2, two passes).

    Args:
        soft, topk, buffers, selector, begun, keys, values, refetch, searches, times: as there.
        query, last, drops, again, selects: as there.
        left: when the last beats left the divider, a ring of as many as it holds, and behind them
            how many ever did.
        ready: cycle in which the last score of the row is there.
        on_chip: scores of a query that stay on chip.
        score_bits: of a score.
        peak: bytes of all channels a cycle.

    Returns:
        Bytes of scores that were written; half or a third of what went over the channels.
    """
    written = np.int64(0)
    for q in range(query, last):
        if again and not refetch[q]:
            continue
        size = -(-keys[q] // soft[0].parallelism)
        came_in = max(soft[0].free, ready)
        known = came_in + size - 1 + TO_FIFO + TO_SUM
        away = -(-max(keys[q] - on_chip, 0) * score_bits // 8)
        dropped = drops and refetch[q]
        prunes = values[q] < keys[q] and not dropped
        moved = away * (3 if prunes else 2)
        spill = np.int64(np.ceil(moved / peak)) if away else np.int64(0)
        written += away
        taken = np.int64(0)
        if selects and not dropped:
            taken = begun[selector[0].rows % 2]
        if prunes:
            taken = max(taken, np.int64(row_free(topk, buffers)))
        elif not dropped:
            taken = max(taken, topk[0].filter_free)
        # As in `softmax.read`: what waits for its buffer waits in the divider.
        start, at = np.int64(0), np.int64(known - 1)
        out = left[(left[FROM_FIFO] - 1) % FROM_FIFO]
        for beat in range(size):
            place = left[FROM_FIFO] % FROM_FIFO
            at = max(at + 1, left[place]) + (spill if beat == size - 1 else 0)
            out = max(out + 1, at + FROM_FIFO)
            if beat == 0:
                start = at - (spill if size == 1 else 0)
                out = max(out, np.int64(taken))
                times[q, GIVEN] = out
            left[place] = out
            left[FROM_FIFO] += 1
        soft[0].no_scores += known - soft[0].free
        soft[0].blocked += at + 1 - size - known
        soft[0].busy += size
        soft[0].free = at + 1
        came = times[q, GIVEN]
        times[q, DECIDED], times[q, SIZE] = start + FROM_FIFO, size
        if dropped:
            continue
        begins = np.int64(came)
        if prunes:
            ended = search(topk, out, searches[q])
            begins = max(ended, topk[0].filter_free)
            filtered(topk, buffers, came, begins, size)
        else:
            topk[0].filter_free = out + 1
            times[q, SIZE] = out + 1 - came
        if selects:
            done = search(selector, out, selects)
            begun[selector[0].rows % 2] = done - selects
            selector[0].rows += 1
        times[q, FILTERED] = begins
    return int(written)


@in_place
def weigh_late(
    sums: Any,
    beats: Any,
    keys: Ints,
    values: Ints,
    refetch: Ints,
    given: Ints,
    times: Ints,
    query: int,
    last: int,
    offset: int,
    tile: int,
    part: int,
    parts: int,
    streams: bool,
    which: int,
    begin: int,
    end: int,
    transactions: int,
    vectors: int,
    arrived: int,
) -> int:
    """Multiply the queries of a late row with a tile of values (section 8).

    Args:
        sums: state of the weighted sum.
        beats: of the fetcher.
        keys, values, refetch: of the queries.
        given: times of the row's queries as they were read over this tile, [row's queries, 5].
        times: [queries, 5]; takes the outputs.
        query, last: queries of the row.
        offset, tile: of the keys, where values follow them.
        part, parts: tile of the values and how many, if the row is a two-pass row; else 0, 0.
        streams: queries use the first of the values, and so need not wait for all.
        which: 0: queries that do not need the LSB plane, 1: those that do, 2: both.
        begin, end, transactions, vectors: of the matrix, see ``stream_end``.
        arrived: cycle from which all its vectors can be used.

    Returns:
        Cycle of the last beat.
    """
    # Rescaling: the probabilities of two passes are those of the whole row (section 2).
    extra = 1 if offset > 0 else 0
    # Queries go on in the order of their filters: those of the pass with the LSB plane come later.
    for again in range(2):
        for q in range(query, last):
            if refetch[q] != again or which == 1 - again:
                continue
            count = min(keys[q] - offset, tile)
            if count <= 0:
                continue
            amount = count
            if parts:
                amount = values[q] * (part + 1) // parts - values[q] * part // parts
                if amount == 0 and (part > 0 or values[q] > 0):
                    continue
            elif values[q] < keys[q]:
                amount = values[q]
            work = max(-(-amount // sums[0].scores), 1)
            at, size = given[q - query, FILTERED], given[q - query, SIZE]
            first = max(sums[0].free, at)
            final = at + size - 1
            ready = np.int64(arrived)
            if streams and arrived > first and amount > 0:
                ready = np.int64(0)
                wanted = min(amount, vectors)
                end_of_stream = stream_end(
                    beats,
                    begin,
                    end,
                    0,
                    transactions,
                    vectors,
                    wanted,
                    sums[0].scores,
                    first,
                )
                # Its share of a tile may be more than the tile has: all else follows (section 8).
                final = max(final, end_of_stream + work - -(-wanted // sums[0].scores))
            finished = weigh(sums, at, ready, final, work, extra, 0)
            times[q, OUT] = finished + sums[0].latency
    return int(sums[0].free - 1)


__all__ = [
    "DECIDED",
    "FILTERED",
    "GIVEN",
    "OUT",
    "SIZE",
    "dot_product",
    "latest",
    "score",
    "score_ahead",
    "select",
    "select_kept",
    "weigh_late",
]
