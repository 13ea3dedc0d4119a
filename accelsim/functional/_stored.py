"""Keys and values as they are read back from memory, for query rows at given positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.quantization import (
    GrowingReadBack,
    kivi_keys,
    kivi_values,
    progressive_planes,
    quantize_dequantize,
)
from accelsim.policies import KiviQuantization, Policy, ProgressiveQuantization


def value_budgets(policy: Policy, num_layers: int, tokens: int) -> NDArray[np.int64]:
    """Values fetched for each number of surviving keys, [num_layers, tokens + 1].

    ``policy`` is that of one stage, as :meth:`Policy.at_stage` gives it.
    """
    counts = range(tokens + 1)
    rules = [policy.at_layer(layer, num_layers).values for layer in range(num_layers)]
    budgets = [list(counts) if v is None else [v.budget(n) for n in counts] for v in rules]
    return np.array(budgets, dtype=np.int64)


class Stored:
    """Keys and values of one layer.

    Args:
        policy: whose quantization applies, that of one stage and layer.
        key: [kv_heads, tokens, head_dim], as the model computed them.
        value: likewise.
        prompt_tokens: rows of the prompt read a KIVI cache in full precision.
        dtype: of the products; float32 inside a running model, float64 over a trace.
        before: the same of the tokens so far, where more have come since.
        latent: values are the first elements of the keys, as they are stored; not for KIVI.
    """

    def __init__(
        self,
        policy: Policy,
        key: NDArray[Any],
        value: NDArray[Any],
        prompt_tokens: int,
        dtype: type[np.floating[Any]] = np.float64,
        before: Stored | None = None,
        latent: bool = False,
    ) -> None:
        q = policy.quantization
        self._dtype, self._prompt = dtype, prompt_tokens
        self._kivi = q if isinstance(q, KiviQuantization) else None
        self._value_both: NDArray[Any] | None = None
        self.threshold = 0.0
        self._growing: tuple[GrowingReadBack, GrowingReadBack] | None = None
        if isinstance(q, ProgressiveQuantization):
            first, both = progressive_planes(key, q.msb_bits, q.lsb_bits, q.split, q.scale)
            if not latent:
                stored = quantize_dequantize(value, q.fetched_value_bits, q.scale)
            self.threshold = q.threshold
        elif isinstance(q, KiviQuantization):
            # The residual is 12 bit with a scale of its own per token; see KiviQuantization.
            both = quantize_dequantize(key, q.full_bits, "per_token")
            first = kivi_keys(key, q.key_bits, q.group_tokens)
            stored = kivi_values(value, q.value_bits, q.group_channels)
            self._value_full = quantize_dequantize(value, q.full_bits, "per_token").astype(dtype)
        else:
            if before is None or before._growing is None:
                self._growing = (
                    GrowingReadBack(q.key_bits, q.key_scale or q.scale, dtype),
                    GrowingReadBack(q.value_bits, q.scale, dtype),
                )
            else:
                self._growing = before._growing
            first = both = self._growing[0].of(key)
            if not latent:
                stored = self._growing[1].of(value)
        if latent:
            width = value.shape[2]
            stored = first[..., :width]
            if both is not first:
                self._value_both = both[..., :width].astype(dtype, copy=False)
        self.key_first = first.astype(dtype, copy=False)
        self.key_both = self.key_first if both is first else both.astype(dtype, copy=False)
        self.value = stored.astype(dtype, copy=False)

    def scores(
        self, query: NDArray[Any], positions: NDArray[np.int64], context: int, scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scaled scores [query_heads, rows, context]: first fetch, and both planes.

        The second is the first itself where there is nothing to fetch again.
        """
        first = self._product(query, self.key_first, context, scale)
        if self.key_both is self.key_first:
            return first, first
        both = self._product(query, self.key_both, context, scale)
        if self._kivi is None:
            return first, both
        quantized = self._quantized(positions, self._kivi.quantized_keys)
        old = np.arange(context)[None, :] < quantized[:, None]
        mixed = np.where(old, first, both)
        return mixed, mixed

    def output(
        self,
        weights: NDArray[np.float64],
        positions: NDArray[np.int64],
        refetched: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Multiply weights [query_heads, rows, context] with the values.

        Args:
            weights: zero where a value is not used.
            positions: [rows].
            refetched: [query_heads, rows], rows that fetched both planes.
        """
        context = weights.shape[2]
        if self._kivi is None:
            output = self._weighted(weights, self.value)
            if self._value_both is not None and refetched.any():
                both = self._weighted(weights, self._value_both)
                output = np.where(refetched[..., None], both, output)
            return output
        quantized = self._quantized(positions, self._kivi.quantized_values)
        old = np.arange(context)[None, :] < quantized[:, None]
        recent = self._weighted(np.where(old, 0.0, weights), self._value_full)
        return recent + self._weighted(np.where(old, weights, 0.0), self.value)

    def _quantized(self, positions: NDArray[np.int64], count: Any) -> NDArray[np.int64]:
        inside = positions < self._prompt
        return np.array(
            [0 if p else count(int(i) + 1) for i, p in zip(positions, inside, strict=True)]
        )

    def _product(
        self, query: NDArray[Any], key: NDArray[Any], context: int, scale: float
    ) -> NDArray[np.float64]:
        heads, rows, dim = query.shape
        grouped = (query.astype(self._dtype, copy=False) * self._dtype(scale)).reshape(
            len(key), -1, dim
        )
        scores = grouped @ key[:, :context].transpose(0, 2, 1)
        return np.asarray(scores.reshape(heads, rows, context), dtype=np.float64)

    def _weighted(self, weights: NDArray[Any], value: NDArray[Any]) -> NDArray[np.float64]:
        heads, rows, context = weights.shape
        grouped = weights.astype(self._dtype, copy=False).reshape(len(value), -1, context)
        output = grouped @ value[:, :context]
        return np.asarray(output.reshape(heads, rows, -1), dtype=np.float64)
