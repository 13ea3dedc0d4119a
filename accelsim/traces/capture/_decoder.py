"""Forward pass of decoders of Llama's kind in NumPy (Llama, Qwen2/3, Gemma 3), with a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.traces.capture._recorder import Attend, Floats
from accelsim.traces.capture._shape import ModelShape, checked_ids


@dataclass(frozen=True)
class DecoderShape(ModelShape):
    """Hyper-parameters of a decoder.

    Attributes:
        rope_base: base of the wavelengths of the rotary position embedding.
        norm_epsilon: added to the mean square in the RMS normalization.
        rope_factor: what positions are divided by before the rotation (linear scaling).
        window_rope_base: ``rope_base`` of layers with a window, whose positions are not divided;
            ``None``: as the others.
        activation: of the gate: ``silu``, or ``gelu`` in its form with tanh.
        embedding_scale: factor of the embeddings.
        query_scalar: scores are divided by its root; ``head_dim`` if ``None``.
    """

    rope_base: float
    norm_epsilon: float
    rope_factor: float = 1.0
    window_rope_base: float | None = None
    activation: Literal["silu", "gelu"] = "silu"
    embedding_scale: float = 1.0
    query_scalar: float | None = None

    @property
    def scale(self) -> float:
        """Factor of the scores before the softmax."""
        return float((self.query_scalar or self.head_dim) ** -0.5)


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


class Decoder:
    """A decoder with its weights.

    Args:
        shape: hyper-parameters.
        weights: GGUF names to float arrays [out, in]; the rows of ``attn_q`` and ``attn_k`` in
            Hugging Face order, where rotation pairs element i with i + head_dim / 2. What not all
            decoders have is used where it is given: biases of queries, keys and values,
            normalization of each query and key (``attn_q_norm``), and of what attention and
            feed-forward add (``post_attention_norm``, ``post_ffw_norm``). Their type, float32 or
            float64, is that of the whole computation.
    """

    def __init__(self, shape: DecoderShape, weights: Mapping[str, Floats]) -> None:
        self.shape = shape
        self._weights = weights

    def forward(
        self, token_ids: Sequence[int], cache: KVCache, attend: Attend, last_only: bool = True
    ) -> Floats:
        """Run new tokens through the model.

        Args:
            token_ids: the new tokens, which follow those in the cache.
            cache: extended in place.
            attend: attention of one layer; that of a layer with a window is given all keys.
            last_only: return the logits of the last token only.

        Returns:
            Logits [1 or new, vocabulary].

        Raises:
            TraceError: token ids outside the vocabulary, or more tokens than the context holds.
        """
        shape, weights = self.shape, self._weights
        embedding = weights["token_embd.weight"]
        ids = checked_ids(token_ids, len(embedding), cache.tokens, shape)
        positions = np.arange(cache.tokens, cache.tokens + ids.size)
        turns = _Rotations(shape, positions, embedding.dtype)
        hidden = embedding[ids]
        if shape.embedding_scale != 1.0:
            hidden = hidden * hidden.dtype.type(shape.embedding_scale)
        for layer in range(shape.num_layers):
            block = f"blk.{layer}."
            normed = self._norm(hidden, block + "attn_norm")
            query, key, value = (self._heads(normed, block, kind) for kind in "qkv")
            key, value = cache.extend(layer, turns.turned(layer, key), value)
            output = attend(layer, turns.turned(layer, query), key, value, positions)
            flat = output.transpose(1, 0, 2).reshape(ids.size, -1)
            added = flat @ weights[block + "attn_output.weight"].T
            hidden = hidden + self._norm_if_there(added, block + "post_attention_norm")
            normed = self._norm(hidden, block + "ffn_norm")
            gate = normed @ weights[block + "ffn_gate.weight"].T
            up = normed @ weights[block + "ffn_up.weight"].T
            gated = (_silu(gate) if shape.activation == "silu" else _gelu(gate)) * up
            added = gated @ weights[block + "ffn_down.weight"].T
            hidden = hidden + self._norm_if_there(added, block + "post_ffw_norm")
        hidden = self._norm(hidden[-1:] if last_only else hidden, "output_norm")
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

    def _heads(self, x: Floats, block: str, kind: str) -> Floats:
        """Queries, keys or values [heads, new, head_dim], before the rotation."""
        name = f"{block}attn_{kind}"
        rows = x @ self._weights[f"{name}.weight"].T
        bias = self._weights.get(f"{name}.bias")
        if bias is not None:
            rows = rows + bias
        split = rows.reshape(len(x), -1, self.shape.head_dim).transpose(1, 0, 2)
        return self._norm_if_there(split, f"{name}_norm")

    def _norm(self, x: Floats, name: str) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        root = np.sqrt(mean_square + self.shape.norm_epsilon)
        return np.asarray(x / root * self._weights[name + ".weight"])

    def _norm_if_there(self, x: Floats, name: str) -> Floats:
        return self._norm(x, name) if f"{name}.weight" in self._weights else x


class _Rotations:
    """Rotary position embedding of new tokens.

    Args:
        shape: bases and factor.
        positions: of the tokens, [new].
        dtype: of the result.
    """

    def __init__(self, shape: DecoderShape, positions: NDArray[np.int64], dtype: np.dtype) -> None:
        self._windows = shape.windows if shape.window_rope_base is not None else ()
        self._dtype = dtype
        self._whole = self._tables(shape.rope_base, positions / shape.rope_factor, shape.head_dim)
        self._near = self._whole
        if shape.window_rope_base is not None:
            self._near = self._tables(shape.window_rope_base, positions, shape.head_dim)

    def turned(self, layer: int, x: Floats) -> Floats:
        """Return vectors [heads, new, head_dim] of a layer, turned by their positions."""
        near = bool(self._windows) and self._windows[layer] is not None
        cosine, sine = self._near if near else self._whole
        half = x.shape[-1] // 2
        across = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return np.asarray(x * cosine + across * sine)

    def _tables(
        self, base: float, positions: NDArray[np.float64] | NDArray[np.int64], head_dim: int
    ) -> tuple[Floats, Floats]:
        """Cosines and sines, each [new, head_dim], of angles in float64."""
        half = np.arange(0, head_dim, 2) / head_dim
        angles = positions[:, None] * base**-half
        angles = np.concatenate([angles, angles], axis=-1)
        return np.cos(angles).astype(self._dtype), np.sin(angles).astype(self._dtype)


def _silu(x: Floats) -> Floats:
    # exp(-|x|) cannot overflow; both branches are x * sigmoid(x).
    small = np.exp(-np.abs(x))
    return np.asarray(x * np.where(x >= 0, 1 / (1 + small), small / (1 + small)))


def _gelu(x: Floats) -> Floats:
    # The approximation that Gemma was trained with ("gelu_pytorch_tanh").
    inner = x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return np.asarray(x.dtype.type(0.5) * x * (1 + np.tanh(inner)))
