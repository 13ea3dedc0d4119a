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


def dense_attention(scale: float, causal: bool, windows: Sequence[int | None] = ()) -> Attend:
    """Return exact softmax attention, in the precision of its arguments.

    Args:
        scale: factor of the scores before the softmax.
        causal: whether a query sees only keys at its own position and before.
        windows: newest keys that a query of each layer sees, its own included; ``None`` for all.
            Empty where no layer has a window.
    """

    def attend(
        layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
    ) -> Floats:
        heads, new, head_dim = query.shape
        grouped = query.reshape(key.shape[0], -1, head_dim)
        scores = (grouped @ key.transpose(0, 2, 1)).reshape(heads, new, -1) * scale
        place, own = np.arange(key.shape[1])[None, :], positions[:, None]
        if causal:
            scores[:, place > own] = -np.inf
        window = windows[layer] if windows else None
        if window is not None and window < key.shape[1]:
            scores[:, place <= own - window] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores, out=scores)
        weights /= weights.sum(axis=-1, keepdims=True)
        output = weights.reshape(key.shape[0], -1, key.shape[1]) @ value
        return np.asarray(output.reshape(heads, new, head_dim))

    return attend


class Recorder:
    """Keeps the queries, keys, values and attention outputs of chosen layers as a model runs.

    Args:
        layers: layers to keep, in order; kept as layer 0, 1, … of the trace.
        progress: called after each layer.
        total_calls: layer calls of the whole run, for the progress.
        tokens: of the whole run.

    Attributes:
        tensors: all that was recorded: ``layer.{i}.query`` and so on, [heads, tokens, head_dim]
            float32.
        outputs: what the model's own attention returned, [query_heads, tokens, value_dim] float32
            for each recorded layer.
    """

    def __init__(
        self, layers: Sequence[int], progress: Progress, total_calls: int, tokens: int
    ) -> None:
        self._index = {layer: i for i, layer in enumerate(layers)}
        self._progress = progress
        self._total = total_calls
        self._tokens = tokens
        self._done = 0
        self._filled: dict[str, int] = {}
        self.tensors: dict[str, NDArray[Any]] = {}
        self.outputs: dict[int, NDArray[np.float32]] = {}

    def around(self, attend: Attend) -> Attend:
        """Return ``attend``, recorded."""

        def recorded(
            layer: int, query: Floats, key: Floats, value: Floats, positions: NDArray[np.int64]
        ) -> Floats:
            output = attend(layer, query, key, value, positions)
            self.add(layer, query, key[:, positions], value[:, positions], output)
            return output

        return recorded

    def add(self, layer: int, query: Floats, key: Floats, value: Floats, output: Floats) -> None:
        """Keep the rows of the new tokens of one layer, each [heads, new, head_dim]."""
        index = self._index.get(layer)
        if index is not None:
            start = self._filled.get(f"layer.{index}", 0)
            end = start + query.shape[1]
            for kind, rows in (("query", query), ("key", key), ("value", value)):
                self._fill(self.tensors, f"layer.{index}.{kind}", rows, start, end)
            self._fill(self.outputs, index, output, start, end)
            self._filled[f"layer.{index}"] = end
        self._done += 1
        self._progress("decode" if query.shape[1] == 1 else "prefill", self._done, self._total)

    def _fill(self, into: dict[Any, Any], name: Any, rows: Floats, start: int, end: int) -> None:
        if name not in into:
            into[name] = np.empty((rows.shape[0], self._tokens, rows.shape[2]), dtype=np.float32)
        into[name][:, start:end] = rows


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
