"""Image tokens by a score that another program gave to them."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._selection import Needs
from accelsim.policies.selections._visual import Visual, VisualSelector, missing_tensor
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class VisualScore(Visual):
    """Rules whose score needs what a trace does not hold: vision encoders, training (imported).

    Score of an image token: the row of the layer of ``layers`` in the tensor ``score.NAME`` of the
    trace [layers, tokens]. Budget: ``keep`` of the image tokens of the prompt, from that layer on;
    layer 0 is in front of the language model. What making the score costs is not charged.

    Asks of the hardware: a score per image token read and a top-k at each stage; queries, keys and
    values of fewer tokens from there on.

    Attributes:
        score: NAME.
    """

    kind: Literal["visual_score"]
    score: str
    before: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="once", updates=True)

    def missing(self, shape: Shape) -> str:
        """Say what is missing, the score among it, or return an empty string."""
        explain = super().missing(shape)
        if explain or self.score in shape.scores:
            return explain
        known = ", ".join(sorted(shape.scores)) or "none"
        return missing_tensor(self.kind, f"score.{self.score}", f", has {known}")

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return VisualScoreSelector(self, shape, seed)


class VisualScoreSelector(VisualSelector):
    """A row of a tensor."""

    rule: VisualScore

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """The imported score of each."""
        found = self.shape.scores[self.rule.score][prompt.layer][alive][self.visual[alive]]
        return np.asarray(found, dtype=np.float64), 0, len(found)
