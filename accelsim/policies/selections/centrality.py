"""Centrality of keys in the graph of their similarity, as LexRank ranks sentences."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from accelsim.policies._base import Count, Fraction, Iterations
from accelsim.policies._selection import FROM_PROBABILITIES, IN_BOTH_DIRECTIONS, Needs, Sharing
from accelsim.policies.selections._once import Once, OnceSelector
from accelsim.policies.selector import Block, Decision, Floats, Selector, Shape


class Centrality(Once):
    """LexRank-like centrality of keys (``CentralityPress`` of kvpress-centrality, 2026).

    Score: the keys of a KV head are a graph whose edges weigh ``(1 + cosine) / 2``. With p the
    softmax over minus the norms of the keys, ``c <- damping * A c / |A c| + (1 - damping) * p`` is
    repeated from p; damping 0 is K-norm, 1 centrality alone. Budget: counted on the prompt, once
    when it ends; the ``sinks`` first and ``recent`` last tokens of it stay.

    Asks of the hardware: norms of keys; an iteration is a product with all keys and one with their
    transpose, for A has a low rank and is never made: both in one pass over the keys, and one pass
    before the first; an accumulator per key; one top-k per KV head.

    Attributes:
        damping: weight of the neighbours beside that of the norm.
        iterations: how often it is repeated.
        sinks: first tokens that stay.
        recent: last tokens of the prompt that stay.
    """

    kind: Literal["centrality"]
    share: Sharing = "kv_head"
    damping: Fraction = 0.15
    iterations: Iterations = 3
    sinks: Count = 4
    recent: Count = 8
    needs: ClassVar[Needs] = Needs(selection="once", updates=True, metadata=True)
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES | IN_BOTH_DIRECTIONS

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return CentralitySelector(self, shape, seed)


class CentralitySelector(OnceSelector[Centrality]):
    """One ranking of the keys when the prompt ends."""

    @property
    def prompt_rows(self) -> int:
        """None: the keys decide."""
        return 0

    @property
    def free(self) -> slice:
        """All but the first and the last tokens."""
        prompt = self.shape.prompt_tokens
        return slice(min(self.rule.sinks, prompt), max(prompt - self.rule.recent, 0))

    def score(self, block: Block) -> Floats:
        """Centrality of each key, from the first query after the prompt on known keys."""
        keys = block.key[:, : self.shape.prompt_tokens]
        found = centrality(keys, self.rule.damping, self.rule.iterations)
        return self.by_group(np.repeat(found, self.shape.group, axis=0)[:, self.free])

    def charge(self, decision: Decision, row: int) -> None:
        """Passes over the keys, and accumulators of each."""
        prompt, times = self.shape.prompt_tokens, self.rule.iterations
        decision.metadata_vectors[:, row] = prompt * (times + 1)
        decision.score_updates[:, row] = prompt * times


def centrality(keys: Floats, damping: float, iterations: int) -> Floats:
    """Centrality of keys [heads, keys, head_dim] in each head, [heads, keys]."""
    norms = np.linalg.norm(keys, axis=2)
    unit = keys / np.maximum(norms, 1e-8)[..., None]
    weight = np.exp(norms.min(axis=1, keepdims=True) - norms)
    teleport = weight / weight.sum(axis=1, keepdims=True)
    rank = teleport
    for _ in range(iterations):
        along = np.einsum("hkd,hk->hd", unit, rank)
        spread = 0.5 * rank.sum(axis=1, keepdims=True) + 0.5 * np.einsum("hkd,hd->hk", unit, along)
        spread /= np.abs(spread).sum(axis=1, keepdims=True) + 1e-8
        rank = damping * spread + (1.0 - damping) * teleport
    return np.asarray(rank)
