"""How a recorded layer attends, as arrays that kernels take: what is seen, and what is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import NO_BIAS, NO_BITS, NO_SINKS, NO_STORED
from accelsim.attention.look import Look
from accelsim.errors import TraceError
from accelsim.traces import AttentionTrace, Bias, Layer


class Sight(NamedTuple):
    """Keys that some queries see.

    Attributes:
        first: first key of each query, [rows].
        end: one past the last, [rows].
        bits: [rows, bytes], which of them, eight to a byte, the lowest bit first; empty where all.
        some: [keys], those that some query sees; ``None`` where all are.
    """

    first: NDArray[np.int64]
    end: NDArray[np.int64]
    bits: NDArray[np.uint8]
    some: NDArray[np.bool_] | None


def sight(
    trace: AttentionTrace, index: int, own: Layer, positions: NDArray[np.int64], context: int
) -> Sight:
    """Keys that queries of a layer see among the first ``context``.

    Args:
        trace: that holds the bits of a stored mask.
        index: of the layer.
        own: the layer.
        positions: of the queries, ascending.
        context: keys that there are when they ask.

    Raises:
        TraceError: a query that sees no key.
    """
    if own.mask.kind == "stored":
        first, end = np.zeros_like(positions), np.full_like(positions, context)
        bits = np.ascontiguousarray(trace.mask_bits(index)[positions])
        some = np.bitwise_or.reduce(bits, axis=0) if len(bits) else np.zeros(0, dtype=np.uint8)
        seen = np.unpackbits(some, count=context, bitorder="little").astype(np.bool_)
        head, rest = bits[:, : context // 8], bits[:, context // 8 : -(-context // 8)]
        rest = rest & np.uint8((1 << context % 8) - 1)
        if not (head.any(axis=1) | rest.any(axis=1)).all():
            raise TraceError(f"{trace.path}: layer {index}: a query sees no key; expected one")
        return Sight(first, end, bits, seen)
    if own.mask.kind == "causal":
        end = positions + 1
        whole = len(end) and end[-1] == context
        some = None if whole else np.arange(context) < (end[-1] if len(end) else 0)
        return Sight(np.zeros(len(end), dtype=np.int64), end, NO_BITS, some)
    first = own.mask.first(positions)
    end = np.minimum(own.mask.end(positions, own.keys), context)
    steps = np.zeros(context + 1, dtype=np.int64)
    np.add.at(steps, first, 1)
    np.add.at(steps, end, -1)
    return Sight(first, end, NO_BITS, np.cumsum(steps)[:context] > 0)


def stored_bias(
    trace: AttentionTrace, index: int, own: Layer, positions: NDArray[np.int64], context: int
) -> NDArray[np.float32]:
    """What is added to the capped scores of some queries, [query_heads, rows, context].

    Args:
        trace: that holds a stored bias.
        index: of the layer.
        own: the layer.
        positions: of the queries.
        context: keys that there are when they ask.

    Returns:
        Empty where the layer has no stored bias.

    Raises:
        TraceError: it holds NaN or infinity.
    """
    if own.bias is None or own.bias.kind != "stored":
        return NO_STORED
    found = trace.bias(index, positions, 0, context)
    assert found is not None
    if not np.isfinite(found).all():
        raise TraceError(
            f"{trace.path}: tensor 'layer.{index}.bias' holds NaN or infinity; "
            "expected finite numbers"
        )
    return np.ascontiguousarray(found, dtype=np.float32)


def score_biases(trace: AttentionTrace, layers: Sequence[Layer]) -> list[NDArray[np.float64]]:
    """What each layer adds to its capped scores by distance, [query_heads, distances] each.

    The middle one is for a key at the query's own position, the next for the key after it. Empty
    where nothing is added by distance; layers that add the same slopes share one array.
    """
    made: dict[Bias, NDArray[np.float64]] = {}
    found = []
    for index, own in enumerate(layers):
        if own.bias is None or own.bias.kind == "stored":
            found.append(NO_BIAS)
            continue
        # Of the last query; as far behind it as there are tokens before.
        added = trace.bias(index, np.array([own.tokens - 1]), 0, 2 * own.tokens - 1)
        assert added is not None
        row = np.ascontiguousarray(added[:, 0])
        found.append(made.setdefault(own.bias, row) if own.bias.kind == "alibi" else row)
    return found


class Looks:
    """How queries of a trace attend, for selectors: of a decoder, or of an encoder.

    Args:
        trace: of one stack.
    """

    def __init__(self, trace: AttentionTrace) -> None:
        self._trace = trace
        self._own = [trace.layer(index) for index in range(trace.num_layers)]
        self._bias = score_biases(trace, self._own)
        self.decodes = trace.causal or trace.decode_tokens > 0

    def ends(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """One past the last key that queries may see, [rows]; ``None``: their own, or all."""
        trace, mask = self._trace, self._own[layer].mask
        if not self.decodes or trace.causal or mask.backward:
            return None
        prompt = trace.prefill_tokens
        if mask.kind == "prefix":
            return mask.end(positions, trace.tokens)
        return np.where(positions < prompt, prompt, positions + 1)

    def __call__(
        self, layer: int, positions: NDArray[np.int64], context: int | None = None
    ) -> Look:
        """How queries attend.

        Args:
            layer: where.
            positions: of the queries, ascending.
            context: columns of what depends on the key; up to the last end if ``None``.

        Raises:
            TraceError: a query that sees no key, or a stored bias that is not finite.
        """
        trace, own = self._trace, self._own[layer]
        ends = self.ends(layer, positions)
        if context is None:
            last = positions[-1:] + 1 if self.decodes else np.array([trace.tokens])
            context = int((last if ends is None else ends).max(initial=0))
        whole = ("causal", "prefix") if self.decodes else ("full",)
        hidden = None
        if own.mask.kind not in whole:
            seen = trace.seen(layer, positions)
            if not seen.any(axis=1).all():
                raise TraceError(f"{trace.path}: layer {layer}: a query sees no key; expected one")
            hidden = ~seen[:, :context]
        return Look(
            hidden,
            own.softcap or 0.0,
            self._bias[layer],
            stored_bias(trace, layer, own, positions, context),
            NO_SINKS if own.sinks is None else own.sinks,
            ends,
        )
