"""K-norm: keys of small norm stay."""

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


class KNorm(ByHead):
    """Keys by their norm (Devoto et al., EMNLP 2024).

    Score: minus the Euclidean norm of the key, averaged over the KV heads that decide together;
    keys of small norm draw much attention. Budget: a cache of fixed size; the key of largest norm
    leaves for good. The query's own key stays.

    Asks of the hardware: a norm per key as it is written, one arg-min per KV head and step.
    """

    kind: Literal["knorm"]
    share: Sharing = "kv_head"
    needs: ClassVar[Needs] = Needs(selection="one_per_step")
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return KNormSelector(self, shape, seed)


class KNormSelector(EvictingSelector):
    """A score that a key has from its first step on."""

    def __init__(self, rule: KNorm, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self._scored: dict[int, int] = {}

    @property
    def prompt_rows(self) -> int:
        """None: the keys decide."""
        return 0

    def run(self, block: Block) -> Decision:
        """Score the new keys, evict, attend."""
        decision, work = self.prepared(block)
        alive, score = self.state(block.layer)
        known, context = self._scored.get(block.layer, 0), block.key.shape[1]
        new = np.sqrt((block.key[:, known:] ** 2).sum(axis=2))
        norms = np.repeat(new, self.shape.group, axis=0)
        by_head = norms.reshape(len(alive), self.heads, new.shape[1])
        score[:, known:context] = -by_head.mean(axis=1)
        self._scored[block.layer] = context
        _keep_best(
            block.positions, block.visible, self.shape.prompt_tokens, self.budgets, self.floors,
            self.heads, self.seed, alive, score, decision.kept, work,
        )  # fmt: skip
        self.attend(block, decision)
        finished = self.finished(decision, work)
        finished.score_updates[:] = 0  # written once, with the key
        return finished


@kernel
def _keep_best(
    positions: NDArray[np.int64],
    visible: NDArray[np.int64],
    prompt: int,
    budgets: NDArray[np.int64],
    floors: NDArray[np.int64],
    heads: int,
    seed: int,
    alive: NDArray[np.bool_],
    score: NDArray[np.float64],
    kept: NDArray[np.bool_],
    work: NDArray[Any],
) -> None:
    for r in range(len(positions)):
        seen = positions[r] + 1
        admit_heads(
            alive, score, seen, prompt, 1, budgets[seen], floors[seen], seed + seen * 31,
            work[:, r],
        )  # fmt: skip
        for g in range(len(alive)):
            kept[g * heads : (g + 1) * heads, r, : visible[r]] = alive[g, : visible[r]]
