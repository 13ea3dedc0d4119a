"""Zero-TPrune: page rank over attention, then similarity."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.topk import PARALLELISM
from accelsim.policies._base import ROUNDING_GUARD, Count, Fraction, Iterations, Ratio
from accelsim.policies._encoder import EncoderSelector
from accelsim.policies._selection import (
    FROM_PROBABILITIES,
    IN_BOTH_DIRECTIONS,
    Needs,
    SelectionPart,
)
from accelsim.policies.selector import Block, Decision, Selector, Shape
from accelsim.traces import OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS


class ZeroTPrune(SelectionPart):
    """Zero-TPrune (Wang et al., CVPR 2024): training-free token pruning of an encoder.

    I-stage: the attention matrix of a layer, mean over its heads, is a graph; ``s <- A^T s`` is
    repeated to convergence and the tokens of lowest ``s`` leave. S-stage: the remaining tokens are
    split into two groups by rank, and the tokens of the second group most similar (cosine) to one
    of the first leave. Both run after the layers in ``after_layers`` and cascade to later ones;
    the first ``protect_first`` tokens stay.

    Asks of the hardware: the L x L matrix kept, repeated matrix-vector products, a sort, pairwise
    cosines.

    Attributes:
        keep_importance: fraction that the I-stage keeps.
        keep_similarity: fraction of the rest that the S-stage keeps.
        after_layers: fractions of the depth after which pruning takes place.
        protect_first: tokens that always stay ([CLS]).
        iterations: at most this many products.
        tolerance: stop when the summed change of the scores is below.
    """

    kind: Literal["zero_tprune"]
    keep_importance: Ratio = 0.9
    keep_similarity: Ratio = 0.9
    after_layers: tuple[Fraction, ...] = (0.25, 0.5, 0.75)
    protect_first: Count = 1
    iterations: Iterations = 30
    tolerance: Fraction = 1e-6
    needs: ClassVar[Needs] = Needs(selection="every_layer", updates=True)
    encoder: ClassVar[bool] = True
    # One set of living tokens goes through all layers.
    follows: ClassVar[frozenset[str]] = (
        FROM_PROBABILITIES | IN_BOTH_DIRECTIONS | {"sliding windows on both sides"}
    ) - {
        OTHER_HEADS,
        OTHER_KV_HEADS,
        OTHER_WIDTHS,
    }

    def prunes_after(self, layer: int, num_layers: int) -> bool:
        """Whether tokens leave between ``layer`` and the next one."""
        return any(
            layer + 1 == min(max(1, round(f * num_layers)), num_layers - 1)
            for f in self.after_layers
        )

    def budgets(self, tokens: int) -> tuple[int, int]:
        """Tokens kept by the I-stage, and by the S-stage after it."""
        first = max(1, math.ceil(self.keep_importance * tokens - ROUNDING_GUARD))
        return first, max(1, math.ceil(self.keep_similarity * first - ROUNDING_GUARD))

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return ZeroTPruneSelector(self, shape, seed)


class ZeroTPruneSelector(EncoderSelector):
    """Page rank, then similarity."""

    def __init__(self, rule: ZeroTPrune, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule

    def run(self, block: Block) -> Decision:
        """Attend, then prune for the layers to come."""
        decision = self.attended(block)
        self.attend(block, decision)
        alive = np.flatnonzero(self.alive)
        prunes = self.rule.prunes_after(block.layer, self.shape.num_layers)
        if prunes and len(alive) >= self.rule.min_keys:
            matrix = block.scores.mean(axis=0)[:, alive]
            features = block.key.transpose(1, 0, 2).reshape(block.key.shape[1], -1)[alive]
            kept, products = prune(self.rule, matrix, features, alive < self.rule.protect_first)
            self.alive[alive[~kept]] = False
            # The sort reads each token once; every product reads and writes all scores.
            size = len(alive)
            decision.work[0, 0] = (size, int(kept.sum()), 1, size, -(-size // PARALLELISM))
            decision.score_updates[0, 0] = products * size
        return decision


def prune(
    rule: ZeroTPrune,
    attention: NDArray[np.float64],
    features: NDArray[np.float64],
    protected: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], int]:
    """I-stage and S-stage on the living tokens.

    Args:
        rule: ratios.
        attention: [tokens, tokens], mean over heads, rows sum to one.
        features: [tokens, elements], compared by cosine.
        protected: [tokens], which never leave.

    Returns:
        Which tokens stay, and how many matrix-vector products were made.
    """
    tokens = len(attention)
    rank, products = page_rank(attention, rule.iterations, rule.tolerance)
    after_importance, after_similarity = rule.budgets(tokens)
    kept: NDArray[np.bool_] = np.ones(tokens, dtype=np.bool_)
    order = np.lexsort((np.arange(tokens), -rank, ~protected))
    kept[order[max(after_importance, int(protected.sum())) :]] = False

    ranked = [t for t in order if kept[t] and not protected[t]]
    important, other = ranked[: (len(ranked) + 1) // 2], ranked[(len(ranked) + 1) // 2 :]
    leaving = min(int(kept.sum()) - after_similarity, len(other))
    if leaving > 0:
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        unit = features / np.where(norms > 0, norms, 1.0)
        nearest = (unit[other] @ unit[important].T).max(axis=1)
        most_alike = np.argsort(-nearest, kind="stable")[:leaving]
        kept[np.array(other)[most_alike]] = False
    return kept, products


def page_rank(
    attention: NDArray[np.float64], iterations: int, tolerance: float
) -> tuple[NDArray[np.float64], int]:
    """Repeat ``s <- A^T s`` from the uniform vector; returns s and the products made."""
    score = np.full(len(attention), 1.0 / len(attention))
    change, products = np.inf, 0
    while products < iterations and change >= tolerance:
        products += 1
        following = attention.T @ score
        change = float(np.abs(following - score).sum())
        score = following
    return score, products
