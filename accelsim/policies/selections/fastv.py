"""FastV: image tokens that the last token looks at."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class FastV(Visual):
    """FastV (Chen et al., ECCV 2024, section 4.1, and its code).

    Score of an image token: probability that the last token of the prompt gives to it in the layer
    of ``layers``, mean over the heads. Budget: ``keep`` of the image tokens, from the next layer
    on. The paper's K = 2 is ``layers: [1]``: two layers see everything, counted from 0.

    Asks of the hardware: a mean over heads of one row of probabilities, a top-k, once; queries,
    keys and values of fewer tokens from there on.
    """

    kind: Literal["fastv"]
    layers: tuple[Layers, ...] = (1,)
    keep: tuple[Fraction, ...] = (0.5,)
    before: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return FastVSelector(self, shape, seed)


class FastVSelector(VisualSelector):
    """One row of the layer's own attention."""

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """What the last token gives to each."""
        last = np.array([self.shape.prompt_tokens - 1])
        given, _ = probabilities(prompt, last, alive)
        found = given.mean(axis=0)[0][self.visual[alive]]
        return found, 0, len(found)
