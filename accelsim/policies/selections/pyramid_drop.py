"""PyramidDrop: image tokens in stages, ranked by the layer that comes next."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class PyramidDrop(Visual):
    """PyramidDrop (Xing et al., CVPR 2025, and its code).

    Score of an image token: probability that the last token of the prompt gives to it by the
    queries and keys of the layer of ``layers``, mean over the heads, before the layer runs. Budget:
    ``keep`` of the image tokens of the prompt, from that layer on.

    Asks of the hardware: a row of products with the keys of the next layer before it, a mean over
    heads and a top-k at each stage; queries, keys and values of fewer tokens from there on.
    """

    kind: Literal["pyramid_drop"]
    layers: tuple[Layers, ...] = (8, 16, 24)
    keep: tuple[Fraction, ...] = (0.5, 0.25, 0.125)
    before: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="once", updates=True, metadata=True)

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return PyramidDropSelector(self, shape, seed)


class PyramidDropSelector(VisualSelector):
    """One row of the next layer's attention."""

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """What the last token would give to each."""
        last = np.array([self.shape.prompt_tokens - 1])
        given, seen = probabilities(prompt, last, alive)
        found = given.mean(axis=0)[0][self.visual[alive]]
        return found, int(seen.sum()), len(found)
