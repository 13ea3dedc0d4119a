"""KeyDiff: keys that are unlike the others stay."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.rows import admit_heads
from accelsim.jit import kernel
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    ByHead,
    Needs,
    Sharing,
)
from accelsim.policies.selections._eviction import EvictingSelector
from accelsim.policies.selector import Block, Decision, Selector, Shape


class KeyDiff(ByHead):
    """Keys by their difference from the mean key (Park et al., 2025).

    Score: minus the cosine of a key with the anchor, the mean of the keys in the cache, each of
    unit length; averaged over the KV heads that decide together. Budget: a cache of fixed size; the
    key most like the anchor leaves for good. The query's own key stays.

    Asks of the hardware: a sum per KV head, one product of the anchor with each key in the cache
    and one arg-min per KV head and step.

    Attributes:
        anchor: ``cache``: the query's own key counts in the mean, as where the paper adds a block
            of tokens to the cache before it evicts; ``older``: it does not, which at the first
            query after a prompt is a selection over the prompt alone, as kvpress's.
    """

    kind: Literal["keydiff"]
    share: Sharing = "kv_head"
    anchor: Literal["cache", "older"] = "cache"
    needs: ClassVar[Needs] = Needs(selection="one_per_step", updates=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return KeyDiffSelector(self, shape, seed)


class KeyDiffSelector(EvictingSelector):
    """A score that changes with what is in the cache."""

    def __init__(self, rule: KeyDiff, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self.spared = int(rule.anchor == "older")

    @property
    def prompt_rows(self) -> int:
        """None: the keys decide."""
        return 0

    def run(self, block: Block) -> Decision:
        """Score the cache and evict, row by row; attend."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        lengths = np.sqrt((block.key**2).sum(axis=2, keepdims=True))
        unit = np.ascontiguousarray(block.key / np.where(lengths > 0, lengths, 1.0))
        _keep_different(
            unit, block.positions, block.visible, self.shape.prompt_tokens, self.budgets,
            self.floors, self.heads, self.shape.group, self.seed, self.spared, alive, score,
            decision.kept, work,
        )  # fmt: skip
        self.attend(block, decision)
        return self.finished(decision, work)


@kernel
def _keep_different(
    unit: NDArray[np.float64],
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    floors: NDArray[np.int64],
    heads: int,
    group: int,
    seed: int,
    spared: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    kept: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    dim = unit.shape[2]
    anchor = np.empty(dim)
    for r in range(len(positions)):
        seen = positions[r] + 1
        # Nothing leaves in a prompt, and the scores are those of one step.
        for g in range(len(alive) if seen > prompt else 0):
            # KV heads that the group of query heads g reads.
            first, last = g * heads // group, ((g + 1) * heads - 1) // group + 1
            alive[g, seen - 1] = True
            score[g, :seen] = 0.0
            for kv in range(first, last):
                anchor[:] = 0.0
                for j in range(seen - spared):
                    if alive[g, j]:
                        for d in range(dim):
                            anchor[d] += unit[kv, j, d]
                length = np.sqrt((anchor**2).sum())
                for j in range(seen):
                    if alive[g, j] and length > 0.0:
                        product = 0.0
                        for d in range(dim):
                            product += anchor[d] * unit[kv, j, d]
                        score[g, j] -= product / length
        admit_heads(
            alive, score, seen, prompt, 1, budgets[seen], floors[seen], seed + seen * 31,
            work[:, r],
        )  # fmt: skip
        for g in range(len(alive)):
            kept[g * heads : (g + 1) * heads, r, : visible[r]] = alive[g, : visible[r]]
