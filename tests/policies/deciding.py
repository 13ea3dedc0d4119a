"""A selector at work on random tensors of one sequence, block by block, as both loops ask it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.policies import Policy
from accelsim.policies.selector import Block, Decision, Shape, selector_for


@dataclass
class Sequence:
    """Random queries, keys and values of some layers.

    Attributes:
        shape: of model and run.
        query, key, value: one array a layer.
        decisions: what was decided for each block that was shown last, by layer.
    """

    shape: Shape
    query: list[NDArray[Any]]
    key: list[NDArray[Any]]
    value: list[NDArray[Any]]
    decisions: dict[int, list[Decision]] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        return float(self.shape.head_dim**-0.5)

    def scores(self, layer: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Scaled scores [query_heads, rows, keys up to the last row]."""
        seen = slice(int(rows[-1]) + 1 if self.shape.causal else self.shape.tokens)
        keys = np.repeat(self.key[layer][:, seen], self.shape.group, axis=0)
        return np.asarray(self.query[layer][:, rows] @ keys.transpose(0, 2, 1) * self.scale)

    def dense(self, layer: int) -> NDArray[Any]:
        """Dense probabilities [query_heads, tokens, tokens]."""
        scores = self.scores(layer, np.arange(self.shape.tokens))
        scores[:, ~np.tri(self.shape.tokens, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        return np.asarray(weights / weights.sum(axis=2, keepdims=True))

    def decide(self, rule: dict[str, Any], rows: int = 1 << 20) -> NDArray[np.bool_]:
        """Kept keys [layers, query_heads, tokens, tokens] in blocks of at most ``rows`` queries."""
        shape = self.shape
        selector = selector_for(Policy.model_validate({"selection": rule}), shape)
        size = (shape.num_layers, shape.num_query_heads, shape.tokens, shape.tokens)
        kept = np.zeros(size, dtype=np.bool_)
        self.decisions = {layer: [] for layer in range(shape.num_layers)}
        for layer in range(shape.num_layers):
            for half in self._halves():
                if half[0] < shape.prompt_tokens:
                    selector.foresee(
                        layer, self.query[layer][:, half], self.key[layer], half, self.scale
                    )
                asking = selector.rows(layer, half)
                if not len(asking):
                    continue
                for part in np.split(asking, range(rows, len(asking), rows)):
                    seen = slice(part[-1] + 1)
                    scores = self.scores(layer, part)
                    block = Block(
                        layer, part, self.query[layer][:, part], self.key[layer][:, seen],
                        self.value[layer][:, seen], scores, scores, 0.0, True, self.scale,
                    )  # fmt: skip
                    decision = selector.run(block)
                    kept[layer][:, part, seen] = decision.kept
                    self.decisions[layer].append(decision)
        return kept

    def _halves(self) -> Iterable[NDArray[np.int64]]:
        prompt = self.shape.prompt_tokens
        for half in (np.arange(prompt), np.arange(prompt, self.shape.tokens)):
            if len(half):
                yield half


def sequence(
    seed: int = 0, *, tokens: int = 40, prompt: int = 32, layers: int = 1, heads: int = 4,
    kv_heads: int = 2, dim: int = 8, **shape: Any,
) -> Sequence:  # fmt: skip
    """Draw one."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(layers, heads, tokens, dim)) * 2
    key, value = rng.normal(size=(2, layers, kv_heads, tokens, dim))
    own = replace(Shape(layers, heads, kv_heads, dim, tokens, prompt), **shape)
    return Sequence(own, list(query), list(key), list(value))


def best(scores: NDArray[Any], count: int) -> set[int]:
    """Places of the ``count`` largest; among equals the first."""
    return set(np.argsort(-np.asarray(scores), kind="stable")[:count].tolist())
