"""SpAtten's datapath to the bit: widths, scales and rounding of every stage.

The chain is that of SpAtten (HPCA 2021), sections IV-D to IV-G: 12-bit operands; query times keys;
dequantize, with 1/sqrt(D) in the scale; exponential by a 5th-order Taylor polynomial; accumulate;
divide; requantize to 12 bits; probabilities times values; 12-bit outputs. ``docs/fixed_point.md``
names the source of every width, and what is our assumption where the paper is silent.

:mod:`accelsim.functional.fixed_point_reference` is the meaning, in plain Python integers;
:mod:`accelsim.functional._fixed_kernels` is equal to it to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.quantization import largest_progressive_code, quantize, split_planes
from accelsim.errors import ConfigError, SimulationError, did_you_mean
from accelsim.policies import KiviQuantization, Policy, ProgressiveQuantization

Integers = NDArray[np.int64]
Rounding = Literal["nearest", "nearest-even", "floor"]

ROUNDINGS: tuple[Rounding, ...] = ("nearest", "nearest-even", "floor")
"""``nearest`` takes halves up (one adder), ``nearest-even`` halves to even, ``floor`` truncates."""

OPERAND_BITS = 12
"""Multiplier operands (SpAtten Table I: 512 x 12-bit multipliers)."""
PROBABILITY_ONE: int = 2 ** (OPERAND_BITS - 1) - 1
"""Code of probability 1: 12 bit, linear symmetric (SpAtten sections III-D and IV-F)."""
FRACTION_BITS = 28
"""Fraction bits of the exponential. Ours: the paper uses floating point, which has 24 bits; with
the largest score subtracted every exponential lies in 0 ... 1, where 28 fraction bits err less."""
MULTIPLIER_BITS = 24
"""Significant bits of the dequantization scale: those of a 32-bit float."""
RATIO_BITS = 16
"""Fraction bits of the ratio between the value scales of two tokens (per-token scales only)."""
TAYLOR_ORDER = 5
"""SpAtten section V-A."""
COEFFICIENTS = tuple(
    round(2**FRACTION_BITS / math.factorial(order)) for order in range(TAYLOR_ORDER + 1)
)
"""1/n! with ``FRACTION_BITS`` fraction bits."""
LN2 = round(math.log(2) * 2**FRACTION_BITS)
"""ln 2 with ``FRACTION_BITS`` fraction bits."""
INVERSE_LN2_BITS = 24
INVERSE_LN2 = round(2**INVERSE_LN2_BITS / math.log(2))
"""1/ln 2 with ``INVERSE_LN2_BITS`` fraction bits."""
EXPONENT_LIMIT = 32 << FRACTION_BITS
"""exp(-32) is zero in ``FRACTION_BITS`` fraction bits under every rounding."""
SCORE_LIMIT: int = 2**30 << FRACTION_BITS
"""Largest magnitude of a changed score, a bias or a sink, in ``FRACTION_BITS`` fraction bits."""
CAP_BITS = 29
"""Fraction bits of 2 / c of a soft cap c."""
CAP_FACTOR_BITS = 24
"""Fraction bits of c itself: those of a 32-bit float, which the products of the unit hold."""
MAX_SOFTCAP = 1024.0
"""Beyond this, 2 / c would have fewer than 20 significant bits."""
MAX_HEAD_DIM = 256
"""Beyond this, full-width sums might leave the published accumulator."""
MAX_KEYS = 1 << 17
"""Beyond this, the divider's numerators might leave 64-bit integers."""


@dataclass(frozen=True)
class Datapath:
    """Widths and rounding of the two matrix units and the softmax.

    Attributes:
        name: of the reading.
        source: where it is from.
        rounding: of dequantization, exponential, division and requantization.
        operand_bits: width of both multiplier operands and of the output.
        dropped_product_bits: low bits of each product that are cut off before the adder tree.
        accumulator_bits: width of a sum. The tree adds at full width and narrows once; where it
            wraps, that equals wrapping at every adder.
        overflow: what a sum does that does not fit.
        requantizes_output: the sum of probabilities times values is divided by the code of
            probability 1; otherwise the accumulator is the output.
    """

    name: str
    source: str
    rounding: Rounding = "nearest"
    operand_bits: int = OPERAND_BITS
    dropped_product_bits: int = 0
    accumulator_bits: int = 32
    overflow: Literal["saturate", "wrap"] = "saturate"
    requantizes_output: bool = True

    @property
    def score_scale(self) -> float:
        """A score accumulator in units of the query's step times the key's."""
        return float(2**self.dropped_product_bits)

    @property
    def output_scale(self) -> float:
        """An output code in units of the value's step."""
        if self.requantizes_output:
            return 1.0
        return float(2**self.dropped_product_bits) / PROBABILITY_ONE


