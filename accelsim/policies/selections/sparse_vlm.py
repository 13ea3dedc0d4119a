"""SparseVLM: image tokens by the attention of the text tokens that have to do with the image."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector, missing_tensor
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class SparseVLM(Visual):
    """SparseVLM (Zhang et al., ICML 2025; its code in LightCompress), without its recycling.

    Raters: of the tokens behind the images, those to which the images give more than the mean, by
    the softmax over these tokens of the products of embeddings, mean over the image tokens. Score
    of an image token: the probability that the raters give to it in the layer of ``layers``, mean
    over heads and raters. Budget: ``keep`` of the image tokens of the prompt, from the next layer
    on. The code merges some of what leaves into one token for about thirty; those are not here.

    Asks of the hardware: accumulators of the image tokens, a top-k at each stage (products of
    embeddings, once, are not charged); queries, keys and values of fewer tokens from there on.
    """

    kind: Literal["sparse_vlm"]
    layers: tuple[Layers, ...] = (2, 6, 15)
    keep: tuple[Fraction, ...] = (0.5209, 0.3473, 0.191)
    before: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)

    def missing(self, shape: Shape) -> str:
        """Say what is missing, the embeddings among it, or return an empty string."""
        explain = super().missing(shape)
        if explain or (shape.recorded is not None and shape.recorded.embedding is not None):
            return explain
        return missing_tensor(self.kind, "embedding")

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return SparseVLMSelector(self, shape, seed)


class SparseVLMSelector(VisualSelector):
    """Attention of the raters."""

    def __init__(self, rule: SparseVLM, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        recorded = shape.recorded
        assert recorded is not None
        assert recorded.embedding is not None
        vectors, asking = recorded.embedding.astype(np.float64), self.question
        products = vectors[self.visual] @ vectors[asking].T
        weights = np.exp(products - products.max(axis=1, keepdims=True))
        given = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
        some = given > given.mean()
        self.raters = asking[some] if some.any() else asking

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """What the raters give to each."""
        given, _ = probabilities(prompt, self.raters, alive)
        found = given.mean(axis=(0, 1))[self.visual[alive]]
        return found, 0, len(found) * len(self.raters)
