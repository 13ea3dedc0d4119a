"""ToDRE, first stage: image tokens that are least like those chosen before."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import COMPARATORS, WORK
from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import Cost
from accelsim.policies.selections._visual import (
    Visual,
    VisualTokens,
    missing_tensor,
    unit_vectors,
    visual_tokens,
)
from accelsim.policies.selector import Prompt, Selector, Shape


class ToDRE(Visual):
    """Diversity of ToDRE (arXiv 2505.18757 v2, section 4, first stage), in front of the model.

    The image token that [CLS] gives most to in the last layer of the vision tower, mean over heads,
    is the first; then, one after the other, the token whose cosines with all chosen ones add up to
    the least, by the embeddings that the language model is given. Budget: ``keep`` of the image
    tokens. Its second stage, which drops all image tokens in a late layer, is not here.

    Asks of the hardware: an arg-min over the tokens that are left for each that is chosen (cosines
    are not charged); queries, keys and values of fewer tokens.
    """

    kind: Literal["todre"]
    layers: tuple[Layers, ...] = (0,)
    keep: tuple[Fraction, ...] = (0.1,)
    before: ClassVar[bool] = True
    at_least: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(selection="once")

    def missing(self, shape: Shape) -> str:
        """Say what is missing, embeddings and [CLS] among it, or return an empty string."""
        explain = super().missing(shape)
        recorded = shape.recorded
        if explain:
            return explain
        if recorded is None or recorded.embedding is None:
            return missing_tensor(self.kind, "embedding")
        images = int(visual_tokens(shape).sum())
        rows = recorded.class_attention()
        if not rows or rows[max(rows)].shape[1] != images:
            return missing_tensor(self.kind, "vision.layer.i.cls", f" of {images} patches")
        return ""

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return ToDRESelector(self, shape, seed)


class ToDRESelector(VisualTokens):
    """Greedy, from the token that [CLS] looks at most."""

    def choose(
        self, prompt: Prompt, target: int, alive: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Cost]:
        """Add the least similar token until there are enough."""
        recorded = self.shape.recorded
        assert recorded is not None
        assert recorded.embedding is not None
        places = alive[self.visual[alive]]
        vectors = unit_vectors(recorded.embedding[places])
        rows = recorded.class_attention()
        order = np.searchsorted(np.flatnonzero(self.visual), places)
        first = int(rows[max(rows)].astype(np.float64).mean(axis=0)[order].argmax())
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
