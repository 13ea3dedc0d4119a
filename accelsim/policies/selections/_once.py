"""What rules that select once, when the prompt ends, share: what stays of it, and the work."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.rows import dense_mask
from accelsim.attention.topk import topk_engine
from accelsim.policies._selection import ByHead
from accelsim.policies.selector import (
    Block,
    Decision,
    Floats,
    Selector,
    Shape,
    heads_per_decision,
    work_by_kv_head,
)


class Once(ByHead):
    """A budget that is counted on the prompt, whose keys are selected when it ends.

    Nothing leaves in decode, and new tokens stay.
    """


Rule = TypeVar("Rule", bound=Once)


class OnceSelector(Selector, Generic[Rule]):
    """One selection of a layer's prompt, before the first query after it."""

    def __init__(self, rule: Rule, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.heads = heads_per_decision(shape, rule.share)
        self._prefix: dict[int, NDArray[np.bool_]] = {}

    @property
    @abstractmethod
    def free(self) -> slice:
        """Keys of the prompt that may leave; those before and after stay and are counted."""

    @abstractmethod
    def score(self, block: Block) -> Floats:
        """Scores [groups, free] of the keys that may leave, by the first block after the prompt."""

    def watch(self, block: Block, decision: Decision, rows: NDArray[np.bool_]) -> None:
        """Be shown the queries of the prompt, whose scores are probabilities now.

        Args:
            block: with queries of the prompt, and perhaps of what follows.
            decision: what looking costs is written here.
            rows: which they are, [rows].
        """

    def charge(self, decision: Decision, row: int) -> None:
        """Write what the selection reads and updates beside its top-k into a row."""

    def budget(self, layer: int) -> int:
        """Keys of the prompt that stay in a layer, the protected ones among them."""
        return self.rule.budget(self.shape.prompt_tokens)

    def selects(self, layer: int) -> bool:
        """Whether anything leaves."""
        return 0 < self.budget(layer) < self.shape.prompt_tokens and self._target(layer) < self.size

    @property
    def size(self) -> int:
        """Keys that may leave."""
        return len(range(*self.free.indices(self.shape.prompt_tokens)))

    def run(self, block: Block) -> Decision:
        """Attend densely in the prompt, then to what it left and to all that came after."""
        shape, prompt = self.shape, self.shape.prompt_tokens
        decision = Decision.empty(block, shape.num_kv_heads)
        decision.kept = dense_mask(len(block.scores), block.visible, block.scores.shape[2])
        after = block.positions >= prompt
        if after.any() and prompt:
            if block.layer not in self._prefix:
                row = int(np.argmax(after))
                work = self._select(block)
                decision.work[:, row] = work_by_kv_head(work, shape)[:, 0]
                if self.selects(block.layer):
                    self.charge(decision, row)
            decision.kept[:, after, :prompt] &= self._prefix[block.layer][:, None, :]
        self.attend(block, decision)
        if not after.all() and self.selects(block.layer):
            self.watch(block, decision, ~after)
        return decision

    def by_group(self, values: Floats) -> Floats:
        """Mean of [query_heads, keys] over the heads that decide together, [groups, keys]."""
        return np.asarray(values.reshape(-1, self.heads, values.shape[1]).mean(axis=1))

    def _target(self, layer: int) -> int:
        """Keys that stay of those that may leave."""
        return max(self.budget(layer) - (self.shape.prompt_tokens - self.size), 0)

    def _select(self, block: Block) -> NDArray[Any]:
        """Compress the prompt of a layer; returns work [groups, 1]."""
        rule, layer = self.rule, block.layer
        heads, prompt = self.shape.num_query_heads, self.shape.prompt_tokens
        kept = np.ones((heads, prompt), dtype=np.bool_)
        groups = heads // self.heads
        work = np.zeros((groups, 1), dtype=WORK)
        target = self._target(layer)
        if self.selects(layer):
            scores = self.score(block)
            seed = self.seed + layer * 977
            if rule.head_floor is None:
                chosen, work[:, 0] = _best(scores, target, seed)
            else:
                # The floor is a part of the whole budget, of which the protected keys are first.
                always = prompt - self.size
                floor = max(int(self.budget(layer) * rule.head_floor) - always, 0)
                chosen, work[:, 0] = _best(scores, min(floor, target), seed)
                joint = np.where(chosen, np.inf, scores).reshape(1, -1)
                best, more = _best(joint, target * groups, seed + groups)
                chosen = best.reshape(scores.shape)
                for name in ("passes", "elements", "beats"):
                    work[name][0, 0] += more[name][0]
                work["size"][0, 0], work["target"][0, 0] = more["size"][0], more["target"][0]
            kept[:, self.free] = np.repeat(chosen, self.heads, axis=0)
        self._prefix[layer] = kept
        return work


def _best(values: Floats, count: int, seed: int) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Mark the ``count`` largest of each row [rows, values]; also work [rows]."""
    marked = np.zeros(values.shape, dtype=np.bool_)
    work = np.zeros(len(values), dtype=WORK)
    for row in range(len(values) if count else 0):
        top = topk_engine(values[row], count, seed + row)
        marked[row, top.indices] = True
        work[row] = (values.shape[1], count, top.passes, top.elements, top.beats)
    return marked, work
