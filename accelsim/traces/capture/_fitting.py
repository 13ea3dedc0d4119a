"""From what the queries of a model saw and what was added to their scores to words of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.traces import Bias, Mask

_LINEAR = 1e-6
"""Largest difference from a straight line, relative to the largest bias: float32 rounds to 6e-8."""


def fitting_mask(first: NDArray[np.int64], end: NDArray[np.int64], causal: bool) -> Mask | None:
    """Return the simplest mask under which each query sees keys ``first`` to ``end - 1``.

    Args:
        first: [tokens].
        end: [tokens].
        causal: which of causal and full is the simpler.

    Returns:
        ``None`` where no kind but stored bits fits.
    """
    tokens = len(first)
    position = np.arange(tokens)
    size = int((position - first).max()) + 1
    plain = [Mask(kind="causal"), Mask(kind="full")]
    candidates = plain if causal else plain[::-1]
    candidates.append(Mask(kind="window", size=size, side="left"))
    candidates.append(Mask(kind="window", size=size, side="both"))
    if first.any():
        candidates.append(Mask(kind="chunk", size=int(first[first > 0][0])))
    candidates.append(Mask(kind="prefix", length=int(end[0])))
    for mask in candidates:
        if (mask.first(position) == first).all() and (mask.end(position, tokens) == end).all():
            return mask
    return None


@dataclass(frozen=True)
class BiasBlock:
    """What one call added to its scores.

    Attributes:
        start: position of the first query.
        past: position of the first key.
        seen: [new, keys].
        values: [query_heads, new or 1, keys].
    """

    start: int
    past: int
    seen: NDArray[np.bool_]
    values: NDArray[np.float32]

    @property
    def away(self) -> NDArray[np.int64]:
        """Key position minus query position, [new, keys]."""
        new, keys = self.seen.shape
        key, query = self.past + np.arange(keys), self.start + np.arange(new)
        return key[None, :] - query[:, None]

    @property
    def whole(self) -> NDArray[np.float32]:
        """The values, [query_heads, new, keys]."""
        return np.broadcast_to(self.values, (len(self.values), *self.seen.shape))


def fitting_bias(
    blocks: Sequence[BiasBlock], tokens: int, keys: int
) -> tuple[Bias | None, NDArray[np.float32] | None]:
    """Return the simplest bias that acts on the softmax as the calls of a layer did.

    Args:
        blocks: of every call.
        tokens: queries of the layer.
        keys: of the layer.

    Returns:
        The bias, and its tensor if it has one; no bias where each row adds one number to all.
    """
    slopes = _slopes(blocks)
    if slopes is not None:
        if not (np.abs(slopes) * keys > _LINEAR).any():
            return None, None
        return Bias(kind="alibi", slopes=tuple(slopes.tolist())), None
    found = _by_distance(blocks)
    if found is not None:
        return found
    table = np.zeros((len(blocks[0].values), tokens, keys), dtype=np.float32)
    for block in blocks:
        new, width = block.seen.shape
        rows, columns = slice(block.start, block.start + new), slice(block.past, block.past + width)
        table[:, rows, columns] = np.where(block.seen, block.whole, 0.0)
    return Bias(kind="stored"), table


def _slopes(blocks: Sequence[BiasBlock]) -> NDArray[np.float64] | None:
    """Slopes of ALiBi, if the bias of each row is a straight line over the keys that it sees."""
    block = max(blocks, key=lambda block: int(block.seen.sum(axis=1).max()))
    row = int(block.seen.sum(axis=1).argmax())
    columns = np.flatnonzero(block.seen[row])
    if len(columns) < 2:
        return np.zeros(len(block.values))
    low, high = int(columns[0]), int(columns[-1])
    values = block.whole[:, row].astype(np.float64)
    slopes = (values[:, high] - values[:, low]) / (high - low)
    for block in blocks:
        wide = block.whole.astype(np.float64)
        rest = wide - slopes[:, None, None] * np.arange(block.seen.shape[1])
        start = np.take_along_axis(rest, block.seen.argmax(axis=1)[None, :, None], axis=2)
        limit = _LINEAR * max(1.0, float(np.abs(wide).max()))
        if (np.abs(rest - start)[:, block.seen] > limit).any():
            return None
    return np.asarray(slopes)


def _by_distance(blocks: Sequence[BiasBlock]) -> tuple[Bias, NDArray[np.float32]] | None:
    """A table of buckets, if the bias depends on the distance alone."""
    low = min(int(block.away[block.seen].min()) for block in blocks)
    high = max(int(block.away[block.seen].max()) for block in blocks)
    table = np.full((len(blocks[0].values), high - low + 1), np.nan, dtype=np.float32)
    for block in blocks:
        column, values = block.away[block.seen] - low, block.whole[:, block.seen]
        table[:, column] = values
    for block in blocks:
        if (table[:, block.away[block.seen] - low] != block.whole[:, block.seen]).any():
            return None
    unseen = np.isnan(table[0])
    last = np.maximum.accumulate(np.where(unseen, 0, np.arange(len(unseen))))
    values, buckets = np.unique(table[:, last], axis=1, return_inverse=True)
    buckets = buckets.ravel()
    change = np.flatnonzero(np.diff(buckets))  # not empty: one number for all is a straight line
    begin, end = int(change[0]), int(change[-1]) + 2
    kept: tuple[Any, ...] = tuple(int(n) for n in buckets[begin:end])
    return Bias(kind="relative", first=low + begin, buckets=kept), np.ascontiguousarray(values)
