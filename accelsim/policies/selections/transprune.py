"""TransPrune: image tokens that layers change, and that the question looks at."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class TransPrune(Visual):
    """TransPrune (CVPR 2026, and its code).

    Score of an image token: its transitions in the layers of ``accumulate`` so far, added up and
    normalised over the image tokens that are left, plus what the tokens behind the images give to
    it by the queries and keys of the layer of ``layers``, mean over heads and tokens, normalised
    likewise. Budget: ``keep`` of the image tokens of the prompt, from that layer on.

    A transition needs what a trace does not hold: for the attention and the FFN of a layer, the
    norm of the output over that of the input, times the softmax over the tokens of one minus their
    cosine, both added. It is imported: ``score.NAME`` [layers, tokens] of the trace.

    Asks of the hardware: norms and cosines of two modules in the layers of ``accumulate`` (not
    charged), products of the question with the keys of the next layer, a top-k at each stage;
    queries, keys and values of fewer tokens from there on.

    Attributes:
        score: NAME of the transitions.
        accumulate: layers whose transitions count, from the first up to the last of these.
        attention: whether the question counts, too.
    """

    kind: Literal["transprune"]
    score: str = "transition"
    layers: tuple[Layers, ...] = (7, 9, 12)
    keep: tuple[Fraction, ...] = (0.875, 0.625, 0.125)
    accumulate: tuple[Layers, Layers] = (6, 11)
    attention: bool = True
    before: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="once", updates=True, metadata=True)

    @pydantic.model_validator(mode="after")
    def _check_accumulate(self) -> TransPrune:
        if not self.accumulate[0] <= min(self.accumulate[1], self.layers[0] - 1):
            raise ValueError("expected 'accumulate' to begin before the first of 'layers'")
        return self

    def missing(self, shape: Shape) -> str:
        """Say what is missing, the transitions among it, or return an empty string."""
        return super().missing(shape) or missing_score(self.kind, self.score, shape)

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return TransPruneSelector(self, shape, seed)


class TransPruneSelector(VisualSelector):
    """Imported transitions, and attention of the question."""

    rule: TransPrune

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """Both parts, of equal weight."""
        rule, visual = self.rule, self.visual[alive]
        first, last = rule.accumulate
        changes = self.shape.scores[rule.score][first : min(last + 1, prompt.layer)]
        found = _normalised(changes.astype(np.float64).sum(axis=0)[alive][visual])
        if not rule.attention:
            return found, 0, len(found) * len(changes)
        rows = self.question
        given, seen = probabilities(prompt, rows, alive)
        found = found + _normalised(given.mean(axis=(0, 1))[visual])
        return found, int(seen.any(axis=0).sum()), len(found) * (len(changes) + len(rows))


def missing_score(kind: str, name: str, shape: Shape) -> str:
    """Say that a trace lacks an imported score, or return an empty string."""
    if name in shape.scores:
        return ""
    known = ", ".join(sorted(shape.scores)) or "none"
    return f"policy '{kind}' ranks by tensor 'score.{name}'; expected it in the trace, has {known}"


def _normalised(values: Floats) -> Floats:
    return np.asarray(values / (values.sum() + 1e-8))
