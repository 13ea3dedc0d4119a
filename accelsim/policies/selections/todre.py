"""ToDRE: image tokens that are least like those chosen before, and none of them in late layers."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import COMPARATORS, WORK
from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import Cost, probabilities
from accelsim.policies.selections._visual import (
    Visual,
    VisualTokens,
    missing_tensor,
    unit_vectors,
    visual_tokens,
)
from accelsim.policies.selector import Prompt, Selector, Shape
from accelsim.traces import SYSTEM, TEXT

_AT_ONCE = 1 << 23
"""Probabilities that are looked at together: 64 MB."""


class ToDRE(Visual):
    """ToDRE (arXiv 2505.18757 v2, section 4): diversity before the model, relevance inside it.

    First stage (4.1): the image token that [CLS] gives most to in the last layer of the vision
    tower, mean over heads, is the first; then, one after the other, the token whose cosines with
    all chosen ones add up to the least, by the embeddings that the language model is given. Budget:
    ``keep`` of the image tokens.

    Second stage (4.2, equation 8): after each layer of ``check_after``, all image tokens leave if
    two shares of its attention in the prompt are below ``threshold``: of what text tokens give, the
    part that image tokens receive, and of what image tokens give, the part of text tokens; sums
    over heads, queries and keys. Text tokens are those of ``token_type`` text; where no token is of
    type system, those in front of the first image token are the system prompt.

    Asks of the hardware: an arg-min over the tokens that are left for each that is chosen (cosines
    are not charged); in the layers of the second stage an addition for each probability between
    text and image; queries, keys and values of fewer tokens.

    Attributes:
        pivot: where the first stage begins: the token that [CLS] looks at, or a random one, as the
            paper does where an encoder has no [CLS].
        threshold: of both shares; 0 leaves out the second stage. Table 2 of the supplement.
        check_after: layers of the second stage, counted from 0; ``None`` for the one that ends
            seven eighths of the layers, rounded down. Table 3 of the supplement.
    """

    kind: Literal["todre"]
    layers: tuple[Layers, ...] = (0,)
    keep: tuple[Fraction, ...] = (0.1,)
    pivot: Literal["cls", "random"] = "cls"
    threshold: Fraction = 0.1
    check_after: tuple[Layers, ...] | None = None
    before: ClassVar[bool] = True
    at_least: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)

    def checks(self, num_layers: int) -> tuple[int, ...]:
        """Layers, counted from 0, after which the second stage looks."""
        if not self.threshold:
            return ()
        if self.check_after is None:
            return (max(7 * num_layers // 8, 1) - 1,)
        return self.check_after

    def missing(self, shape: Shape) -> str:
        """Say what is missing, embeddings and [CLS] among it, or return an empty string."""
        explain = super().missing(shape)
        recorded = shape.recorded
        late = max(self.checks(shape.num_layers), default=-1) + 2
        if not explain and self.check_after is not None and shape.num_layers < late:
            explain = (
                f"policy '{self.kind}' looks after layer {late - 2}, counted from 0; expected "
                f"{late} layers or more, found {shape.num_layers}"
            )
        if explain or min(self.keep) == 1:
            return explain
        if recorded is None or recorded.embedding is None:
            return missing_tensor(self.kind, "embedding")
        if self.pivot == "random":
            return ""
        images = int(visual_tokens(shape).sum())
        rows = recorded.class_attention()
        if not rows or rows[max(rows)].shape[1] != images:
            return missing_tensor(
                self.kind, "vision.layer.i.cls", f" of {images} patches, or 'pivot: random'"
            )
        return ""

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return ToDRESelector(self, shape, seed)


class ToDRESelector(VisualTokens):
    """Greedy, from the token that [CLS] looks at most; then two shares of a late layer."""

    rule: ToDRE

    def __init__(self, rule: ToDRE, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self._checks = rule.checks(shape.num_layers)
        self._text = text_tokens(shape)

    def foresee(self, prompt: Prompt) -> None:
        """Choose in front of the model, and look at the attention of a late layer."""
        super().foresee(prompt)
        layer, tokens = prompt.layer, self.shape.prompt_tokens
        if layer not in self._checks or not self.sees_all(prompt):
            return
        alive = np.flatnonzero(self.alive(layer)[:tokens])
        images, texts = alive[self.visual[alive]], alive[self._text[alive]]
        if not len(images) or not len(texts):
            return
        of_text, first = share(prompt, texts, images, alive)
        of_images, second = share(prompt, images, texts, alive)
        own = Cost(np.zeros(1, dtype=WORK), 0, first + second)
        chosen = self._costs.get(layer)
        self._costs[layer] = own if chosen is None else chosen._replace(updates=own.updates)
        if max(of_text, of_images) < self.rule.threshold:
            self._gone[layer + 1] = self.visual

    def choose(
        self, prompt: Prompt, target: int, alive: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Cost]:
        """Add the least similar token until there are enough."""
        recorded = self.shape.recorded
        assert recorded is not None
        assert recorded.embedding is not None
        places = alive[self.visual[alive]]
        vectors = unit_vectors(recorded.embedding[places])
        first = self._first(places)
        chosen, likeness = [first], vectors @ vectors[first]
        left = np.ones(len(places), dtype=np.bool_)
        left[first] = False
        while len(chosen) < target:
            there = np.flatnonzero(left)
            new = int(there[likeness[there].argmin()])
            chosen.append(new)
            left[new] = False
            likeness += vectors @ vectors[new]
        work = np.zeros(1, dtype=WORK)
        sizes = len(places) - np.arange(target)
        work[0] = (len(places), target, target, sizes.sum(), (-(-sizes // COMPARATORS)).sum())
        return places[chosen], Cost(work, 0, 0)

    def _first(self, places: NDArray[np.int64]) -> int:
        """Where it begins, counted in the tokens that are left."""
        if self.rule.pivot == "random":
            return int(np.random.default_rng(self.seed).integers(len(places)))
        assert self.shape.recorded is not None
        rows = self.shape.recorded.class_attention()
        order = np.searchsorted(np.flatnonzero(self.visual), places)
        return int(rows[max(rows)].astype(np.float64).mean(axis=0)[order].argmax())


def text_tokens(shape: Shape) -> NDArray[np.bool_]:
    """Tokens of the prompt that are text and no system prompt, [tokens]."""
    kinds = shape.token_type
    assert kinds is not None, "the rule has image tokens"
    place = np.arange(shape.tokens)
    found: NDArray[np.bool_] = (kinds == TEXT) & (place < shape.prompt_tokens)
    if not (kinds == SYSTEM).any():
        found &= place > int(np.flatnonzero(visual_tokens(shape))[0])
    return found


def share(
    prompt: Prompt,
    rows: NDArray[np.int64],
    keys: NDArray[np.int64],
    alive: NDArray[np.int64],
) -> tuple[float, int]:
    """Of what some queries give, the part that some keys receive, over all heads.

    Args:
        prompt: of the layer.
        rows: positions of the queries.
        keys: positions of the keys, among those that are left.
        alive: positions of the keys that are left, ascending.

    Returns:
        The part, and how many of these probabilities a head has.
    """
    there = np.isin(alive, keys)
    received, given, count = 0.0, 0.0, 0
    heads = len(prompt.query)
    step = max(_AT_ONCE // (heads * len(alive)), 1)
    for start in range(0, len(rows), step):
        part, seen = probabilities(prompt, rows[start : start + step], alive)
        received += float(part[:, :, there].sum())
        given += float(part.sum())
        count += int(seen[:, there].sum())
    return (received / given if given else 0.0), count
