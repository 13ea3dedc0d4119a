"""SnapKV: one selection after the prompt."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.rows import dense_mask
from accelsim.attention.topk import topk_engine
from accelsim.policies._base import Fraction, Positive
from accelsim.policies._selection import FROM_PROBABILITIES, Budgeted, Needs
from accelsim.policies.selector import (
    Block,
    Decision,
    Selector,
    Shape,
    heads_per_decision,
    work_by_kv_head,
)


class SnapKV(Budgeted):
    """SnapKV (Li et al., NeurIPS 2024).

    Score: probabilities that the last ``window`` queries of the prompt give to a key, summed, then
    pooled over ``kernel`` neighbours. Budget: counted on the prompt; the best keys and the last
    ``window`` stay when the prompt ends. Nothing leaves in decode, and new tokens stay.

    Asks of the hardware: ``window`` score rows and one top-k per head and layer, once; a gather of
    single tokens.

    Attributes:
        window: queries of the prompt that vote; their keys stay.
        kernel: width of the pooling.
        pooling: mean or maximum over the neighbours.
        head_floor: lets the heads of a layer share their budgets, as AdaKV does (Feng et al. 2024):
            of all of them the best keys stay, whose head it be, but each head keeps at least this
            part of its own budget (0.2 in its code). Each has its own if not given.
    """

    kind: Literal["snapkv"]
    window: Positive = 32
    kernel: Positive = 5
    pooling: Literal["mean", "max"] = "mean"
    head_floor: Fraction | None = None
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return SnapKVSelector(self, shape, seed)


class SnapKVSelector(Selector):
    """One vote at the end of the prompt."""

    def __init__(self, rule: SnapKV, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.heads = heads_per_decision(shape, rule.share)
        older = shape.prompt_tokens - min(rule.window, shape.prompt_tokens)
        self._selects = self._target() < older
        self._votes: dict[int, NDArray[np.float64]] = {}
        self._prefix: dict[int, NDArray[np.bool_]] = {}

    @property
    def prompt_rows(self) -> int:
        """Those that vote."""
        return self.rule.window

    def run(self, block: Block) -> Decision:
        """Attend densely in the prompt, then to what it left and to all that came after."""
        shape, prompt = self.shape, self.shape.prompt_tokens
        decision = Decision.empty(block, shape.num_kv_heads)
        decision.kept = dense_mask(len(block.scores), block.visible, block.scores.shape[2])
        after = block.positions >= prompt
        if after.any() and prompt:
            if block.layer not in self._prefix:
                work = self._select(block.layer)
                decision.work[:, int(np.argmax(after))] = work_by_kv_head(work, shape)[:, 0]
            decision.kept[:, after, :prompt] &= self._prefix[block.layer][:, None, :]
        self.attend(block, decision)
        voting = ~after & (block.positions >= prompt - self.rule.window)
        if self._selects and voting.any():
            votes = self._votes.setdefault(
                block.layer, np.zeros((shape.num_query_heads, max(prompt, 1)))
            )
            context = block.scores.shape[2]
            votes[:, :context] += block.scores[:, voting, :prompt].sum(axis=1)
            decision.score_updates[:, voting] = shape.group * block.visible[voting]
        return decision

    def _target(self) -> int:
        """Keys of the prompt that stay, those of the voting window aside."""
        prompt = self.shape.prompt_tokens
        return max(self.rule.budget(prompt) - min(self.rule.window, prompt), 0)

    def _select(self, layer: int) -> NDArray[Any]:
        """Compress the prompt of a layer; returns work [groups, 1]."""
        rule, prompt = self.rule, self.shape.prompt_tokens
        heads = self.shape.num_query_heads
        window = min(rule.window, prompt)
        older = prompt - window
        kept = np.ones((heads, prompt), dtype=np.bool_)
        groups = heads // self.heads
        work = np.zeros((groups, 1), dtype=WORK)
        target = self._target()
        if self._selects:
            votes = self._votes[layer].reshape(groups, self.heads, -1).sum(axis=1)[:, :older]
            pooled = pool(votes, rule.kernel, rule.pooling)
            kept[:, :older] = False
            seed = self.seed + layer * 977
            if rule.head_floor is None:
                chosen, work[:, 0] = _best(pooled, target, seed)
            else:
                # The floor is a part of the whole budget, of which the window is first.
                floor = max(int(rule.budget(prompt) * rule.head_floor) - window, 0)
                chosen, work[:, 0] = _best(pooled, min(floor, target), seed)
                joint = np.where(chosen, np.inf, pooled).reshape(1, -1)
                best, more = _best(joint, target * groups, seed + groups)
                chosen = best.reshape(groups, older)
                for name in ("passes", "elements", "beats"):
                    work[name][0, 0] += more[name][0]
                work["size"][0, 0], work["target"][0, 0] = more["size"][0], more["target"][0]
            kept[:, :older] = np.repeat(chosen, self.heads, axis=0)
        self._prefix[layer] = kept
        return work


def _best(
    values: NDArray[np.float64], count: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Mark the ``count`` largest of each row [rows, values]; also work [rows]."""
    marked = np.zeros(values.shape, dtype=np.bool_)
    work = np.zeros(len(values), dtype=WORK)
    for row in range(len(values) if count else 0):
        top = topk_engine(values[row], count, seed + row)
        marked[row, top.indices] = True
        work[row] = (values.shape[1], count, top.passes, top.elements, top.beats)
    return marked, work


def pool(votes: NDArray[np.float64], kernel: int, pooling: str) -> NDArray[np.float64]:
    """Pool along the last axis over ``kernel`` neighbours, with zeros outside; same length."""
    left = (kernel - 1) // 2
    padded = np.pad(votes, ((0, 0), (left, kernel - 1 - left)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=1)
    return np.asarray(windows.mean(axis=2) if pooling == "mean" else windows.max(axis=2))
