"""Zero-TPrune: page rank over attention, then similarity."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from accelsim.policies._base import ROUNDING_GUARD, Count, Fraction, Iterations, Ratio
from accelsim.policies._selection import Needs, SelectionPart


class ZeroTPrune(SelectionPart):
    """Zero-TPrune (Wang et al., CVPR 2024): training-free token pruning of an encoder.

    I-stage: the attention matrix of a layer, mean over its heads, is a graph; ``s <- A^T s`` is
    repeated to convergence and the tokens of lowest ``s`` leave. S-stage: the remaining tokens are
    split into two groups by rank, and the tokens of the second group most similar (cosine) to one
    of the first leave. Both run after the layers in ``after_layers`` and cascade to later ones;
    the first ``protect_first`` tokens stay.

    Asks of the hardware: the L x L matrix kept, repeated matrix-vector products, a sort, pairwise
    cosines.

    Attributes:
        keep_importance: fraction that the I-stage keeps.
        keep_similarity: fraction of the rest that the S-stage keeps.
        after_layers: fractions of the depth after which pruning takes place.
        protect_first: tokens that always stay ([CLS]).
        iterations: at most this many products.
        tolerance: stop when the summed change of the scores is below.
    """

    kind: Literal["zero_tprune"]
    keep_importance: Ratio = 0.9
    keep_similarity: Ratio = 0.9
    after_layers: tuple[Fraction, ...] = (0.25, 0.5, 0.75)
    protect_first: Count = 1
    iterations: Iterations = 30
    tolerance: Fraction = 1e-6
    needs: ClassVar[Needs] = Needs(score="graph", selection="every_layer", gather="tokens")
    encoder: ClassVar[bool] = True

    def prunes_after(self, layer: int, num_layers: int) -> bool:
        """Whether tokens leave between ``layer`` and the next one."""
        return any(
            layer + 1 == min(max(1, round(f * num_layers)), num_layers - 1)
            for f in self.after_layers
        )

    def budgets(self, tokens: int) -> tuple[int, int]:
        """Tokens kept by the I-stage, and by the S-stage after it."""
        first = max(1, math.ceil(self.keep_importance * tokens - ROUNDING_GUARD))
        return first, max(1, math.ceil(self.keep_similarity * first - ROUNDING_GUARD))
