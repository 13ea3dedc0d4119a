"""SpAtten's datapath in plain Python integers: slow, obvious, and what the kernels must equal.

Every function is exact integer arithmetic; no float enters. :mod:`accelsim.functional.fixed_point`
says where each width comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from accelsim.functional.fixed_point import (
    CAP_BITS,
    CAP_FACTOR_BITS,
    COEFFICIENTS,
    EXPONENT_LIMIT,
    FRACTION_BITS,
    INVERSE_LN2,
    INVERSE_LN2_BITS,
    LN2,
    NO_SINK,
    PROBABILITY_ONE,
    RATIO_BITS,
    SCORE_LIMIT,
    Changes,
    Datapath,
)


class Row(NamedTuple):
    """What the datapath makes of one query of one head.

    Attributes:
        scores: accumulators of the pass that counts.
        probabilities: 12-bit codes; ``PROBABILITY_ONE`` is 1.
        refetched: the LSB plane was needed.
        used: indexes of the values that are multiplied, ascending.
        output: 12-bit codes, one per feature.
        score_overflows: accumulators that left their width, in all passes.
        value_overflows: the same of probabilities times values.
        output_saturations: outputs that had to be clipped to 12 bits.
    """

    scores: list[int]
    probabilities: list[int]
    refetched: bool
    used: list[int]
    output: list[int]
    score_overflows: int
    value_overflows: int
    output_saturations: int


def divide(numerator: int, denominator: int, rounding: str) -> int:
    """Divide by a positive integer and round: down, to nearest (halves up), or halves to even."""
    quotient, rest = divmod(numerator, denominator)
    if rounding == "floor" or 2 * rest < denominator:
        return quotient
    if 2 * rest > denominator or rounding == "nearest":
        return quotient + 1
    return quotient + quotient % 2


def narrow(value: int, bits: int, overflow: str) -> tuple[int, bool]:
    """Fit a value into a signed width; also return whether it did not."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if low <= value <= high:
        return value, False
    if overflow == "saturate":
        return max(low, min(value, high)), True
    return (value - low) % 2**bits + low, True


def exponential(distance: int, shift: int, rounding: str) -> int:
    """Return ``exp(-distance / 2^shift)`` with ``FRACTION_BITS`` fraction bits."""
    one = 2**FRACTION_BITS
    # To the fraction bits of the unit; what is beyond the limit is zero anyway.
    scaled = distance * one * (2**-shift if shift < 0 else 1)
    y = min(divide(scaled, 2 ** max(shift, 0), rounding), EXPONENT_LIMIT)
    # exp(-y) = 2^-k * exp(r), with |r| <= ln(2)/2.
    k = divide(y * INVERSE_LN2, 2 ** (FRACTION_BITS + INVERSE_LN2_BITS), "nearest")
    r = k * LN2 - y
    # Horner's rule: five multiply-adds.
    result = COEFFICIENTS[5]
    for coefficient in COEFFICIENTS[4::-1]:
        result = coefficient + divide(result * r, one, rounding)
    return divide(result, 2**k, rounding)


def scores_of(
    query: Sequence[int], keys: Sequence[Sequence[int]], datapath: Datapath
) -> tuple[list[int], int]:
    """Return one accumulator per key, and how many overflowed."""
    scores, overflows = [], 0
    for key in keys:
        products = [
            (q * k) >> datapath.dropped_product_bits for q, k in zip(query, key, strict=True)
        ]
        score, overflowed = narrow(sum(products), datapath.accumulator_bits, datapath.overflow)
        scores.append(score)
        overflows += overflowed
    return scores, overflows


def exponentials_of(
    scores: Sequence[int], multipliers: Sequence[int], shift: int, rounding: str
) -> list[int]:
    """Dequantize the scores, subtract the largest, and take exponentials."""
    wide = [score * multiplier for score, multiplier in zip(scores, multipliers, strict=True)]
    top = max(wide)
    return [exponential(top - w, shift, rounding) for w in wide]


def changed_score(wide: int, shift: int, changes: Changes, bias: int, rounding: str) -> int:
    """Return a softmax input in ``FRACTION_BITS`` fraction bits: rounded, capped, then biased."""
    one = 2**FRACTION_BITS
    scaled = wide * one * (2**-shift if shift < 0 else 1)
    score = divide(scaled, 2 ** max(shift, 0), rounding)
    score = max(-SCORE_LIMIT, min(score, SCORE_LIMIT))
    if changes.cap_end:
        size = abs(score)
        part = one
        if size < changes.cap_end:
            e = exponential(size * changes.cap_inverse, FRACTION_BITS + CAP_BITS, rounding)
            part = divide((one - e) * one, one + e, rounding)
        capped = divide(part * changes.cap_factor, 2**CAP_FACTOR_BITS, rounding)
        score = capped if score > 0 else -capped
    return score + bias


