"""SnapKV: one selection after the prompt."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Positive
from accelsim.policies._selection import FROM_PROBABILITIES, IN_BOTH_DIRECTIONS, Needs
from accelsim.policies.selections._once import Once, OnceSelector
from accelsim.policies.selector import Block, Decision, Floats, Selector, Shape


class SnapKV(Once):
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
        pyramid: beta of PyramidKV (Cai et al. 2024, section 3; 20 in its code): layers get budgets
            that fall linearly, with the mean as given. The last one's is the beta-th part of the
            budget, or more where the first one's would then not fit into the prompt; where it is
            less than the window, all layers get the same. All do if not given.
    """

    kind: Literal["snapkv"]
    window: Positive = 32
    kernel: Positive = 5
    pooling: Literal["mean", "max"] = "mean"
    pyramid: Positive | None = None
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return SnapKVSelector(self, shape, seed)


class SnapKVSelector(OnceSelector[SnapKV]):
    """One vote at the end of the prompt."""

    def __init__(self, rule: SnapKV, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self._votes: dict[int, NDArray[np.float64]] = {}

    @property
    def prompt_rows(self) -> int:
        """Those that vote."""
        return self.rule.window

    @property
    def free(self) -> slice:
        """All but the keys of the voting window."""
        return slice(0, max(self.shape.prompt_tokens - self.rule.window, 0))

    def budget(self, layer: int) -> int:
        """Of the rule, or of the layer's step of the pyramid."""
        prompt = self.shape.prompt_tokens
        flat = self.rule.budget(prompt)
        if self.rule.pyramid is None:
            return flat
        return pyramid_budget(
            flat, self.rule.pyramid, self.rule.window, prompt, layer, self.shape.num_layers
        )

    def watch(self, block: Block, decision: Decision, rows: NDArray[np.bool_]) -> None:
        """Add up the votes."""
        shape, prompt = self.shape, self.shape.prompt_tokens
        voting = rows & (block.positions >= prompt - self.rule.window)
        if not voting.any():
            return
        votes = self._votes.setdefault(block.layer, np.zeros((shape.num_query_heads, prompt)))
        context = block.scores.shape[2]
        votes[:, :context] += block.scores[:, voting, :prompt].sum(axis=1)
        decision.score_updates[:, voting] = shape.group * block.visible[voting]

    def score(self, block: Block) -> Floats:
        """Votes of the heads that decide together, pooled."""
        votes = self._votes[block.layer]
        groups = votes.reshape(-1, self.heads, votes.shape[1]).sum(axis=1)
        return pool(groups[:, self.free], self.rule.kernel, self.rule.pooling)


def pool(votes: NDArray[np.float64], kernel: int, pooling: str) -> NDArray[np.float64]:
    """Pool along the last axis over ``kernel`` neighbours, with zeros outside; same length."""
    left = (kernel - 1) // 2
    padded = np.pad(votes, ((0, 0), (left, kernel - 1 - left)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=1)
    return np.asarray(windows.mean(axis=2) if pooling == "mean" else windows.max(axis=2))


def pyramid_budget(
    budget: int, beta: int, window: int, prompt: int, layer: int, num_layers: int
) -> int:
    """Keys that a layer keeps of a prompt under PyramidKV's allocation.

    Args:
        budget: mean over the layers.
        beta: steepness; 1 gives all layers the same.
        window: tokens that a layer keeps at least.
        prompt: tokens of the prompt.
        layer: which.
        num_layers: of how many.
    """
    least = budget / beta
    most = 2 * budget - least
    if most >= prompt - window:
        most = prompt - window
        least = 2 * budget - most
    if not prompt >= most >= least >= window:
        return budget
    step = (most - least) / (num_layers - 1) if num_layers > 1 else 0.0
    return round(most - layer * step)
