"""DHSA as published: blocks of queries and keys, in the prompt only."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import kernel
from accelsim.policies._base import Fraction, Positive, Ratio
from accelsim.policies._selection import Needs, SelectionPart
from accelsim.policies.selections._pattern import (
    PatternSelector,
    columns_and_distances,
    largest,
    no_work,
    softmax_of_last,
)
from accelsim.policies.selections._prompt import Cost
from accelsim.policies.selector import Floats, Selector, Shape

Mode = Literal["topk", "a", "vs", "vsb"]
Blocks = NDArray[np.bool_]
"""[query_heads, query blocks, key blocks]."""


class DHSABlocks(SelectionPart):
    """Dynamic hierarchical sparse attention, block form (Xiong et al., ICML 2026, and its code).

    Queries in blocks of ``query_block``, keys in blocks of ``key_block``; each query head and block
    of queries scores ``density`` of the key blocks, at least one. Only prompts are pruned.

    * ``topk``: the best products of the mean query with the mean key, later blocks ranked as well
      (and not seen): queries in front may be left with nothing.
    * ``a``: the first block and the newest one, the rest by those products; a block of queries that
      sees no more blocks than it may have is dense. Dense likewise in the next two.
    * ``vs``: the last block of queries attends densely; its probabilities are summed by key and by
      distance, ``vertical_share`` of the budget (in tokens) goes to the best keys and the rest to
      the best distances; a key block counts the sums of those that it holds, or that a query of
      the block meets in it. First and newest block, then the best. Dense are blocks of queries
      within the budget from the start, and the last.
    * ``vsb``: the same with mean vectors, their products in the place of probabilities and blocks
      in the place of tokens; the newest blocks are all those from the block's first query on.

    A prompt is filled up with zero vectors to whole blocks; among equals the first block stays.
    ``dhsa`` is the earlier form: a query alone, chunks of a few keys, in decode too.

    Asks of the hardware: a pass over the keys of the prompt for their means or the probabilities of
    the last block, a top-k for each block of queries and head, runs of ``key_block`` keys.

    Attributes:
        mode: which blocks.
        query_block: queries of a block.
        key_block: keys of a block.
        density: part of the key blocks.
        vertical_share: part of the budget for keys in ``vs`` and ``vsb``.
    """

    kind: Literal["dhsa_blocks"]
    mode: Mode = "vs"
    query_block: Positive = 128
    key_block: Positive = 32
    density: Ratio = 0.125
    vertical_share: Fraction = 0.5
    in_prompt: ClassVar[bool] = True
    foresees: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="once", updates=True, metadata=True, permanent=False)

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return DHSABlocksSelector(self, shape, seed)


class _Grid:
    """Blocks of a padded prompt, and what every mode asks about them."""

    def __init__(self, rule: DHSABlocks, tokens: int) -> None:
        unit = math.lcm(rule.query_block, rule.key_block)
        self.tokens = -(-tokens // unit) * unit
        self.rows, self.columns = self.tokens // rule.query_block, self.tokens // rule.key_block
        self.budget = max(1, int(rule.density * self.columns))
        row, self.column = np.arange(self.rows), np.arange(self.columns)
        self.newest = ((row + 1) * rule.query_block - 1) // rule.key_block
        self.start = row * rule.query_block // rule.key_block
        self.seen = self.column[None, :] <= self.newest[:, None]
        self.between = (self.column > 0)[None, :] & (self.column[None, :] < self.newest[:, None])
        self.dense = self.newest + 1 <= self.budget
        if rule.mode in ("vs", "vsb"):
            within = math.ceil(self.budget * rule.key_block / rule.query_block)
            self.dense[:within] = True
            self.dense[-1] = True


class DHSABlocksSelector(PatternSelector[DHSABlocks, Blocks]):
    """A mask of blocks for each query head."""

    def find(
        self, query: Floats, key: Floats, scale: float, seed: int
    ) -> tuple[Blocks, Cost] | None:
        """Choose blocks by the mode."""
        rule, tokens = self.rule, query.shape[1]
        grid, work = _Grid(rule, tokens), no_work(len(query))
        if grid.dense.all():
            return None
        missing = grid.tokens - tokens
        query, key = (np.pad(t, ((0, 0), (0, missing), (0, 0))) for t in (query, key))
        updates = 0
        if rule.mode == "vs":
            scores, updates = self._lines(query, key, scale, grid, seed, work)
        else:
            heads, _, dim = query.shape
            mean_query = query.reshape(heads, grid.rows, -1, dim).mean(axis=2)
            mean_key = key.reshape(heads, grid.columns, -1, dim).mean(axis=2)
            scores = mean_query @ mean_key.transpose(0, 2, 1)
            if rule.mode == "vsb":
                scores = self._block_lines(scores[:, -1] * scale, grid, seed, work)
        mask = self._fill(scores, grid, seed, work)
        return mask, Cost(work, tokens, updates)

    def keep(self, pattern: Blocks, positions: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
        """Blocks of each query."""
        rows = positions // self.rule.query_block
        columns = np.arange(kept.shape[2]) // self.rule.key_block
        kept[:] = pattern[:, rows][:, :, columns]

    def _fill(self, scores: Floats, grid: _Grid, seed: int, work: NDArray[Any]) -> Blocks:
        """Forced blocks and the best of the others, [heads, rows, columns]."""
        mode, heads = self.rule.mode, len(scores)
        mask = np.zeros((heads, grid.rows, grid.columns), dtype=np.bool_)
        for row in range(grid.rows):
            if mode == "topk":
                mask[:, row] = largest(scores[:, row], grid.budget, seed + row * heads, work)
                continue
            if grid.dense[row]:
                mask[:, row] = grid.seen[row]
                continue
            forced = grid.column == 0
            newest = grid.start[row] if mode == "vsb" else grid.newest[row]
            forced = forced | ((grid.column >= newest) & grid.seen[row])
            mask[:, row] = forced
            left = min(grid.budget - int(forced.sum()), max(int(grid.newest[row]) - 1, 0))
            choice = np.flatnonzero(grid.between[row])
            chosen = largest(scores[:, row][:, choice], max(left, 0), seed + row * heads, work)
            mask[:, row][:, choice] |= chosen
        return mask

    def _lines(
        self, query: Floats, key: Floats, scale: float, grid: _Grid, seed: int, work: NDArray[Any]
    ) -> tuple[Floats, int]:
        """Scores [heads, rows, columns] from the last block's probabilities, and their number."""
        rule, rows = self.rule, min(self.rule.query_block, grid.tokens)
        columns, distances = columns_and_distances(softmax_of_last(query, key, rows, scale))
        budget = grid.budget * rule.key_block
        vertical = int(budget * rule.vertical_share)
        chosen = largest(columns, vertical, seed + 1_000_003, work)
        by_key = np.where(chosen, columns, 0.0).reshape(len(query), grid.columns, -1).sum(axis=2)
        slash = largest(distances, budget - vertical, seed + 2_000_003, work)
        scores = np.repeat(by_key[:, None], grid.rows, axis=1)
        _meet(
            np.where(slash, distances, 0.0), slash, rule.query_block, rule.key_block, grid.newest,
            scores,
        )  # fmt: skip
        return scores, 2 * int(np.arange(grid.tokens - rows + 1, grid.tokens + 1).sum())

    def _block_lines(self, last: Floats, grid: _Grid, seed: int, work: NDArray[Any]) -> Floats:
        """The same from the products of the last block with all blocks, [heads, columns]."""
        vertical = int(grid.budget * self.rule.vertical_share)
        chosen = largest(last, vertical, seed + 1_000_003, work)
        slash = largest(last, grid.budget - vertical, seed + 2_000_003, work)
        scores = np.repeat(np.where(chosen, last, 0.0)[:, None], grid.rows, axis=1)
        for head in range(len(last)):
            for column in np.flatnonzero(slash[head]):
                away = grid.columns - 1 - column
                for row in range(grid.rows):
                    low, high = grid.start[row] - away, grid.newest[row] - away
                    scores[head, row, max(low, 0) : max(high + 1, 0)] += last[head, column]
        return np.asarray(scores)


@kernel
def _meet(
    sums: NDArray[np.float64],
    slash: NDArray[np.bool_],
    query_block: int,
    key_block: int,
    newest: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> None:
    """Add the sum of each distance to the key blocks that a block of queries meets at it."""
    heads, rows, columns = scores.shape
    tokens = columns * key_block
    for h in range(heads):
        for distance in range(tokens):
            if not slash[h, distance]:
                continue
            for r in range(rows):
                high = (r + 1) * query_block - 1 - distance
                if high < 0:
                    continue
                low = max(r * query_block - distance, 0)
                for c in range(low // key_block, min(high // key_block, newest[r]) + 1):
                    scores[h, r, c] += sums[h, distance]
