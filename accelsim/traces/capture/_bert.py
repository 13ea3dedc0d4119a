"""Forward pass of a BERT-architecture encoder in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accelsim.jit import kernel
from accelsim.traces.capture._recorder import Attend, Floats
from accelsim.traces.capture._shape import ModelShape, checked_ids


@dataclass(frozen=True)
class BertShape(ModelShape):
    """Hyper-parameters of a BERT-architecture model.

    Attributes:
        norm_epsilon: added to the variance in the layer normalization.
    """

    norm_epsilon: float


class Bert:
    """A BERT-architecture encoder with its weights.

    Args:
        shape: hyper-parameters.
        weights: Hugging Face names (``embeddings.…``, ``encoder.layer.…``) to float arrays; their
            type, float32 or float64, is that of the whole computation.
    """

    def __init__(self, shape: BertShape, weights: Mapping[str, Floats]) -> None:
        self.shape = shape
        self._weights = weights

    def forward(self, token_ids: Sequence[int], attend: Attend) -> Floats:
        """Run one text through the encoder, all of it as segment 0 and without padding.

        Args:
            token_ids: the text, special tokens included.
            attend: attention of one layer.

        Returns:
            Hidden states after the last layer, [tokens, width].

        Raises:
            TraceError: token ids outside the vocabulary, or more tokens than positions.
        """
        shape, weights = self.shape, self._weights
        words = weights["embeddings.word_embeddings.weight"]
        ids = checked_ids(token_ids, len(words), 0, shape)
        positions = np.arange(ids.size)
        hidden = (
            words[ids]
            + weights["embeddings.token_type_embeddings.weight"][0]
            + weights["embeddings.position_embeddings.weight"][positions]
        )
        hidden = self._norm(hidden, "embeddings")
        for layer in range(shape.num_layers):
            block = f"encoder.layer.{layer}."

            def heads(name: str, x: Floats = hidden, block: str = block) -> Floats:
                rows = self._dense(x, f"{block}attention.self.{name}")
                return rows.reshape(ids.size, -1, shape.head_dim).transpose(1, 0, 2)

            output = attend(layer, heads("query"), heads("key"), heads("value"), positions)
            flat = output.transpose(1, 0, 2).reshape(ids.size, -1)
            mixed = self._dense(flat, block + "attention.output.dense")
            hidden = self._norm(hidden + mixed, block + "attention.output")
            inner = _gelu(self._dense(hidden, block + "intermediate.dense"))
            hidden = self._norm(
                hidden + self._dense(inner, block + "output.dense"), block + "output"
            )
        return hidden

    def _dense(self, x: Floats, name: str) -> Floats:
        return np.asarray(x @ self._weights[name + ".weight"].T + self._weights[name + ".bias"])

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        unit = centred / np.sqrt(variance + self.shape.norm_epsilon)
        weights = self._weights
        return np.asarray(
            unit * weights[name + ".LayerNorm.weight"] + weights[name + ".LayerNorm.bias"]
        )


_SQRT_HALF = math.sqrt(0.5)


@kernel
def _gelu(x: Floats) -> Floats:
    # BERT's exact form, with the error function (not its tanh approximation); NumPy has none.
    y = np.empty_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[i, j] = 0.5 * x[i, j] * (1.0 + math.erf(x[i, j] * _SQRT_HALF))
    return y
