"""DART: image tokens that are least like a few pivots."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.attention.topk import topk_engine
from accelsim.policies._base import Fraction, Layers, Positive
from accelsim.policies._selection import Needs
from accelsim.policies.selections._prompt import Cost, add_search
from accelsim.policies.selections._visual import Visual, VisualTokens, missing_tensor, unit_vectors
from accelsim.policies.selector import Floats, Prompt, Selector, Shape


class DART(Visual):
    """Duplication-aware reduction (Wen et al., EMNLP 2025; its code in LightCompress).

    Pivots: the ``pivots`` image tokens and as many tokens behind the images whose keys of the layer
    before (all KV heads together) have the largest sum of magnitudes. Each pivot in turn, those of
    the images first, takes the image tokens not taken yet that are least like it by the cosine of
    what the layer of ``layers`` is given, under the model's last norm. Budget: the image pivots,
    and ``keep`` of the image tokens in equal parts, rounded down, one for each pivot.

    Asks of the hardware: sums of magnitudes of the keys of a prompt, and two top-ks; a top-k for
    each pivot (cosines are not charged); queries, keys and values of fewer tokens from there on.

    Attributes:
        pivots: of the images, and of the text.
    """

    kind: Literal["dart"]
    layers: tuple[Layers, ...] = (5,)
    keep: tuple[Fraction, ...] = (0.2222,)
    pivots: Positive = 4
    before: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(selection="once", metadata=True)

    def count(self, keep: float, tokens: int) -> int:
        """Image tokens that are left: pivots, and what each pivot takes."""
        return min(self.pivots, tokens) + 2 * self.pivots * (
            super().count(keep, tokens) // (2 * self.pivots)
        )

    def missing(self, shape: Shape) -> str:
        """Say what is missing, the vectors that are compared among it, or return nothing."""
        explain = super().missing(shape)
        if explain:
            return explain
        if self.layers[0] == 0:
            return f"policy '{self.kind}' ranks by keys of the layer before; expected no layer 0"
        for layer in self.layers:
            if shape.recorded is None or shape.recorded.hidden(layer) is None:
                return missing_tensor(
                    self.kind, f"layer.{layer}.hidden", f" (capture --hidden {layer})"
                )
        return ""

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return DARTSelector(self, shape, seed)


class DARTSelector(VisualTokens):
    """Pivots by their keys, the others by how little they are like them."""

    rule: DART

    def __init__(self, rule: DART, shape: Shape, seed: int = 0) -> None:
        super().__init__(rule, shape, seed)
        self._keys: NDArray[Any] | None = None

    def foresee(self, prompt: Prompt) -> None:
        """Choose where the layer does, and remember the keys for the next one."""
        super().foresee(prompt)
        wanted = prompt.layer + 1 in self.rule.layers
        self._keys = prompt.key[:, : self.shape.prompt_tokens].copy() if wanted else None

    def choose(
        self, prompt: Prompt, target: int, alive: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Cost]:
        """Let each pivot take its part."""
        recorded, rule = self.shape.recorded, self.rule
        assert recorded is not None
        assert self._keys is not None
        hidden = recorded.hidden(prompt.layer)
        assert hidden is not None
        places = alive[self.visual[alive]]
        asking = self.question[~self.visual[self.question]]
        size = np.abs(self._keys.astype(np.float64)).sum(axis=(0, 2))
        work = np.zeros(1, dtype=WORK)
        seed = self.seed + prompt.layer * 977
        images = self._best(size[places], places, rule.pivots, seed, work)
        texts = self._best(size[asking], asking, rule.pivots, seed + 1, work)
        vectors = unit_vectors(hidden[: self.shape.prompt_tokens])
        left = places[~np.isin(places, images)]
        stay = list(images)
        each = (target - len(images)) // (2 * rule.pivots)
        for number, pivot in enumerate([*images, *texts]):
            taken = self._best(-(vectors[left] @ vectors[pivot]), left, each, seed + number, work)
            stay += taken
            left = left[~np.isin(left, taken)]
        return np.array(sorted(stay), dtype=np.int64), Cost(work, len(alive), 0)

    def _best(
        self,
        values: Floats,
        tokens: NDArray[np.int64],
        count: int,
        seed: int,
        work: NDArray[Any],
    ) -> list[int]:
        """Tokens of the largest values, the largest first; adds to the work."""
        if count < 1 or not len(tokens):
            return []
        order = np.argsort(-values, kind="stable")[:count]
        if count < len(tokens):
            top = topk_engine(values, count, seed)
            add_search(work[0], len(tokens), count, top)
        return [int(token) for token in tokens[order]]
