"""Forward pass of a Llama-architecture model in NumPy, with a key/value cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accelsim.traces.capture._recorder import Attend, Floats
from accelsim.traces.capture._shape import ModelShape, checked_ids


@dataclass(frozen=True)
class LlamaShape(ModelShape):
    """Hyper-parameters of a Llama-architecture model.

    Attributes:
        rope_base: base of the wavelengths of the rotary position embedding.
        norm_epsilon: added to the mean square in the RMS normalization.
        rope_factor: what positions are divided by before the rotation (linear scaling).
    """

    rope_base: float
    norm_epsilon: float
    rope_factor: float = 1.0


@dataclass
class KVCache:
    """Keys and values of all layers up to the current position."""

    keys: list[Floats] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)

    def extend(self, layer: int, key: Floats, value: Floats) -> tuple[Floats, Floats]:
        """Append the rows of new tokens to a layer and return all of its rows."""
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = np.concatenate([self.keys[layer], key], axis=1)
            self.values[layer] = np.concatenate([self.values[layer], value], axis=1)
        return self.keys[layer], self.values[layer]

    @property
    def tokens(self) -> int:
        """Tokens in the cache."""
        return self.keys[0].shape[1] if self.keys else 0


class Llama:
    """A Llama-architecture model with its weights.

    Args:
        shape: hyper-parameters.
        weights: GGUF names to float arrays [out, in]; the rows of ``attn_q`` and ``attn_k`` in
            Hugging Face order, where rotation pairs element i with i + head_dim / 2. Their type,
            float32 or float64, is that of the whole computation.
    """

    def __init__(self, shape: LlamaShape, weights: Mapping[str, Floats]) -> None:
        self.shape = shape
        self._weights = weights

    def forward(
        self, token_ids: Sequence[int], cache: KVCache, attend: Attend, last_only: bool = True
    ) -> Floats:
        """Run new tokens through the model.

        Args:
            token_ids: the new tokens, which follow those in the cache.
            cache: extended in place.
            attend: attention of one layer.
            last_only: return the logits of the last token only.

        Returns:
            Logits [1 or new, vocabulary].

        Raises:
            TraceError: token ids outside the vocabulary, or more tokens than the context holds.
        """
        shape, weights = self.shape, self._weights
        embedding = weights["token_embd.weight"]
        ids = checked_ids(token_ids, len(embedding), cache.tokens, shape)
        new = ids.size
        positions = np.arange(cache.tokens, cache.tokens + new)
        cosine, sine = (table.astype(embedding.dtype) for table in _rotation(shape, positions))
        hidden = embedding[ids]
        for layer in range(shape.num_layers):
            block = f"blk.{layer}."
            normed = self._norm(hidden, block + "attn_norm.weight")

            def heads(name: str, x: Floats = normed, block: str = block) -> Floats:
                rows = x @ weights[f"{block}attn_{name}.weight"].T
                return rows.reshape(new, -1, shape.head_dim).transpose(1, 0, 2)

            query = _rotate(heads("q"), cosine, sine)
            key, value = cache.extend(layer, _rotate(heads("k"), cosine, sine), heads("v"))
            output = attend(layer, query, key, value, positions)
            flat = output.transpose(1, 0, 2).reshape(new, -1)
            hidden = hidden + flat @ weights[block + "attn_output.weight"].T
            normed = self._norm(hidden, block + "ffn_norm.weight")
            gate = normed @ weights[block + "ffn_gate.weight"].T
            up = normed @ weights[block + "ffn_up.weight"].T
            hidden = hidden + (_silu(gate) * up) @ weights[block + "ffn_down.weight"].T
        hidden = self._norm(hidden[-1:] if last_only else hidden, "output_norm.weight")
        # Embeddings are tied when the file has no output matrix.
        return np.asarray(hidden @ weights.get("output.weight", embedding).T)

    def greedy(
        self, prompt: Sequence[int], steps: int, attend: Attend, cache: KVCache | None = None
    ) -> list[int]:
        """Run the prompt, then ``steps`` decoding steps of the most probable token.

        Returns:
            The prompt and the ``steps`` tokens that were fed back. End-of-text does not stop it.
        """
        cache = KVCache() if cache is None else cache
        token_ids = list(prompt)
        logits = self.forward(token_ids, cache, attend)
        for _ in range(steps):
            token_ids.append(int(logits[-1].argmax()))
            logits = self.forward(token_ids[-1:], cache, attend)
        return token_ids

    def _norm(self, x: Floats, name: str) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return np.asarray(x / np.sqrt(mean_square + self.shape.norm_epsilon) * self._weights[name])


def _silu(x: Floats) -> Floats:
    # exp(-|x|) cannot overflow; both branches are x * sigmoid(x).
    small = np.exp(-np.abs(x))
    return np.asarray(x * np.where(x >= 0, 1 / (1 + small), small / (1 + small)))


def _rotation(shape: LlamaShape, positions: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Cosines and sines of the rotary embedding, each [new, head_dim] float64."""
    half = np.arange(0, shape.head_dim, 2) / shape.head_dim
    angles = positions[:, None] / shape.rope_factor * shape.rope_base**-half
    angles = np.concatenate([angles, angles], axis=-1)
    return np.cos(angles), np.sin(angles)


def _rotate(x: Floats, cosine: Floats, sine: Floats) -> Floats:
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return np.asarray(x * cosine + turned * sine)
