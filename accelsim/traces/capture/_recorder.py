"""What every model shares: the attention function it calls, and the recorder around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError

Floats = NDArray[np.floating[Any]]
"""Arrays of a model: float32, or float64 where its results must not depend on the machine."""

Attend = Callable[[int, Floats, Floats, Floats, NDArray[np.int64]], Floats]
"""``attend(layer, query, key, value, positions) -> output``.

query is [query_heads, new, head_dim]; key and value are [kv_heads, context, head_dim], one row for
each position from 0 on; positions [new] are those of the queries; output is shaped like query. A
policy that prunes or quantizes inside a running model is another such function.
"""

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``, called as the model runs."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def dense_attention(scale: float, causal: bool) -> Attend:
    """Return exact softmax attention, in the precision of its arguments.

    Args:
        scale: factor of the scores before the softmax.
        causal: whether a query sees only keys at its own position and before.
    """

    def attend(
        layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
    ) -> Floats:
        heads, new, head_dim = query.shape
        grouped = query.reshape(key.shape[0], -1, head_dim)
        scores = (grouped @ key.transpose(0, 2, 1)).reshape(heads, new, -1) * scale
        if causal:
            scores[:, np.arange(key.shape[1])[None, :] > positions[:, None]] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores, out=scores)
        weights /= weights.sum(axis=-1, keepdims=True)
        output = weights.reshape(key.shape[0], -1, key.shape[1]) @ value
        return np.asarray(output.reshape(heads, new, head_dim))

    return attend


class Recorder:
    """Keeps the queries, keys and values of chosen layers as a model runs.

    Args:
        layers: layers to keep, in order; kept as layer 0, 1, … of the trace.
        progress: called after each layer.
        total_calls: layer calls of the whole run, for the progress.
    """

    def __init__(self, layers: Sequence[int], progress: Progress, total_calls: int) -> None:
        self._index = {layer: i for i, layer in enumerate(layers)}
        self._parts: dict[str, list[Floats]] = {}
        self._progress = progress
        self._total = total_calls
        self._done = 0

    def around(self, attend: Attend) -> Attend:
        """Return ``attend``, recorded."""

        def recorded(
            layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
        ) -> Floats:
            self.add(layer, query, key[:, positions], value[:, positions])
            return attend(layer, query, key, value, positions)

        return recorded

    def add(self, layer: int, query: Floats, key: Floats, value: Floats) -> None:
        """Keep the rows of the new tokens of one layer, each [heads, new, head_dim]."""
        if layer in self._index:
            for kind, rows in (("query", query), ("key", key), ("value", value)):
                name = f"layer.{self._index[layer]}.{kind}"
                self._parts.setdefault(name, []).append(np.array(rows, dtype=np.float32))
        self._done += 1
        self._progress("decode" if query.shape[1] == 1 else "prefill", self._done, self._total)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All that was recorded: ``layer.{i}.query`` and so on, [heads, tokens, head_dim]."""
        return {name: np.concatenate(parts, axis=1) for name, parts in self._parts.items()}


def choose_layers(layers: Sequence[int] | None, num_layers: int, model: str) -> list[int]:
    """Return the layers to record: all, or a checked, sorted choice.

    Raises:
        TraceError: an empty choice, or a layer that the model does not have.
    """
    if layers is None:
        return list(range(num_layers))
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= num_layers:
        raise TraceError(f"{model}: layers {chosen}: expected some of 0 to {num_layers - 1}")
    return chosen
