"""Linear symmetric quantization of keys and values, and their bit planes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

ScaleOf = Literal["per_tensor", "per_token", "per_channel"]


def quantize(
    tensor: NDArray[Any], largest_code: int, scale: ScaleOf
) -> tuple[NDArray[np.int64], Float]:
    """Return integer codes and the scale that takes them back.

    Args:
        tensor: [heads, tokens, head_dim].
        largest_code: the code of the largest magnitude, e.g. 2047 for 12 bit.
        scale: one for the whole tensor, one per head and token, or one per head and channel.

    Returns:
        Codes [heads, tokens, head_dim] rounded to nearest (halves to even), and scales that
        broadcast against them; 1 where everything is zero.
    """
    wide = np.asarray(tensor, dtype=np.float64)
    step = _steps(_peaks(wide, scale), largest_code)
    codes = np.clip(np.rint(wide / step), -largest_code, largest_code)
    return codes.astype(np.int64), step


def _peaks(tensor: NDArray[Any], scale: ScaleOf) -> Float:
    """Largest magnitudes that share a scale; they broadcast against the tensor."""
    axis = {"per_tensor": None, "per_token": -1, "per_channel": 1}[scale]
    top, bottom = tensor.max(axis=axis, keepdims=True), tensor.min(axis=axis, keepdims=True)
    return np.asarray(np.maximum(top, -bottom), dtype=np.float64)


def _steps(peaks: Float, largest_code: int) -> Float:
    """Scales; 1 where everything is zero."""
    return np.where(peaks > 0, peaks / largest_code, 1.0)


def _read_back(tensor: NDArray[Any], largest_code: int, steps: Float) -> Float:
    # Codes as whole floats: a running model reads keys back at every step.
    # In place: a division that casts as it goes takes several times as long.
    codes = tensor.astype(np.float64)
    codes /= steps
    np.rint(codes, out=codes)
    np.clip(codes, -largest_code, largest_code, out=codes)
    codes *= steps
    return codes


def quantize_dequantize(tensor: NDArray[Any], bits: int, scale: ScaleOf) -> Float:
    """Return ``tensor`` as it reads back after static quantization to ``bits`` (float64)."""
    largest = 2 ** (bits - 1) - 1
    return _read_back(tensor, largest, _steps(_peaks(tensor, scale), largest))


class GrowingReadBack:
    """A tensor as it reads back after static quantization, while tokens are added to it.

    Equal to :func:`quantize_dequantize` of the whole; only what is new, or what a larger peak
    changes, is computed.

    Args:
        bits: width.
        scale: as of :func:`quantize`.
        dtype: of what is returned.
    """

    def __init__(self, bits: int, scale: ScaleOf, dtype: type[np.floating[Any]]) -> None:
        self._largest, self._scale, self._dtype = 2 ** (bits - 1) - 1, scale, dtype
        self._tokens = 0
        self._peaks: Float = np.zeros(())
        self._back: NDArray[Any] = np.empty((0, 0, 0), dtype=dtype)

    def of(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return it [heads, tokens, head_dim]; tokens of the last call come first, unchanged."""
        heads, tokens, dim = tensor.shape
        start = self._tokens
        if start == tokens:
            return self._back[:, :tokens]
        peaks = _peaks(tensor[:, start:], self._scale)
        if self._scale != "per_token":
            if start and (peaks <= self._peaks).all():
                peaks = self._peaks
            else:
                peaks = np.maximum(peaks, self._peaks) if start else peaks
                start = 0
            self._peaks = peaks
        if tokens > self._back.shape[1]:
            room = tokens + tokens // 4 if self._tokens else tokens
            grown = np.empty((heads, room, dim), dtype=self._dtype)
            if start:
                grown[:, :start] = self._back[:, :start]
            self._back = grown
        steps = _steps(peaks, self._largest)
        self._back[:, start:tokens] = _read_back(tensor[:, start:], self._largest, steps)
        self._tokens = tokens
        return self._back[:, :tokens]


def largest_progressive_code(msb_bits: int, lsb_bits: int, split: str) -> int:
    """Largest code whose two planes give it back exactly.

    Rounding moves up to half an LSB plane into the MSB plane, so the codes above
    ``MSB_max * 2^lsb + 2^(lsb-1) - 1`` would need an MSB plane that is one bit wider.
    """
    if split == "truncate":
        return int(2 ** (msb_bits + lsb_bits - 1) - 1)
    return int((2 ** (msb_bits - 1) - 1) * 2**lsb_bits + 2 ** (lsb_bits - 1) - 1)


def split_planes(
    codes: NDArray[np.int64], lsb_bits: int, split: Literal["round", "truncate"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut codes into planes with ``codes == msb * 2^lsb_bits + lsb``.

    ``round`` takes the nearest MSB (halves up) and leaves a signed LSB; ``truncate`` takes the
    upper bits of the two's complement code and leaves an unsigned one.
    """
    offset = 1 << (lsb_bits - 1) if split == "round" else 0
    msb = (codes + offset) >> lsb_bits
    return msb, codes - (msb << lsb_bits)


def progressive_planes(
    tensor: NDArray[Any],
    msb_bits: int,
    lsb_bits: int,
    split: Literal["round", "truncate"],
    scale: Literal["per_tensor", "per_token"],
) -> tuple[Float, Float]:
    """Return the tensor read from the MSB plane alone, and from both planes (float64)."""
    codes, step = quantize(tensor, largest_progressive_code(msb_bits, lsb_bits, split), scale)
    msb, lsb = split_planes(codes, lsb_bits, split)
    return (msb << lsb_bits) * step, ((msb << lsb_bits) + lsb) * step


def asymmetric(groups: NDArray[Any], bits: int, axis: int) -> Float:
    """Quantize to ``2^bits`` steps between the least and the largest along ``axis``; read back."""
    wide = np.asarray(groups, dtype=np.float64)
    low = wide.min(axis=axis, keepdims=True)
    step = (wide.max(axis=axis, keepdims=True) - low) / (2**bits - 1)
    step = np.where(step > 0, step, 1.0)
    return np.asarray(np.rint((wide - low) / step) * step + low, dtype=np.float64)


def kivi_keys(key: NDArray[Any], bits: int, group_tokens: int) -> Float:
    """Keys [heads, tokens, head_dim] read back per channel over groups of tokens.

    A last group that is not full is quantized over what it has; the residual hides it.
    """
    heads, tokens, dim = key.shape
    result = np.empty((heads, tokens, dim))
    for start in range(0, tokens, group_tokens):
        part = slice(start, start + group_tokens)
        result[:, part] = asymmetric(key[:, part], bits, axis=1)
    return result


def kivi_values(value: NDArray[Any], bits: int, group_channels: int) -> Float:
    """Values [heads, tokens, head_dim] read back per token over groups of elements."""
    result = np.empty(value.shape)
    for start in range(0, value.shape[2], group_channels):
        part = slice(start, start + group_channels)
        result[..., part] = asymmetric(value[..., part], bits, axis=-1)
    return result
