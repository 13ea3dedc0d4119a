"""A selector at work on random tensors of one sequence, block by block, as both loops ask it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.look import Look
from accelsim.policies import Policy
from accelsim.policies.selector import Block, Decision, Prompt, Shape, selector_for


@dataclass
class Sequence:
    """Random queries, keys and values of some layers.

    Attributes:
        shape: of model and run.
        query, key, value: one array a layer.
        seen: which keys each query sees, [tokens, tokens]; those up to its own if ``None``.
        softcap, bias, sinks: of all layers; ``bias`` is [query_heads, tokens, tokens].
        table: the same bias by distance, 0 in the middle, if that is how it is told.
        decisions: what was decided for each block that was shown last, by layer.
    """

    shape: Shape
    query: list[NDArray[Any]]
    key: list[NDArray[Any]]
    value: list[NDArray[Any]]
    seen: NDArray[np.bool_] | None = None
    softcap: float = 0.0
    bias: NDArray[np.float32] | None = None
    sinks: NDArray[Any] | None = None
    table: NDArray[np.float64] | None = None
    decisions: dict[int, list[Decision]] = field(default_factory=dict)

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which keys each query sees, [tokens, tokens]."""
        dense = np.tri(self.shape.tokens, dtype=np.bool_)
        return dense if self.seen is None else self.seen

    def gives(self, layer: int, i: int, keys: list[int]) -> NDArray[Any]:
        """What a query gives to some keys, as the layer attends; [query_heads, tokens]."""
        found = np.zeros((self.shape.num_query_heads, self.shape.tokens))
        for head in range(len(found)):
            exponentials = {}
            for j in keys:
                if not self.shown[i, j]:
                    continue
                key = self.key[layer][head // self.shape.group, j]
                score = float(self.query[layer][head, i] @ key) * self.scale
                if self.softcap:
                    score = self.softcap * np.tanh(score / self.softcap)
                if self.bias is not None:
                    score += self.bias[head, i, j]
                exponentials[j] = np.exp(score)
            total = sum(exponentials.values())
            total += 0.0 if self.sinks is None else np.exp(self.sinks[head])
            for j, value in exponentials.items():
                found[head, j] = value / total
        return found

    def ends(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """One past the last key that queries may see, by the shape of all masks of the prompt."""
        later = (self.shown & ~np.tri(self.shape.tokens, dtype=np.bool_)).any(axis=0)
        prefix = int(np.flatnonzero(later)[-1]) + 1 if later.any() else 0
        return np.where(rows < self.shape.prompt_tokens, np.maximum(rows + 1, prefix), rows + 1)

    def look(self, rows: NDArray[np.int64], context: int | None = None) -> Look:
        """How some queries attend."""
        ends = self.ends(rows)
        seen = slice(int(ends.max()) if context is None else context)
        added: dict[str, Any] = {}
        if self.table is not None:
            added = {"bias": self.table}
        elif self.bias is not None:
            added = {"added": self.bias[:, rows][:, :, seen].astype(np.float32)}
        sinks = {} if self.sinks is None else {"sinks": self.sinks}
        hidden = None if self.seen is None else ~self.seen[rows][:, seen]
        return Look(hidden, self.softcap, **added, **sinks, ends=ends)

    @property
    def scale(self) -> float:
        return float(self.shape.head_dim**-0.5)

    def scores(self, layer: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Scaled scores [query_heads, rows, keys up to the last row]."""
        seen = slice(int(self.ends(rows).max()) if self.shape.causal else self.shape.tokens)
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
                        Prompt(
                            layer,
                            self.query[layer][:, half],
                            self.key[layer],
                            half,
                            self.scale,
                            lambda rows: self.look(rows, shape.prompt_tokens),
                        )
                    )
                asking = selector.rows(layer, half)
                if not len(asking):
                    continue
                for part in np.split(asking, range(rows, len(asking), rows)):
                    look = self.look(part)
                    seen = slice(int(look.ends.max()))  # type: ignore[union-attr]
                    scores = self.scores(layer, part)
                    look.apply(scores, part)
                    block = Block(
                        layer, part, self.query[layer][:, part], self.key[layer][:, seen],
                        self.value[layer][:, seen], scores, scores, 0.0, True, self.scale,
                        look,
                    )  # fmt: skip
                    decision = selector.run(block)
                    kept[layer][:, part, seen] = decision.kept & self.shown[part][:, seen]
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


def masked(at: Sequence, seed: int, kind: str, *, own: bool = True) -> Sequence:
    """The same under a mask, with soft cap, bias and sinks.

    Args:
        at: plain.
        seed: of what is random.
        kind: ``window``, ``chunk``, ``random`` or ``prefix``, or ``none``.
        own: whether a random mask shows each query its own token.
    """
    rng, tokens = np.random.default_rng(seed), at.shape.tokens
    i, j = np.indices((tokens, tokens))
    seen = i >= j
    if kind == "window":
        seen &= i - j < 9
    elif kind == "chunk":
        seen &= i // 11 == j // 11
    elif kind == "random":
        shown = rng.random((tokens, tokens)) < 0.5
        seen &= shown | (i == j) if own else shown | (j == 0)
    elif kind == "prefix":
        seen |= (j < 20) & (i < at.shape.prompt_tokens)
    heads = at.shape.num_query_heads
    bias = rng.normal(size=(heads, tokens, tokens)).astype(np.float32)
    return replace(at, seen=seen, softcap=2.5, bias=bias, sinks=rng.normal(size=heads))
