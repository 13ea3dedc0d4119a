"""What rules that rank pages or chunks of keys for each query share."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

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
