"""TransPrune: image tokens that layers change, and that the question looks at."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, Layers
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import probabilities
from accelsim.policies.selections._visual import Visual, VisualSelector, missing_tensor
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class TransPrune(Visual):
    """TransPrune (CVPR 2026, and its code).

    Score of an image token: its transitions in the layers of ``accumulate`` so far, added up and
    normalised over the image tokens that are left, plus what the tokens behind the images give to
    it by the queries and keys of the layer of ``layers``, mean over heads and tokens, normalised
    likewise. Budget: ``keep`` of the image tokens of the prompt, from that layer on.

    A transition: for the attention and the FFN of a layer, the norm of the output over that of the
    input, times the softmax over the tokens that are left of one minus their cosine, both added.
    Norms and cosines are those of the trace, ``layer.{i}.transition``; where it has none, whole
    transitions are imported, ``score.NAME`` [layers, tokens].

    Asks of the hardware: norms and cosines of two modules in the layers of ``accumulate`` (not
    charged), products of the question with the keys of the next layer, a top-k at each stage;
    queries, keys and values of fewer tokens from there on.

    Attributes:
        score: NAME of the transitions, where they are imported.
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
        explain = super().missing(shape)
        if explain or self.score in shape.scores:
            return explain
        for layer in range(self.accumulate[0], min(self.accumulate[1], self.layers[-1] - 1) + 1):
            if shape.recorded is None or shape.recorded.transition(layer) is None:
                return missing_tensor(
                    self.kind, f"layer.{layer}.transition", f", or 'score.{self.score}'"
                )
        return ""

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return TransPruneSelector(self, shape, seed)


class TransPruneSelector(VisualSelector):
    """Transitions, and attention of the question."""

    rule: TransPrune

    def rank(self, prompt: Prompt, alive: NDArray[np.int64]) -> tuple[Floats, int, int]:
        """Both parts, of equal weight."""
        rule, visual = self.rule, self.visual[alive]
        first, last = rule.accumulate
        changes = [self._change(n, alive) for n in range(first, min(last + 1, prompt.layer))]
        found = _normalised(np.sum(changes, axis=0)[visual])
        if not rule.attention:
            return found, 0, len(found) * len(changes)
        rows = self.question
        given, seen = probabilities(prompt, rows, alive)
        found = found + _normalised(given.mean(axis=(0, 1))[visual])
        return found, int(seen.any(axis=0).sum()), len(found) * (len(changes) + len(rows))

    def _change(self, layer: int, alive: NDArray[np.int64]) -> Floats:
        """Transitions [alive] of a layer."""
        scores, recorded = self.shape.scores, self.shape.recorded
        if self.rule.score in scores:
            return np.asarray(scores[self.rule.score][layer][alive], dtype=np.float64)
        changes = None if recorded is None else recorded.transition(layer)
        assert changes is not None, "the selector was made"
        there = np.flatnonzero(self.alive(layer)[: self.shape.prompt_tokens])
        total = np.zeros(self.shape.prompt_tokens)
        for ratio, cosine in changes[:, there].astype(np.float64).transpose(0, 2, 1):
            weights = np.exp(1.0 - cosine)
            total[there] += ratio * weights / weights.sum()
        return total[alive]


def _normalised(values: Floats) -> Floats:
    return np.asarray(values / (values.sum() + 1e-8))
