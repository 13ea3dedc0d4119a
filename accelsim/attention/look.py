"""How query rows attend beyond causal softmax: what they see, and what changes their scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import NO_BIAS, NO_SINKS, NO_STORED


class Look(NamedTuple):
    """How rows attend.

    Attributes:
        hidden: [rows, context], tokens that a row does not see; ``None`` where it sees all before
            its end.
        softcap: c of ``c * tanh(score / c)``; 0 for none.
        bias: [query_heads, distances], added by the distance of a key from the query, 0 in the
            middle; empty for none.
        added: [query_heads, rows, context], added instead; empty for none.
        sinks: [query_heads], scores that take part in the softmax and have no value; empty for
            none.
        ends: [rows], one past the last key that a row may see; ``None``: its own token, or all of
            an encoder.
    """

    hidden: NDArray[np.bool_] | None = None
    softcap: float = 0.0
    bias: NDArray[np.float64] = NO_BIAS
    added: NDArray[np.float32] = NO_STORED
    sinks: NDArray[np.float64] = NO_SINKS
    ends: NDArray[np.int64] | None = None

    def apply(
        self,
        scores: NDArray[np.float64],
        positions: NDArray[np.int64],
        keys: NDArray[np.int64] | None = None,
    ) -> None:
        """Cap, add and hide, in place; what lies behind the ends is the caller's.

        Args:
            scores: [query_heads, rows, keys].
            positions: of the rows.
            keys: tokens that the columns stand for; all from the first on if ``None``.
        """
        if self.softcap > 0.0:
            scores[...] = self.softcap * np.tanh(scores / self.softcap)
        if len(self.bias):
            token = np.arange(scores.shape[2]) if keys is None else keys
            scores += self.bias[:, token[None, :] - positions[:, None] + self.bias.shape[1] // 2]
        if len(self.added):
            scores += self.added if keys is None else self.added[:, :, keys]
        if self.hidden is not None:
            scores[:, self.hidden if keys is None else self.hidden[:, keys]] = -np.inf

    @property
    def plain(self) -> bool:
        """Whether softmax over all up to the ends is all there is."""
        changed = self.softcap > 0.0 or len(self.bias) or len(self.added) or len(self.sinks)
        return self.hidden is None and not changed

    def sinks_of(self, heads: int) -> NDArray[np.float64]:
        """Sink of each query head, -inf where there is none."""
        return self.sinks if len(self.sinks) else np.full(heads, -np.inf)


PLAIN = Look()
"""Causal softmax, or full softmax of an encoder."""
