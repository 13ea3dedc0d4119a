"""DHSA as published: blocks of queries and keys, in the prompt only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import kernel
from accelsim.policies._base import Fraction, Positive, Ratio
from accelsim.policies._selection import FROM_PROBABILITIES, Needs, SelectionPart
from accelsim.policies.selections._pattern import (
    PatternSelector,
    columns_and_distances,
    largest,
    no_work,
)
from accelsim.policies.selections._prompt import Cost, probabilities
from accelsim.policies.selector import Floats, Prompt, Selector, Shape

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
    Under a mask of the model, key blocks of which a block of queries sees nothing are not ranked
    and not counted; the probabilities of ``vs`` are those of the layer, with its biases and sinks,
    of as many queries at the end without zero vectors (all ours). Products of means know no bias.
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
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return DHSABlocksSelector(self, shape, seed)


class _Grid:
    """Blocks of a padded prompt, and what every mode asks about them."""

    def __init__(self, rule: DHSABlocks, prompt: Prompt) -> None:
        tokens = prompt.query.shape[1]
        unit = math.lcm(rule.query_block, rule.key_block)
        self.tokens = -(-tokens // unit) * unit
        self.rows, self.columns = self.tokens // rule.query_block, self.tokens // rule.key_block
        self.budget = max(1, int(rule.density * self.columns))
        row, self.column = np.arange(self.rows), np.arange(self.columns)
        self.newest = ((row + 1) * rule.query_block - 1) // rule.key_block
        self.start = row * rule.query_block // rule.key_block
        self.seen = self.column[None, :] <= self.newest[:, None]
        self.open = self.seen & ~self._hidden(rule, prompt)
        self.between = (self.column > 0)[None, :] & (self.column[None, :] < self.newest[:, None])
        self.between &= self.open
        # Without a rule of its own for the order, later blocks are ranked as well.
        self.ranked = self.open | ~self.seen if rule.mode == "topk" else self.open
        self.dense = self.ranked.sum(axis=1) <= self.budget
        if rule.mode in ("vs", "vsb"):
            within = math.ceil(self.budget * rule.key_block / rule.query_block)
            self.dense[:within] = True
            self.dense[-1] = True

    def _hidden(self, rule: DHSABlocks, prompt: Prompt) -> Blocks:
        """Key blocks of which no query of a block sees anything, [rows, columns]."""
        hidden = np.zeros((self.rows, self.columns), dtype=np.bool_)
        if prompt.look(prompt.positions[:1]).hidden is None:
            return hidden
        starts = range(rule.query_block, len(prompt.positions), rule.query_block)
        for row, queries in enumerate(np.split(prompt.positions, starts)):
            unseen = prompt.look(queries).hidden
            assert unseen is not None
            unseen = unseen | (np.arange(unseen.shape[1]) > queries[:, None])
            missing = self.tokens - unseen.shape[1]
            unseen = np.pad(unseen.all(axis=0), (0, missing), constant_values=True)
            hidden[row] = unseen.reshape(self.columns, -1).all(axis=1)
        return hidden


class DHSABlocksSelector(PatternSelector[DHSABlocks, Blocks]):
    """A mask of blocks for each query head."""

    def find(self, prompt: Prompt, seed: int) -> tuple[Blocks, Cost] | None:
        """Choose blocks by the mode."""
        rule, (heads, tokens, dim) = self.rule, prompt.query.shape
        grid, work = _Grid(rule, prompt), no_work(heads)
        if grid.dense.all():
            return None
        missing = ((0, 0), (0, grid.tokens - tokens), (0, 0))
        query = np.pad(prompt.query.astype(np.float64), missing)
        key = np.pad(prompt.key[:, :tokens].astype(np.float64), missing)
        reads, updates = tokens, 0
        if rule.mode == "vs":
            filled = replace(prompt, query=query, key=key)
            scores, reads, updates = self._lines(filled, tokens, grid, seed, work)
        else:
            mean_query = query.reshape(heads, grid.rows, -1, dim).mean(axis=2)
            mean_key = key.reshape(len(key), grid.columns, -1, dim).mean(axis=2)
            mean_key = np.repeat(mean_key, self.shape.group, axis=0)
            scores = mean_query @ mean_key.transpose(0, 2, 1)
            if rule.mode == "vsb":
                scores = self._block_lines(scores[:, -1] * prompt.scale, grid, seed, work)
        mask = self._fill(scores, grid, seed, work)
        return mask, Cost(work, reads, updates)

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
                choice = np.flatnonzero(grid.ranked[row])
                mask[:, row][:, choice] = largest(
                    scores[:, row][:, choice], grid.budget, seed + row * heads, work
                )
                continue
            if grid.dense[row]:
                mask[:, row] = grid.seen[row]
                continue
            forced = grid.column == 0
            newest = grid.start[row] if mode == "vsb" else grid.newest[row]
            forced = (forced | ((grid.column >= newest) & grid.seen[row])) & grid.open[row]
            mask[:, row] = forced
            left = min(grid.budget - int(forced.sum()), max(int(grid.newest[row]) - 1, 0))
            choice = np.flatnonzero(grid.between[row])
            chosen = largest(scores[:, row][:, choice], max(left, 0), seed + row * heads, work)
            mask[:, row][:, choice] |= chosen
        return mask

    def _lines(
        self, filled: Prompt, tokens: int, grid: _Grid, seed: int, work: NDArray[Any]
    ) -> tuple[Floats, int, int]:
        """Scores [heads, rows, columns] from the last block's probabilities.

        Returns:
            They, the keys that are read for them, and the sums that are updated.
        """
        rule, heads = self.rule, len(filled.query)
        last = grid.tokens if filled.look(filled.positions[:1]).plain else tokens
        every = np.arange(last)
        weights, seen = probabilities(filled, every[-rule.query_block :], every)
        missing = ((0, 0), (0, grid.tokens - last))
        columns, distances = (np.pad(sums, missing) for sums in columns_and_distances(weights))
        budget = grid.budget * rule.key_block
        vertical = int(budget * rule.vertical_share)
        chosen = largest(columns, vertical, seed + 1_000_003, work)
        by_key = np.where(chosen, columns, 0.0).reshape(heads, grid.columns, -1).sum(axis=2)
        slash = largest(distances, budget - vertical, seed + 2_000_003, work)
        scores = np.repeat(by_key[:, None], grid.rows, axis=1)
        _meet(
            np.where(slash, distances, 0.0), slash, rule.query_block, rule.key_block, grid.newest,
            scores,
        )  # fmt: skip
        return scores, int(seen[:, :tokens].any(axis=0).sum()), 2 * int(seen.sum())

    def _block_lines(self, last: Floats, grid: _Grid, seed: int, work: NDArray[Any]) -> Floats:
        """The same from the products of the last block with all blocks, [heads, columns]."""
        vertical = int(grid.budget * self.rule.vertical_share)
        chosen, slash = (np.zeros(last.shape, dtype=np.bool_) for _ in range(2))
        seen = np.flatnonzero(grid.open[-1])
        chosen[:, seen] = largest(last[:, seen], vertical, seed + 1_000_003, work)
        slash[:, seen] = largest(last[:, seen], grid.budget - vertical, seed + 2_000_003, work)
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
