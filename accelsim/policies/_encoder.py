"""What rules of an encoder share: a pruned token has no query any more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.policies.selector import Block, Decision, Selector, Shape


class EncoderSelector(Selector):
    """Keeps which tokens are alive; all heads of a layer share them."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.alive: NDArray[np.bool_] = np.ones(shape.tokens, dtype=np.bool_)

    def rows(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions whose token is alive."""
        return positions[self.alive[positions]]

    def attended(self, block: Block) -> Decision:
        """Attend to the living tokens."""
        decision = Decision.empty(block, self.shape.num_kv_heads)
        decision.kept[:] = self.alive[: block.scores.shape[2]]
        return decision
