"""Focus: image tokens that any head of any question token looks at (semantic concentration)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class FocusSEC(Visual):
    """Semantic concentration of Focus (HPCA 2026, and its code), without its merging of vectors.

    Score of an image token: the largest probability that a head of a token behind the images gives
    to it in the layer of ``layers``. Budget: ``keep`` of the image tokens of the prompt, at least
    one, from the next layer on.

    Asks of the hardware: a running maximum per image token over rows and heads, a top-k at each
    stage; queries, keys and values of fewer tokens from there on.
    """

    kind: Literal["focus_sec"]
    layers: tuple[Layers, ...] = (3, 6, 9, 18, 26)
    keep: tuple[Fraction, ...] = (0.4, 0.3, 0.2, 0.15, 0.1)
    before: ClassVar[bool] = False
    at_least: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return FocusSECSelector(self, shape, seed)


class FocusSECSelector(VisualSelector):
    """The largest of the layer's own attention from the question."""

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """The most that a head of a question token gives to each."""
        rows = self.question
        given, _ = probabilities(prompt, rows, alive)
        found = given.max(axis=(0, 1))[self.visual[alive]]
        return found, 0, len(found) * len(rows)
