"""Linear symmetric quantization and the split into MSB and LSB planes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.policies import ProgressiveQuantization, StaticQuantization

Scale = Literal["per_tensor", "per_token"]


def scales(tensor: NDArray[np.float32], largest: int, scale: Scale) -> NDArray[np.float64]:
    """Step size that maps the largest magnitude to ``largest``; [1, 1, 1] or [heads, tokens, 1]."""
    axis = None if scale == "per_tensor" else 2
    top = np.max(np.abs(tensor), axis=axis, keepdims=True).astype(np.float64)
    return np.where(top > 0, top, 1.0) / largest


def quantize(tensor: NDArray[np.float32], bits: int, scale: Scale) -> NDArray[np.float32]:
    """Quantize to ``bits`` and back; [heads, tokens, dim] float32 in and out."""
    largest = (1 << (bits - 1)) - 1
    step = scales(tensor, largest, scale)
    return (np.rint(tensor / step) * step).astype(np.float32)


def split_planes(
    codes: NDArray[np.int64], lsb_bits: int, how: Literal["round", "truncate"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split integer codes into planes with ``codes == (msb << lsb_bits) + lsb``.

    ``round``: the first plane is the nearest, the second signed. ``truncate``: bits are cut off,
    and the second plane is not negative.
    """
    offset = 1 << (lsb_bits - 1) if how == "round" else 0
    msb = (codes + offset) >> lsb_bits
    return msb, codes - (msb << lsb_bits)


def key_planes(
    keys: NDArray[np.float32], quantization: StaticQuantization | ProgressiveQuantization
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return keys as seen after the first fetch, and after both; the same array if static."""
    if isinstance(quantization, StaticQuantization):
        once = quantize(keys, quantization.key_bits, quantization.scale)
        return once, once
    lsb_bits = quantization.lsb_bits
    # The largest code that both planes can hold: rounding must not overflow the first plane.
    largest = (((1 << (quantization.msb_bits - 1)) - 1) << lsb_bits) + (1 << (lsb_bits - 1)) - 1
    step = scales(keys, largest, quantization.scale)
    codes = np.rint(keys / step).astype(np.int64)
    msb, _ = split_planes(codes, lsb_bits, quantization.split)
    coarse = ((msb << lsb_bits) * step).astype(np.float32)
    return coarse, (codes * step).astype(np.float32)
