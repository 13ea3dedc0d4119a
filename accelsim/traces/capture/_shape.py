"""What attention needs to know of any model, whatever its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import LayerEntry, Mask


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        num_layers: layers with attention.
        num_query_heads: query heads of a layer.
        num_kv_heads: key/value heads of a layer; divides ``num_query_heads``.
        head_dim: elements of one query, key or value vector.
        context_tokens: most tokens that the model has positions for.
        windows: newest keys that a query of each layer sees, its own included; ``None`` for all.
            Empty where no layer has a window.
        sinks: of each query head of each layer, a score that takes part in the softmax and has no
            value. Empty where no layer has any.
        both_ways: whether the queries of a prompt see later tokens of it.
    """

    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    context_tokens: int
    windows: tuple[int | None, ...] = field(default=(), kw_only=True)
    sinks: tuple[tuple[float, ...], ...] = field(default=(), kw_only=True)
    both_ways: bool = field(default=False, kw_only=True)

    @property
    def scale(self) -> float:
        """Factor of the scores before the softmax."""
        return float(self.head_dim**-0.5)

    def entries(self, tokens: int, layers: Sequence[int] | None = None) -> tuple[LayerEntry, ...]:
        """Return what a trace of so many tokens says of its layers: their windows.

        Args:
            tokens: of the trace.
            layers: recorded ones; all if ``None``.

        Returns:
            Empty where every query of them sees all before it.
        """
        chosen = range(self.num_layers) if layers is None else layers
        own = [self.windows[layer] if self.windows else None for layer in chosen]
        if all(window is None or window >= tokens for window in own):
            return ()
        return tuple(
            LayerEntry()
            if window is None or window >= tokens
            else LayerEntry(mask=Mask(kind="window", size=window, side="left"))
            for window in own
        )


def checked_ids(
    token_ids: Sequence[int], vocabulary: int, past: int, shape: ModelShape
) -> NDArray[np.int64]:
    """Return token ids as an array.

    Args:
        token_ids: the new tokens of a forward pass.
        vocabulary: number of tokens that the model knows.
        past: tokens before them.
        shape: the model.

    Raises:
        TraceError: no tokens, an id outside the vocabulary, or more tokens than positions.
    """
    ids = np.asarray(token_ids, dtype=np.int64)
    if ids.ndim != 1 or ids.size == 0:
        raise TraceError("token ids: expected a list of at least one")
    if ids.min() < 0 or ids.max() >= vocabulary:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise TraceError(f"token id {wrong}: expected 0 to {vocabulary - 1} (the vocabulary)")
    if past + ids.size > shape.context_tokens:
        raise TraceError(
            f"{past + ids.size} tokens; expected at most {shape.context_tokens} "
            "(the model's positions)"
        )
    return ids