def changed_exponentials_of(
    scores: Sequence[int],
    multipliers: Sequence[int],
    shift: int,
    changes: Changes,
    bias: Sequence[int] | None,
    rounding: str,
) -> tuple[list[int], int]:
    """The same of a layer that changes scores; also what the sink adds to their sum."""
    inputs = [
        changed_score(score * multiplier, shift, changes, 0 if bias is None else bias[j], rounding)
        for j, (score, multiplier) in enumerate(zip(scores, multipliers, strict=True))
    ]
    top = max([*inputs, changes.sink])
    more = 0
    if changes.sink != NO_SINK:
        more = exponential(top - changes.sink, FRACTION_BITS, rounding)
    return [exponential(top - x, FRACTION_BITS, rounding) for x in inputs], more


def attend_row(
    query: Sequence[int],
    keys_first: Sequence[Sequence[int]],
    keys_both: Sequence[Sequence[int]],
    values: Sequence[Sequence[int]],
    *,
    multipliers: Sequence[int],
    shift: int,
    value_ratios: Sequence[int],
    datapath: Datapath,
    threshold: int = 0,
    budget: int | None = None,
    values_both: Sequence[Sequence[int]] | None = None,
    changes: Changes | None = None,
    bias: Sequence[int] | None = None,
) -> Row:
    """Run one query through the datapath.

    Args:
        query: 12-bit codes, [key_dim].
        keys_first: 12-bit operands of the first fetch, [keys][key_dim].
        keys_both: operands with both planes.
        values: 12-bit operands, [keys][value_dim].
        multipliers: per key, takes a score to ``2^-shift`` (the scales and 1/sqrt(D)).
        shift: see ``multipliers``.
        value_ratios: per key, scale of its value over the largest one, ``RATIO_BITS`` fraction.
        datapath: widths and rounding.
        threshold: probability code; a row whose largest is below it takes ``keys_both``.
        budget: how many values to use; all if ``None``.
        values_both: values of a row that takes ``keys_both``; ``values`` if ``None``.
        changes: soft cap and sink; plain softmax if neither they nor ``bias`` are given.
        bias: per key, in ``FRACTION_BITS`` fraction bits.
    """
    rounding = datapath.rounding

    def softmax(scores: Sequence[int]) -> tuple[list[int], int]:
        if changes is None and bias is None:
            found = exponentials_of(scores, multipliers, shift, rounding)
            return found, sum(found)
        found, more = changed_exponentials_of(
            scores, multipliers, shift, changes or Changes(), bias, rounding
        )
        return found, sum(found) + more

    scores, score_overflows = scores_of(query, keys_first, datapath)
    exponentials, total = softmax(scores)
    probabilities = [divide(PROBABILITY_ONE * e, total, rounding) for e in exponentials]
    refetched = max(probabilities) < threshold
    if refetched:
        scores, more = scores_of(query, keys_both, datapath)
        score_overflows += more
        exponentials, total = softmax(scores)
        probabilities = [divide(PROBABILITY_ONE * e, total, rounding) for e in exponentials]

    order = sorted(range(len(scores)), key=lambda j: (-probabilities[j], j))
    used = sorted(order[:budget])
    weights = {
        j: divide(
            PROBABILITY_ONE * exponentials[j] * value_ratios[j], total * 2**RATIO_BITS, rounding
        )
        for j in used
    }
    read = values_both if refetched and values_both is not None else values
    output, value_overflows, output_saturations = [], 0, 0
    for d in range(len(read[0])):
        products = [(weights[j] * read[j][d]) >> datapath.dropped_product_bits for j in used]
        total_d, overflowed = narrow(sum(products), datapath.accumulator_bits, datapath.overflow)
        value_overflows += overflowed
        if datapath.requantizes_output:
            total_d = divide(total_d, PROBABILITY_ONE, rounding)
        code, clipped = narrow(total_d, datapath.operand_bits, "saturate")
        output_saturations += clipped
        output.append(code)
    return Row(
        scores, probabilities, refetched, used, output,
        score_overflows, value_overflows, output_saturations,
    )  # fmt: skip
