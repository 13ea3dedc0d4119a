"""KIVI-style quantization of the cache."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Channels, Count, Positive
from accelsim.policies.quantization import SCALE_BYTES, ByLayerWidths, Mask


class KiviQuantization(ByLayerWidths):
    """Asymmetric quantization as in KIVI (Liu et al., ICML 2024).

    Keys are quantized per channel over groups of ``group_tokens`` tokens, values per token over
    groups of ``group_channels`` elements. The newest ``residual_tokens`` are read in full precision
    (12 bit here, the width of the multipliers); keys leave the residual a whole group at a time.
    The prompt attends in full precision and is quantized as it enters the cache.

    Asks of the hardware: a scale and a zero point of 16 bits each read per group (metadata), a
    converter with an offset, and two precisions in one fetch.

    Attributes:
        key_bits: bits of a quantized key element.
        value_bits: bits of a quantized value element.
        group_tokens: tokens that share a scale of a key channel.
        group_channels: elements of a value that share a scale.
        residual_tokens: newest tokens in full precision.
        key_bits_by_layer: bits of a key element in every layer, instead of ``key_bits``.
        value_bits_by_layer: bits of a value element in every layer, instead of ``value_bits``.
    """

    kind: Literal["kivi"]
    key_bits: Literal[2, 4, 8] = 4
    value_bits: Literal[2, 4, 8] = 4
    group_tokens: Positive = 32
    group_channels: Channels = 32
    residual_tokens: Count = 128
    key_bits_by_layer: tuple[Literal[2, 4, 8], ...] | None = None
    value_bits_by_layer: tuple[Literal[2, 4, 8], ...] | None = None

    @property
    def full_bits(self) -> int:
        """Bits of an element in the residual: the width of SpAtten's multipliers."""
        return 12

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale and a zero point, 16 bits each (half precision, as in KIVI's code)."""
        return 4

    def quantized_keys(self, context_tokens: int) -> int:
        """Keys of a context, from the first, that are read quantized: whole groups."""
        return (
            max(context_tokens - self.residual_tokens, 0) // self.group_tokens * (self.group_tokens)
        )

    def quantized_values(self, context_tokens: int) -> int:
        """Values of a context, from the first, that are read quantized."""
        return max(context_tokens - self.residual_tokens, 0)

    def beside(
        self,
        keys: Mask,
        values: Mask,
        contexts: NDArray[np.int64],
        decoding: bool,
        head_dim: int,
        value_dim: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Scales and zero points, and the residual beyond the narrow width; as of the others."""
        value_dim = head_dim if value_dim is None else value_dim
        kv_heads, rows, tokens = keys.shape
        ends = contexts.tolist() if decoding else [0] * rows
        token = np.arange(tokens)
        old_keys = keys & (token < np.array([[self.quantized_keys(n)] for n in ends]))
        old_values = values & (token < np.array([[self.quantized_values(n)] for n in ends]))
        groups = -(-tokens // self.group_tokens)
        filled = np.zeros((kv_heads, rows, groups * self.group_tokens), dtype=np.bool_)
        filled[..., :tokens] = old_keys
        grouped = filled.reshape(kv_heads, rows, groups, self.group_tokens).any(axis=3)
        scales = grouped.sum(axis=2) * head_dim
        scales += old_values.sum(axis=2) * -(-value_dim // self.group_channels)
        recent_keys = keys.sum(axis=2) - old_keys.sum(axis=2)
        recent_values = values.sum(axis=2) - old_values.sum(axis=2)
        residual = recent_keys * (self.full_bits - self.key_bits) * head_dim
        residual += recent_values * (self.full_bits - self.value_bits) * value_dim
        # A vector of the residual has one scale of its own.
        metadata = scales * self.scale_bytes + (recent_keys + recent_values) * SCALE_BYTES
        return metadata.astype(np.int64), (residual // 8).astype(np.int64)
