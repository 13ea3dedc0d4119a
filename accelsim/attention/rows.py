"""Compiled loops that selection rules share: softmax over kept keys, and eviction down to a budget.

Everything is float64 and in place; a row of scores becomes a row of probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import COMPARATORS, filter_top, quick_select
from accelsim.jit import kernel


@kernel
def softmax_kept(
    row: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    sink: float,
    kept: NDArray[np.bool_],
    visible: int,
) -> bool:
    """Turn ``row`` into probabilities over the kept ones of the first ``visible`` keys.

    Args:
        row: scores [keys] from the first fetch; overwritten, zero where not kept. A key that the
            query does not see has -inf.
        both: scores from both bit planes; read only if the row is refetched.
        threshold: a row whose largest probability is below is computed again from ``both``.
        sink: a score that takes part and has no key; -inf for none.
        kept: [keys].
        visible: keys that the query may see.

    Returns:
        Whether the row was refetched.
    """
    refetched = False
    source = row
    while True:
        top = -np.inf  # stays where nothing is kept: a pruned head
        for j in range(visible):
            if kept[j] and source[j] > top:
                top = source[j]
        if top == -np.inf:
            # Nothing is kept, or nothing of it is seen.
            for j in range(len(row)):
                row[j] = 0.0
            return refetched
        largest, top = top, max(top, sink)
        # Below the threshold for sure needs the sum, which a refetch needs again anyway.
        total = np.exp(sink - top)
        if threshold > 0.0 and not refetched:
            for j in range(visible):
                if kept[j]:
                    total += np.exp(source[j] - top)
            if np.exp(largest - top) / total < threshold:
                refetched = True
                source = both
                continue
            total = np.exp(sink - top)
        for j in range(visible):
            if kept[j]:
                row[j] = np.exp(source[j] - top)
                total += row[j]
            else:
                row[j] = 0.0
        for j in range(visible):
            row[j] /= total
        for j in range(visible, len(row)):
            row[j] = 0.0
        return refetched


@kernel
def attend_rows(
    scores: NDArray[np.float64],
    both: NDArray[np.float64],
    threshold: float,
    sinks: NDArray[np.float64],
    visible: NDArray[np.int64],
    kept: NDArray[np.bool_],
    refetched: NDArray[np.bool_],
) -> None:
    """:func:`softmax_kept` of every head and row.

    Args:
        scores, both: [heads, rows, keys].
        threshold: of the refetch.
        sinks: [heads], -inf for none.
        visible: [rows].
        kept: [heads, rows, keys].
        refetched: [heads, rows], written.
    """
    for h in range(scores.shape[0]):
        for r in range(scores.shape[1]):
            refetched[h, r] = softmax_kept(
                scores[h, r], both[h, r], threshold, sinks[h], kept[h, r], visible[r]
            )


@kernel
def shrink(
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    visible: int,
    recent: int,
    budget: int,
    drop: int,
    seed: int,
    work: Any,
) -> None:
    """Evict the keys of lowest score until the budget holds; among equals the later one leaves.

    Args:
        alive: [keys], updated.
        score: [keys].
        visible: keys so far.
        recent: newest keys that never leave.
        budget: keys that may stay.
        drop: keys that leave together at least.
        seed: of the pivots of the top-k engine.
        work: one record of :data:`~accelsim.attention.kernels.WORK`, written; an arg-min is one
            pass.
    """
    count = 0
    for j in range(visible):
        count += alive[j]
    if count <= budget:
        return
    candidates = np.empty(visible, dtype=np.int64)
    size = 0
    for j in range(max(visible - recent, 0)):
        if alive[j]:
            candidates[size] = j
            size += 1
    leaving = min(max(count - budget, drop), size)
    if leaving <= 0:
        return
    target = size - leaving
    work.size, work.target = size, target
    if leaving == 1:
        worst = candidates[0]
        for c in range(1, size):
            if score[candidates[c]] <= score[worst]:
                worst = candidates[c]
        alive[worst] = False
        work.passes, work.elements = 1, size
        work.beats = (size + COMPARATORS - 1) // COMPARATORS
        return
    if target == 0:
        for c in range(size):
            alive[candidates[c]] = False
        return
    values = score[candidates[:size]]
    kth, equal, passes, elements, beats = quick_select(values, target, seed)
    stays = np.empty(size, dtype=np.bool_)
    filter_top(values, kth, equal, stays)
    for c in range(size):
        if not stays[c]:
            alive[candidates[c]] = False
    work.passes, work.elements, work.beats = passes, elements, beats


@kernel
def admit(
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    visible: int,
    prompt: int,
    recent: int,
    budget: int,
    drop: int,
    seed: int,
    work: Any,
) -> None:
    """Take the newest key in; behind a prompt, keys leave until the budget holds.

    Args:
        prompt: first tokens, which stay until it is over.
        alive, score, visible, recent, budget, drop, seed, work: of :func:`shrink`.
    """
    alive[visible - 1] = True
    if visible > prompt:
        shrink(alive, score, visible, recent, budget, drop, seed, work)


@kernel
def admit_heads(
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    visible: int,
    prompt: int,
    recent: int,
    budget: int,
    floor: int,
    seed: int,
    work: NDArray[Any],
) -> None:
    """:func:`admit` of every group of heads, one key at a time; or of all groups together.

    Together, the keys of lowest score leave, whose group it be, until all hold what they may have
    together; among equals the last one of the last group leaves first.

    Args:
        alive, score: [groups, keys].
        visible, prompt, recent, budget: of :func:`admit`, for one group.
        floor: keys that each group keeps at least; below 0 each has its own budget.
        seed: of the pivots of the first group.
        work: [groups] of :data:`~accelsim.attention.kernels.WORK`; of the first one where groups
            select together.
    """
    groups = len(alive)
    if floor < 0:
        for g in range(groups):
            admit(alive[g], score[g], visible, prompt, recent, budget, 1, seed + g, work[g])
        return
    alive[:, visible - 1] = True
    if visible <= prompt:
        return
    counts = np.zeros(groups, dtype=np.int64)
    for g in range(groups):
        for j in range(visible):
            counts[g] += alive[g, j]
    leaving = counts.sum() - groups * budget
    if leaving <= 0:
        return
    values = np.empty(counts.sum(), dtype=np.float64)
    group, token = np.empty(len(values), dtype=np.int64), np.empty(len(values), dtype=np.int64)
    size = 0
    for g in range(groups - 1, -1, -1):
        for j in range(max(visible - recent, 0) - 1, -1, -1):
            if alive[g, j]:
                values[size], group[size], token[size] = score[g, j], g, j
                size += 1
    gone = 0
    for c in np.argsort(values[:size], kind="mergesort"):
        if gone == leaving:
            break
        if counts[group[c]] > floor:
            alive[group[c], token[c]] = False
            counts[group[c]] -= 1
            gone += 1
    own = work[0]
    own.size, own.target = size, size - gone
    if gone == 1:
        own.passes, own.elements = 1, size
        own.beats = (size + COMPARATORS - 1) // COMPARATORS
    elif 0 < gone < size:
        _, _, passes, elements, beats = quick_select(values[:size].copy(), size - gone, seed)
        own.passes, own.elements, own.beats = passes, elements, beats


@kernel
def prune_values(
    probabilities: NDArray[np.float64],
    kept: NDArray[np.bool_],
    budget_of: NDArray[np.int64],
    seed: int,
    used: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    """Local value pruning of every head and row: the largest probabilities stay.

    Args:
        probabilities: [heads, rows, keys].
        kept: [heads, rows, keys].
        budget_of: values kept of n keys, indexed by n.
        seed: of the pivots.
        used: [heads, rows, keys], written.
        work: [heads, rows] of :data:`~accelsim.attention.kernels.WORK`, written where pruned.
    """
    heads, rows, keys = probabilities.shape
    place = np.empty(keys, dtype=np.int64)
    for h in range(heads):
        for r in range(rows):
            size = 0
            for j in range(keys):
                used[h, r, j] = kept[h, r, j]
                if kept[h, r, j]:
                    place[size] = j
                    size += 1
            budget = budget_of[size]
            if budget >= size:
                continue
            values = probabilities[h, r][place[:size]]
            kth, equal, passes, elements, beats = quick_select(values, budget, seed + h * 8191 + r)
            stays = np.empty(size, dtype=np.bool_)
            filter_top(values, kth, equal, stays)
            for c in range(size):
                used[h, r, place[c]] = stays[c]
            own = work[h, r]
            own.size, own.target = size, budget
            own.passes, own.elements, own.beats = passes, elements, beats


def dense_mask(heads: int, visible: NDArray[np.int64], keys: int) -> NDArray[np.bool_]:
    """Return the mask [heads, rows, keys] of rows that see their first ``visible`` keys."""
    seen: NDArray[Any] = np.arange(keys)[None, :] < visible[:, None]
    return np.repeat(seen[None], heads, axis=0)
