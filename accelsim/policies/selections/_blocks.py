"""What rules that rank pages or chunks of keys for each query share."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import filter_top, quick_select
from accelsim.jit import kernel
from accelsim.policies._selection import Budgeted
from accelsim.policies.selector import Block, Floats, Selector, Shape, heads_per_decision

Rule = TypeVar("Rule", bound=Budgeted)


class BlockSelector(Selector, Generic[Rule]):
    """A rule that ranks blocks of keys for each query and evicts nothing."""

    def __init__(self, rule: Rule, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.heads = heads_per_decision(shape, rule.share)


def shown(block: Block) -> NDArray[np.bool_]:
    """Keys that the masks of the layer show to each row, [rows, context]; all without one."""
    return np.asarray(block.scores[0] > -np.inf)


def open_blocks(block: Block, full: int, size: int) -> NDArray[np.bool_]:
    """Full blocks of which a row sees a key, [rows, full]; no other is ranked or read."""
    rows = len(block.positions)
    return np.asarray(shown(block)[:, : full * size].reshape(rows, full, size).any(axis=2))


def ranked(work: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows [rows] that rank pages or chunks, and so read what ranks them."""
    return np.asarray(work["size"].any(axis=0))


def shared(scores: Floats, heads: int) -> Floats:
    """Sum the scores of the query heads that decide together."""
    groups = len(scores) // heads
    return np.asarray(scores.reshape(groups, heads, *scores.shape[1:]).sum(axis=1))


def full_blocks(keys: Floats, full: int, size: int) -> Floats:
    """Full blocks of keys, [kv_heads, full, size, head_dim]; there may be none."""
    heads, _, dim = keys.shape
    return keys[:, : full * size].reshape(heads, full, size, dim)


@kernel
def keep_blocks(
    bounds: NDArray[np.float64],
    opened: NDArray[np.bool_],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    size: int,
    budgets: NDArray[np.int64],
    allowed: NDArray[np.int64],
    heads: int,
    seed: int,
    kept: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    """Keep the best full blocks of each row, and the block that is being filled.

    Args:
        bounds: [groups, rows, blocks], what ranks full blocks.
        opened: [rows, blocks], those that a row may read (:func:`open_blocks`).
        positions: of the rows.
        visible: [rows], one past the last key of each.
        prompt: a row with so many keys or fewer keeps all.
        size: keys of a block.
        budgets: [rows], likewise.
        allowed: [rows], full blocks that stay.
        heads: query heads of a group.
        seed: of the pivots of the top-k engine.
        kept: [query_heads, rows, keys], written.
        work: [groups, rows] of :data:`~accelsim.attention.kernels.WORK`, written where ranked.
    """
    for g in range(bounds.shape[0]):
        for r in range(len(positions)):
            seen = positions[r] + 1
            first, last = g * heads, (g + 1) * heads
            # The block that holds the query's own token, and with it everything in a short context.
            full = positions[r] // size
            blocks = np.flatnonzero(opened[r, :full])
            if seen <= prompt or len(blocks) <= allowed[r] or seen <= budgets[r]:
                kept[first:last, r, : visible[r]] = True
                continue
            kept[first:last, r, full * size : seen] = True
            if allowed[r] < 1:
                continue
            values = bounds[g, r][blocks]
            kth, equal, passes, elements, beats = quick_select(
                values, allowed[r], seed + seen * 31 + g
            )
            chosen = np.empty(len(blocks), dtype=np.bool_)
            filter_top(values, kth, equal, chosen)
            for c in range(len(blocks)):
                if chosen[c]:
                    kept[first:last, r, blocks[c] * size : (blocks[c] + 1) * size] = True
            own = work[g, r]
            own.size, own.target = len(blocks), allowed[r]
            own.passes, own.elements, own.beats = passes, elements, beats