DATAPATHS = {
    "published": Datapath(
        "published",
        "SpAtten (HPCA 2021) Table I, sections IV-E to IV-G: 12-bit multipliers, full-width sums. "
        "32-bit accumulators are ours; they never overflow up to 256 features.",
    ),
    "rtl": Datapath(
        "rtl",
        "Microarchitecture specification (docs/accelerators/spatten.md) section 2.9: products keep "
        "the top 12 of 24 bits, sums wrap in 12 bits. The released softmax is a wire; the "
        "published one stands in its place.",
        dropped_product_bits=12,
        accumulator_bits=12,
        overflow="wrap",
        requantizes_output=False,
    ),
}
"""Readings of the hardware, by name."""


def load_datapath(name: str = "published", rounding: str = "nearest") -> Datapath:
    """Return a reading of the datapath with one of the rounding modes.

    Raises:
        ConfigError: no such reading, or no such rounding.
    """
    for what, word, known in (
        ("datapath", name, list(DATAPATHS)),
        ("rounding", rounding, list(ROUNDINGS)),
    ):
        if word not in known:
            raise ConfigError(
                f"{what} '{word}': expected one of {', '.join(known)}{did_you_mean(word, known)}"
            )
    mode = next(r for r in ROUNDINGS if r == rounding)
    return replace(DATAPATHS[name], rounding=mode)


class Operands(NamedTuple):
    """A layer's tensors as the multipliers see them: 12-bit integers, and what they stand for.

    Attributes:
        query: [query_heads, tokens, head_dim].
        key_first: keys of the first fetch, at the top of the 12 bits, [kv_heads, tokens, head_dim].
        key_both: keys with both planes; the same array where there is one plane only.
        value: [kv_heads, tokens, value_dim].
        query_step: what one code of a query stands for; broadcasts against ``query``.
        key_step: the same of both key arrays.
        value_step: the same of ``value``.
        value_both: values of a row that fetched both planes; ``value`` but of a latent.
    """

    query: Integers
    key_first: Integers
    key_both: Integers
    value: Integers
    query_step: NDArray[np.float64]
    key_step: NDArray[np.float64]
    value_step: NDArray[np.float64]
    value_both: Integers


