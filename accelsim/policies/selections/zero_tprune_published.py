"""Zero-TPrune in the order of the paper: a vote, similarity, then page rank, head by head."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.topk import PARALLELISM
from accelsim.policies._base import ROUNDING_GUARD, Count, Fraction, Iterations, Ratio
from accelsim.policies._encoder import EncoderSelector
from accelsim.policies._selection import Needs, SelectionPart
from accelsim.policies.selections.zero_tprune import ZeroTPrune
from accelsim.policies.selector import Block, Decision, Floats, Selector, Shape


class ZeroTPrunePublished(SelectionPart):
    """Zero-TPrune (Wang et al., CVPR 2024) in its order I' - S - I.

    I': one product ``s <- A^T s`` of the attention of each head, nothing leaves. S: the less
    important half of the tokens by it is compared with the more important one, and those leave
    whose keys have the highest cosine with one of the other half. I: page rank over what is left,
    the tokens of lowest ``s`` leave. A start is uniform, but the ``protect_first`` first tokens
    ([CLS]) get sqrt(N) times as much, and never leave; heads are joined by the root of the mean of
    squares. The stages run after the layers in ``after_layers`` and cascade to later ones.

    Asks of the hardware: the L x L matrix of every head kept, repeated matrix-vector products of
    each, a sort, pairwise cosines.

    Attributes:
        keep_similarity: fraction that the S-stage keeps.
        keep_importance: fraction of the rest that the I-stage keeps.
        after_layers: fractions of the depth after which pruning takes place.
        protect_first: tokens that always stay ([CLS]).
        iterations: products of the I-stage in the first, middle and last third of the layers.
    """

    kind: Literal["zero_tprune_published"]
    keep_similarity: Ratio = 0.9
    keep_importance: Ratio = 0.9
    after_layers: tuple[Fraction, ...] = (0.25, 0.5, 0.75)
    protect_first: Count = 1
    iterations: tuple[Iterations, Iterations, Iterations] = (30, 5, 1)
    needs: ClassVar[Needs] = Needs(selection="every_layer", updates=True)
    encoder: ClassVar[bool] = True
    follows: ClassVar[frozenset[str]] = ZeroTPrune.follows

    def prunes_after(self, layer: int, num_layers: int) -> bool:
        """Whether tokens leave between ``layer`` and the next one."""
        return any(
            layer + 1 == min(max(1, round(f * num_layers)), num_layers - 1)
            for f in self.after_layers
        )

    def products(self, layer: int, num_layers: int) -> int:
        """Products that the I-stage makes after a layer."""
        return self.iterations[3 * layer // num_layers]

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return ZeroTPrunePublishedSelector(self, shape, seed)


class ZeroTPrunePublishedSelector(EncoderSelector):
    """A vote, similarity, page rank."""

    def __init__(self, rule: ZeroTPrunePublished, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule

    def run(self, block: Block) -> Decision:
        """Attend, then prune for the layers to come."""
        rule, layers = self.rule, self.shape.num_layers
        decision = self.attended(block)
        self.attend(block, decision)
        alive = np.flatnonzero(self.alive)
        if not rule.prunes_after(block.layer, layers) or len(alive) < rule.min_keys:
            return decision
        times = rule.products(block.layer, layers)
        attention = block.scores[:, :, alive]
        features = block.key.transpose(1, 0, 2).reshape(block.key.shape[1], -1)[alive]
        protected = alive < rule.protect_first
        alike = alike_ones(rule, attention, features, protected)
        kept = ~alike
        kept[kept] = best_ranked(rule, attention[:, kept][:, :, kept], protected[kept], times)
        self.alive[alive[~kept]] = False
        # A sort after the vote and one after the page rank read each token once; every product
        # reads and writes the scores of all heads.
        sizes = np.array([len(alive), int((~alike).sum())])
        decision.work[0, 0] = (
            len(alive), int(kept.sum()), 2, int(sizes.sum()), int((-(-sizes // PARALLELISM)).sum())
        )  # fmt: skip
        decision.score_updates[0, 0] = len(attention) * int(sizes[0] + times * sizes[1])
        return decision


def ranks(attention: Floats, protected: NDArray[np.bool_], products: int) -> Floats:
    """Page rank of tokens, joined over the heads, [tokens].

    Args:
        attention: [heads, tokens, tokens], rows are queries.
        protected: tokens that start with sqrt(tokens) times as much.
        products: how often ``s <- A^T s`` is made.
    """
    tokens = attention.shape[1]
    start = np.where(protected, math.sqrt(tokens), 1.0) / tokens
    score = np.repeat(start[None], len(attention), axis=0)
    for _ in range(products):
        score = np.einsum("hqk,hq->hk", attention, score)
    return np.asarray(np.sqrt((score**2).mean(axis=0)))


def alike_ones(
    rule: ZeroTPrunePublished,
    attention: Floats,
    features: Floats,
    protected: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Tokens that leave in the S-stage, after the vote of the I'-stage.

    Args:
        rule: ratios.
        attention: [heads, tokens, tokens].
        features: [tokens, elements], compared by cosine.
        protected: [tokens].
    """
    rank = ranks(attention, protected, 1)
    tokens = len(rank)
    order = np.lexsort((np.arange(tokens), rank, protected))
    free = order[: tokens - int(protected.sum())]
    less, more = free[: len(free) // 2], free[len(free) // 2 :]
    stays = max(1, math.ceil(rule.keep_similarity * tokens - ROUNDING_GUARD))
    leaving = min(tokens - stays, len(less))
    found = np.zeros(tokens, dtype=np.bool_)
    if leaving > 0:
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        unit = features / np.where(norms > 0, norms, 1.0)
        nearest = (unit[less] @ unit[more].T).max(axis=1)
        found[less[np.argsort(-nearest, kind="stable")[:leaving]]] = True
    return found


def best_ranked(
    rule: ZeroTPrunePublished, attention: Floats, protected: NDArray[np.bool_], products: int
) -> NDArray[np.bool_]:
    """Tokens that stay in the I-stage, the protected ones among them."""
    rank = ranks(attention, protected, products)
    tokens = len(rank)
    stays = max(1, math.ceil(rule.keep_importance * tokens - ROUNDING_GUARD))
    order = np.lexsort((np.arange(tokens), -rank, ~protected))
    kept = np.zeros(tokens, dtype=np.bool_)
    kept[order[: max(stays, int(protected.sum()))]] = True
    return kept
