"""Static and progressive quantization of keys and values."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from accelsim.policies._base import Fraction, PolicyPart, of_layer

Bits = Literal[4, 6, 8, 10, 12]
"""Widths that SpAtten's converter takes (section III-D; RTL workload files)."""

Scale = Literal["per_tensor", "per_token"]

SCALE_BYTES = 2
"""A scale of 16 bits goes with every vector that has one of its own."""

Mask = NDArray[np.bool_]


class ByLayerWidths(PolicyPart):
    """A quantization whose widths may be lists, one width for each layer."""

    def at_layer(self, layer: int, num_layers: int) -> Self:
        """Return the quantization of one layer, with plain widths.

        Raises:
            ConfigError: a list for another number of layers.
        """
        changes: dict[str, object] = {}
        for name in type(self).model_fields:
            widths = getattr(self, name)
            if name.endswith("_by_layer") and widths is not None:
                width = of_layer(name, widths, layer, num_layers)
                changes |= {name: None, name.removesuffix("_by_layer"): width}
        return self.model_copy(update=changes) if changes else self

    def beside(
        self,
        keys: Mask,
        values: Mask,
        contexts: NDArray[np.int64],
        decoding: bool,
        head_dim: int,
        value_dim: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes that a fetch reads beside vectors of the nominal width.

        Args:
            keys: [kv_heads, rows, context], fetched.
            values: likewise.
            contexts: tokens so far, [rows].
            decoding: whether the rows follow a prompt; else they are one, or an encoder.
            head_dim: elements of a key.
            value_dim: elements moved for a value; those of a key if ``None``, 0 of a latent.

        Returns:
            Metadata (scales, zero points) and what full-width vectors read in excess, each
            [kv_heads, rows].
        """
        none = np.zeros(keys.shape[:2], dtype=np.int64)
        if getattr(self, "scale", "") != "per_token":
            return none, none
        vectors = values.sum(axis=2, dtype=np.int64) * (value_dim != 0)
        if getattr(self, "key_scale", None) != "per_channel":
            vectors += keys.sum(axis=2, dtype=np.int64)
        return vectors * SCALE_BYTES, none


class StaticQuantization(ByLayerWidths):
    """Linear symmetric quantization with one fetch (SpAtten, HPCA 2021, section III-D).

    Asks of the hardware: a converter from the stored width to the multipliers' 12 bits.

    Attributes:
        kind: ``static``.
        key_bits: bits of a key element.
        value_bits: bits of a value element.
        scale: one scale for the keys (values) of a layer, or one for each token and KV head.
        key_scale: ``per_channel``: keys have one scale for each channel and KV head instead. It is
            static, as that of a layer is, and multiplies the query, so that nothing is read for it.
        key_bits_by_layer: bits of a key element in every layer, instead of ``key_bits``.
        value_bits_by_layer: bits of a value element in every layer, instead of ``value_bits``.
    """

    kind: Literal["static"] = "static"
    key_bits: Bits = 12
    value_bits: Bits = 12
    scale: Scale = "per_tensor"
    key_scale: Literal["per_channel"] | None = None
    key_bits_by_layer: tuple[Bits, ...] | None = None
    value_bits_by_layer: tuple[Bits, ...] | None = None


class ProgressiveQuantization(ByLayerWidths):
    """Progressive quantization of keys (SpAtten, HPCA 2021, sections III-D and V-A).

    Scores come from the MSB plane; a row whose largest probability is below ``threshold`` fetches
    the LSB plane of all its keys and is computed again.

    Asks of the hardware: two DRAM regions, a maximum over each row, a second pass.

    Attributes:
        kind: ``progressive``.
        msb_bits: bits of the plane that is always fetched.
        lsb_bits: bits of the second plane; the released hardware has 4 only.
        threshold: largest probability below which a row is refetched; 0 never, typically 0.1.
        split: how the MSB plane is cut off the full code. ``round`` (to nearest) needs a signed LSB
            plane; ``truncate`` is what plain bit slicing gives, and much less accurate.
        scale: one scale for the keys (values) of a layer, or one for each token and KV head.
        value_bits: bits of a value element. Values are fetched once, at the width of the MSB plane
            unless given: the released workloads pair 8+4-bit keys with 8-bit values and 6+4-bit
            with 6-bit.
        msb_bits_by_layer: bits of the first plane in every layer, instead of ``msb_bits``.
        value_bits_by_layer: bits of a value element in every layer, instead of ``value_bits``.
    """

    kind: Literal["progressive"]
    msb_bits: Bits = 8
    lsb_bits: Literal[4] = 4
    threshold: Fraction = 0.1
    split: Literal["round", "truncate"] = "round"
    scale: Scale = "per_tensor"
    value_bits: Bits | None = None
    msb_bits_by_layer: tuple[Bits, ...] | None = None
    value_bits_by_layer: tuple[Bits, ...] | None = None

    @property
    def fetched_value_bits(self) -> int:
        """Bits of a value element as fetched."""
        return self.msb_bits if self.value_bits is None else self.value_bits