def operands(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    policy: Policy,
    latent: bool = False,
) -> Operands:
    """Quantize a layer's tensors as the policy (of one stage) says, to aligned 12-bit operands.

    Keys and values have the codes that :func:`accelsim.functional.run_policy` uses; narrower ones
    go to the top of the operand, as the bit-width converter puts them (SpAtten section IV-D).
    Queries have 12 bits.

    Of a ``latent`` the values are the first elements of the keys, with their codes and steps.

    Raises:
        ConfigError: two key planes that are wider than the multipliers together; keys with a scale
            for each channel that are values too.
    """
    q = policy.quantization
    if isinstance(q, KiviQuantization):
        raise ConfigError("policy: quantization 'kivi': the datapath takes symmetric codes only")
    top = 2 ** (OPERAND_BITS - 1) - 1
    if isinstance(q, ProgressiveQuantization):
        width, value_bits = q.msb_bits + q.lsb_bits, q.fetched_value_bits
        if width > OPERAND_BITS:
            raise ConfigError(
                f"policy: quantization: msb_bits {q.msb_bits} + lsb_bits {q.lsb_bits} = {width} "
                f"bits; the multipliers take {OPERAND_BITS}"
            )
        largest = largest_progressive_code(q.msb_bits, q.lsb_bits, q.split)
        both, key_step = quantize(key, largest, q.scale)
        first = split_planes(both, q.lsb_bits, q.split)[0] << q.lsb_bits
    else:
        width, value_bits = q.key_bits, q.value_bits
        both, key_step = quantize(key, 2 ** (width - 1) - 1, q.key_scale or q.scale)
        first = both
        if q.key_scale == "per_channel":
            if latent:
                raise ConfigError(
                    "policy: quantization: key_scale 'per_channel' of a latent: its values have no "
                    "query to take the scales; expected one scale, or one for each token"
                )
            # A product over channels takes the scale of each with its query, before that is cut.
            query = query * np.repeat(key_step, len(query) // len(key), axis=0)
            key_step = np.ones((1, 1, 1))
    query_codes, query_step = quantize(query, top, q.scale)
    value_codes, value_step = quantize(value, 2 ** (value_bits - 1) - 1, q.scale)
    lift, value_lift = OPERAND_BITS - width, OPERAND_BITS - value_bits
    key_both = both << lift
    key_first = key_both if first is both else first << lift
    key_step = key_step / 2**lift
    if latent:
        width = value.shape[2]
        own = np.ascontiguousarray(key_first[..., :width])
        own_both = own if first is both else np.ascontiguousarray(key_both[..., :width])
        return Operands(
            query_codes, key_first, key_both, own, query_step, key_step, key_step, own_both
        )
    stored = value_codes << value_lift
    return Operands(
        query_codes, key_first, key_both, stored, query_step, key_step,
        value_step / 2**value_lift, stored,
    )  # fmt: skip


def dequantization(
    query_step: float, key_steps: NDArray[np.float64], scale: float
) -> tuple[Integers, int]:
    """Return per-key multipliers and the shift that take integer scores to softmax inputs.

    ``score * multiplier / 2^shift`` is the score times all scales, 1/sqrt(D) among them. The
    largest multiplier has ``MULTIPLIER_BITS`` significant bits.

    Args:
        query_step: what one code of the query stands for.
        key_steps: the same of each key, [keys].
        scale: of the scores, e.g. 0.125.
    """
    steps = np.asarray(key_steps, dtype=np.float64) * query_step * scale
    _, exponent = np.frexp(np.abs(steps).max())
    shift = MULTIPLIER_BITS - int(exponent)
    return np.rint(np.ldexp(steps, shift)).astype(np.int64), shift


def value_ratios(value_steps: NDArray[np.float64]) -> tuple[Integers, float]:
    """Return each token's value scale over the largest one, and that largest scale."""
    largest = float(value_steps.max())
    return np.rint(value_steps / largest * 2**RATIO_BITS).astype(np.int64), largest


def score_codes(values: NDArray[Any]) -> Integers:
    """Return what is added to scores, or takes part among them, in ``FRACTION_BITS`` fraction bits.

    Args:
        values: biases or sinks; finite, of any shape.
    """
    limit = SCORE_LIMIT / 2.0**FRACTION_BITS
    clipped = np.clip(np.asarray(values, dtype=np.float64), -limit, limit)
    return np.asarray(np.rint(np.ldexp(clipped, FRACTION_BITS)), dtype=np.int64)


class Changes(NamedTuple):
    """What a layer does to dequantized scores before the softmax, as the datapath holds it.

    The dequantized score is rounded to the fraction bits of the exponential, where a plain layer
    subtracts the largest first. Then c * tanh(score / c) of a soft cap, by the exponential unit as
    (1 - e) / (1 + e) with e = exp(-2 abs(score) / c); then the bias; and the sink takes part in the
    largest score and in the sum. No hardware is published: the order is the models', widths are
    ours.

    Attributes:
        cap_end: 16 c in ``FRACTION_BITS`` fraction bits, from where on the cap is reached; 0
            without a cap.
        cap_inverse: 2 / c in ``CAP_BITS`` fraction bits.
        cap_factor: c in ``CAP_FACTOR_BITS`` fraction bits.
        sink: in ``FRACTION_BITS`` fraction bits; ``NO_SINK`` without one.
    """

    cap_end: int = 0
    cap_inverse: int = 0
    cap_factor: int = 0
    sink: int = -(1 << 62)


NO_SINK = Changes().sink


def score_changes(softcap: float | None, sink: float | None) -> Changes:
    """Return a soft cap and a sink as the datapath holds them.

    Raises:
        ConfigError: a cap above ``MAX_SOFTCAP``.
    """
    code = NO_SINK if sink is None else int(score_codes(np.array(sink)))
    if softcap is None:
        return Changes(sink=code)
    if softcap > MAX_SOFTCAP:
        raise ConfigError(f"soft cap {softcap:g}: the datapath takes caps up to {MAX_SOFTCAP:g}")
    end = min(round(16 * softcap * 2**FRACTION_BITS), SCORE_LIMIT)
    inverse, factor = round(2 ** (CAP_BITS + 1) / softcap), round(softcap * 2**CAP_FACTOR_BITS)
    return Changes(max(end, 1), inverse, factor, code)


def threshold_code(threshold: float) -> int:
    """Return the probability code that the largest probability of a row is compared with."""
    return round(threshold * PROBABILITY_ONE)


class FixedAttention(NamedTuple):
    """Result of :func:`fixed_point_attention`.

    Attributes:
        probabilities: codes, [rows, keys]; zero where a row does not see a key.
        used: values that are multiplied, [rows, keys].
        output: codes, [rows, value_dim].
        refetched: rows that needed the LSB plane, [rows].
        overflows: of scores, of weighted sums, and clipped outputs.
    """

    probabilities: Integers
    used: NDArray[np.bool_]
    output: Integers
    refetched: NDArray[np.bool_]
    overflows: tuple[int, int, int]


def fixed_point_attention(
    query: Integers,
    key_first: Integers,
    key_both: Integers,
    value: Integers,
    visible: Integers,
    *,
    value_both: Integers | None = None,
    multipliers: Integers,
    shifts: Integers,
    ratios: Integers,
    datapath: Datapath,
    threshold: int = 0,
    value_budget: Integers | None = None,
    changes: Changes | None = None,
    bias: Integers | None = None,
) -> FixedAttention:
    """Attention of one head in SpAtten's arithmetic.

    Args:
        query: codes, [rows, key_dim].
        key_first, key_both, value: operands, [keys, key_dim or value_dim].
        visible: how many of the keys each row sees, [rows]; at least 1.
        value_both: values of rows that take ``key_both``, where those lie in the keys (a latent);
            ``value`` if ``None``.
        multipliers: per row and key, [rows, keys], from :func:`dequantization`.
        shifts: per row, [rows].
        ratios: per key, from :func:`value_ratios`.
        datapath: widths and rounding.
        threshold: probability code below which a row takes ``key_both``; 0 never.
        value_budget: values used of n visible keys, indexed by n; all if ``None``.
        changes: soft cap and sink, from :func:`score_changes`; ``None``: plain softmax, unless
            there is a bias.
        bias: [rows, keys], from :func:`score_codes`.

    Raises:
        SimulationError: shapes or operands that the datapath does not hold.
    """
    from accelsim.functional import _fixed_kernels

    check_operands(query, key_first, key_both, value)
    keys = len(key_first)
    if len(visible) and not 1 <= int(visible.min()) <= int(visible.max()) <= keys:
        raise SimulationError(f"fixed point: rows must see 1 to {keys} keys")
    budget = np.arange(keys + 1, dtype=np.int64) if value_budget is None else value_budget
    result = _fixed_kernels.attend_rows(
        query,
        np.ascontiguousarray(key_first.T),
        np.ascontiguousarray(key_both.T),
        value,
        value if value_both is None else value_both,
        visible,
        multipliers,
        shifts,
        ratios,
        _fixed_kernels.settings(datapath),
        threshold,
        budget,
        _fixed_kernels.changes_of(changes, bias),
        _fixed_kernels.NO_BIAS if bias is None else bias,
    )
    probabilities, used, output, refetched, overflows = result
    return FixedAttention(probabilities, used, output, refetched, tuple(overflows.tolist()))


def check_operands(*tensors: Integers) -> None:
    """Refuse operands that do not fit the multipliers.

    Raises:
        SimulationError: a code beyond 12 bits, too many features, no keys or too many.
    """
    limit = 2 ** (OPERAND_BITS - 1)
    for tensor in tensors:
        if tensor.size and not -limit <= int(tensor.min()) <= int(tensor.max()) < limit:
            raise SimulationError(f"fixed point: operands must fit {OPERAND_BITS} signed bits")
        if tensor.shape[-1] > MAX_HEAD_DIM:
            raise SimulationError(
                f"fixed point: {tensor.shape[-1]} features; expected at most {MAX_HEAD_DIM}"
            )
    if not 1 <= tensors[-1].shape[-2] <= MAX_KEYS:
        raise SimulationError(
            f"fixed point: {tensors[-1].shape[-2]} keys; expected 1 to {MAX_KEYS}"
        )
