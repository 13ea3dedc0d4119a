"""Selectors of an encoder, where a pruned token has no query any more: Zero-TPrune, SpAtten."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.functional._cascade import Cascade
from accelsim.functional.selection._base import Block, Decision, Floats, Selector, Shape
from accelsim.functional.topk import PARALLELISM
from accelsim.policies import Policy, ZeroTPrune


class _EncoderSelector(Selector):
    """Keeps which tokens are alive; all heads of a layer share them."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.alive: NDArray[np.bool_] = np.ones(shape.tokens, dtype=np.bool_)

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions whose token is alive."""
        return positions[self.alive[positions]]

    def attended(self, block: Block) -> Decision:
        """Attend to the living tokens."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        decision.kept[:] = self.alive[: block.scores.shape[2]]
        return decision


class ZeroTPruneSelector(_EncoderSelector):
    """Page rank, then similarity; see :class:`accelsim.policies.ZeroTPrune`."""

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


class EncoderCascadeSelector(_EncoderSelector):
    """SpAtten's cascade inside an encoder; see :class:`accelsim.policies.CascadeTokens`."""

    def __init__(self, policy: Policy, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self._cascade = Cascade(shape.num_layers, shape.tokens, shape.num_query_heads, policy, seed)
        self._heads: NDArray[np.bool_] = np.ones(shape.num_query_heads, dtype=np.bool_)
        self._selected = -1

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select the tokens and heads of the layer; positions of the living tokens."""
        if layer != self._selected:
            context = self.shape.tokens
            self.alive, _ = self._cascade.select_tokens(
                "prefill", layer, self.alive, context, own=None
            )
            self._heads = self._cascade.select_heads("prefill", layer, self._heads, context)
            self._selected = layer
        return super().rows(layer, positions)

    def run(self, block: Block) -> Decision:
        """Attend with the living heads, and accumulate what tokens received."""
        decision = self.attended(block)
        decision.kept[~self._heads] = False
        self.attend(block, decision)
        self._cascade.token_importance += block.scores.sum(axis=(0, 1))
        return decision

    def learn(self, block: Block, output: Floats) -> None:
        """Accumulate the absolute output of the heads."""
        self._cascade.head_importance += np.abs(output).sum(axis=(1, 2))
