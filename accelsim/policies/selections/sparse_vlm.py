"""SparseVLM: image tokens by the attention of the text tokens that have to do with the image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.attention.topk import topk_engine
from accelsim.configs import Unit
from accelsim.policies._base import Fraction, Layers, Positive
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import Cost, add_search, probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector, missing_tensor
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class SparseVLM(Visual):
    """SparseVLM (Zhang et al., ICML 2025) and SparseVLM+ (2025), with their code.

    Raters: of the tokens behind the images, those to which the images give more than the mean, by
    the softmax over these tokens of the products of embeddings, mean over the image tokens. Score
    of an image token: the probability that the raters give to it in the layer of ``layers``, mean
    over heads and raters. Budget: ``keep`` of the image tokens of the prompt, from the next layer
    on.

    SparseVLM+ divides each probability by what the rotation alone would give to it, the product of
    two vectors of ones turned to the two positions (``rope_base``), and asks those ``heads`` alone
    whose raters then give most to the image tokens.

    The first version makes new tokens of what leaves, means of clusters of hidden states; the
    second does not. A trace does not hold what later layers make of them. ``recycle`` counts them:
    as many of the best that would leave stay in their place.

    Asks of the hardware: accumulators of the image tokens, a top-k at each stage, a second one over
    the heads (products of embeddings, once, the division and clusters are not charged); queries,
    keys and values of fewer tokens from there on.

    Attributes:
        recycle: whether tokens stay in place of those that the first version makes.
        heads: that are asked; ``None`` all of them.
        rope_base: of the model's rotation, whose pairs are element i and i + head_dim / 2; ``None``
            leaves out the division.
    """

    kind: Literal["sparse_vlm"]
    layers: tuple[Layers, ...] = (2, 6, 15)
    keep: tuple[Fraction, ...] = (0.5209, 0.3473, 0.191)
    recycle: bool = False
    heads: Positive | None = None
    rope_base: Annotated[float, pydantic.Field(gt=1.0, le=1e12), Unit("as a base")] | None = None
    before: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)

    def made_of(self, leaving: int) -> int:
        """One for ten of the best three tenths of what leaves, each rounded down, and one more."""
        return (int(0.3 * leaving) + 1) // 10 + 1 if self.recycle else 0

    def missing(self, shape: Shape) -> str:
        """Say what is missing, the embeddings among it, or return an empty string."""
        explain = super().missing(shape)
        if explain:
            return explain
        if self.heads is not None and self.heads > shape.num_query_heads:
            return (
                f"policy '{self.kind}' asks {self.heads} heads; expected a model that has them, "
                f"found {shape.num_query_heads}"
            )
        if shape.recorded is not None and shape.recorded.embedding is not None:
            return ""
        return missing_tensor(self.kind, "embedding")

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return SparseVLMSelector(self, shape, seed)


class SparseVLMSelector(VisualSelector):
    """Attention of the raters."""

    rule: SparseVLM

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
        rule, places = self.rule, alive[self.visual[alive]]
        given, _ = probabilities(prompt, self.raters, alive)
        own = given[:, :, self.visual[alive]]
        if rule.rope_base is not None:
            apart = self.raters[:, None] - places
            own = own / turned_ones(apart, self.shape.head_dim, rule.rope_base)
        if rule.heads is not None:
            self._sums = own.sum(axis=(1, 2))
            own = own[np.argsort(-self._sums, kind="stable")[: rule.heads]]
        return own.mean(axis=(0, 1)), 0, len(places) * len(self.raters)

    def choose(
        self, prompt: Prompt, target: int, alive: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Cost]:
        """The best by their scores; the search for heads is charged, too."""
        stay, cost = super().choose(prompt, target, alive)
        heads = self.rule.heads
        if heads is not None and heads < len(self._sums):
            top = topk_engine(self._sums, heads, self.seed + prompt.layer * 977 + 1)
            add_search(cost.work[0], len(self._sums), heads, top)
        return stay, cost


def turned_ones(apart: NDArray[np.int64], head_dim: int, base: float) -> Floats:
    """Scaled product of two vectors of ones, one turned by so many positions more."""
    turns = base ** (-2.0 * np.arange(head_dim // 2) / head_dim)
    return np.asarray(2 * np.cos(apart[..., None] * turns).sum(axis=-1) / np.sqrt(head_dim))
