"""Compiled SpAtten datapath, equal to :mod:`accelsim.functional.fixed_point_reference` to the bit.

All arithmetic is in 64-bit integers; the widths of :mod:`accelsim.functional.fixed_point` keep
every intermediate inside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import (
    cap_row,
    filter_top,
    quick_select,
    scores_of_row,
    softmax_row,
    weighted_sum,
)
from accelsim.functional import fixed_point as fp
from accelsim.jit import kernel

Integers = NDArray[np.int64]

_NEAREST, _EVEN, _FLOOR = 0, 1, 2
_ROUNDING, _DROPPED, _ACCUMULATOR, _WRAPS, _REQUANTIZES, _OUTPUT = range(6)
_COEFFICIENTS = np.array(fp.COEFFICIENTS, dtype=np.int64)
_FRACTION, _LIMIT, _LN2 = fp.FRACTION_BITS, fp.EXPONENT_LIMIT, fp.LN2
_INVERSE_LN2, _K_SHIFT = fp.INVERSE_LN2, fp.FRACTION_BITS + fp.INVERSE_LN2_BITS
_ONE, _RATIO_BITS = fp.PROBABILITY_ONE, fp.RATIO_BITS
_LONGEST_SHIFT = 62
_CHANGED, _CAP_END, _CAP_INVERSE, _CAP_FACTOR, _SINK = range(5)
_CAP_BITS, _CAP_FACTOR_BITS = fp.CAP_BITS, fp.CAP_FACTOR_BITS
_SCORE_LIMIT, _NO_SINK = fp.SCORE_LIMIT, fp.NO_SINK
NO_BIAS = np.zeros((0, 0), dtype=np.int64)
NO_DENSE_BIAS = np.zeros((0, 0))


def changes_of(changes: fp.Changes | None, bias: Integers | None) -> Integers:
    """Return what a layer does to scores as the numbers that the kernels take."""
    changed = changes is not None or bias is not None
    return np.array([changed, *(changes or fp.Changes())], dtype=np.int64)


def settings(datapath: fp.Datapath) -> Integers:
    """Return a datapath as the numbers that the kernels take."""
    return np.array(
        [
            fp.ROUNDINGS.index(datapath.rounding),
            datapath.dropped_product_bits,
            datapath.accumulator_bits,
            datapath.overflow == "wrap",
            datapath.requantizes_output,
            datapath.operand_bits,
        ],
        dtype=np.int64,
    )


@kernel
def shift_right(value: int, bits: int, rounding: int) -> int:
    """Divide by ``2^bits`` (0 to 62) and round."""
    quotient = value >> bits
    if rounding == _FLOOR or bits == 0:
        return quotient
    rest, half = value - (quotient << bits), 1 << (bits - 1)
    if rest > half or (rest == half and (rounding == _NEAREST or quotient & 1)):
        return quotient + 1
    return quotient


@kernel
def divide(numerator: int, denominator: int, rounding: int) -> int:
    """Divide by a positive integer and round."""
    quotient = numerator // denominator
    rest = numerator - quotient * denominator
    if rounding == _FLOOR or 2 * rest < denominator:
        return quotient
    if 2 * rest > denominator or rounding == _NEAREST or quotient & 1:
        return quotient + 1
    return quotient


@kernel
def narrow(value: int, bits: int, wraps: int) -> tuple[int, int]:
    """Fit a value into a signed width; also return 1 where it did not."""
    high = (1 << (bits - 1)) - 1
    low = -high - 1
    if low <= value <= high:
        return value, 0
    if wraps:
        return ((value - low) & ((1 << bits) - 1)) + low, 1
    return (high if value > high else low), 1


@kernel
def exponential(distance: int, shift: int, rounding: int) -> int:
    """Return ``exp(-distance / 2^shift)`` with ``FRACTION_BITS`` fraction bits."""
    left = _FRACTION - shift
    if left <= 0:
        y = min(shift_right(distance, min(-left, _LONGEST_SHIFT), rounding), _LIMIT)
    elif distance > _LIMIT >> min(left, _LONGEST_SHIFT):
        y = _LIMIT
    else:
        y = distance << min(left, _LONGEST_SHIFT)
    k = shift_right(y * _INVERSE_LN2, _K_SHIFT, _NEAREST)
    r = k * _LN2 - y
    result: int = _COEFFICIENTS[5]
    for order in range(4, -1, -1):
        result = _COEFFICIENTS[order] + shift_right(result * r, _FRACTION, rounding)
    quotient: int = shift_right(result, k, rounding)
    return quotient


@kernel
def row_scores(
    query: Integers, keys_transposed: Integers, visible: int, path: Integers, scores: Integers
) -> int:
    """Write the accumulators of the first ``visible`` keys; return how many overflowed."""
    dropped = path[_DROPPED]
    scores[:visible] = 0
    for d in range(len(query)):
        element = query[d]
        line = keys_transposed[d]
        for j in range(visible):
            scores[j] += (element * line[j]) >> dropped
    overflows = 0
    for j in range(visible):
        scores[j], over = narrow(scores[j], path[_ACCUMULATOR], path[_WRAPS])
        overflows += over
    return overflows


@kernel
def changed_score(wide: int, shift: int, changes: Integers, bias: int, rounding: int) -> int:
    """Return a softmax input in ``FRACTION_BITS`` fraction bits: rounded, capped, then biased."""
    right = shift - _FRACTION
    if right >= 0:
        score = shift_right(wide, min(right, _LONGEST_SHIFT), rounding)
    else:
        most = _SCORE_LIMIT >> min(-right, _LONGEST_SHIFT)
        if -most <= wide <= most:
            score = wide << min(-right, _LONGEST_SHIFT)
        else:
            score = _SCORE_LIMIT if wide > 0 else -_SCORE_LIMIT
    score = min(max(score, -_SCORE_LIMIT), _SCORE_LIMIT)
    if changes[_CAP_END] > 0:
        size, one = abs(score), 1 << _FRACTION
        part = one
        if size < changes[_CAP_END]:
            e = exponential(size * changes[_CAP_INVERSE], _FRACTION + _CAP_BITS, rounding)
            part = divide((one - e) << _FRACTION, one + e, rounding)
        capped = shift_right(part * changes[_CAP_FACTOR], _CAP_FACTOR_BITS, rounding)
        score = capped if score > 0 else -capped
    changed: int = score + bias
    return changed


@kernel
def row_softmax(
    scores: Integers,
    visible: int,
    multipliers: Integers,
    shift: int,
    path: Integers,
    changes: Integers,
    bias: Integers,
    exponentials: Integers,
    probabilities: Integers,
) -> tuple[int, int]:
    """Write exponentials and probability codes; return their sum and the largest code."""
    rounding, total = path[_ROUNDING], 0
    for j in range(visible):
        exponentials[j] = scores[j] * multipliers[j]
        if changes[_CHANGED]:
            added = bias[j] if len(bias) else 0
            exponentials[j] = changed_score(exponentials[j], shift, changes, added, rounding)
    top = exponentials[:visible].max()
    if changes[_CHANGED]:
        shift = _FRACTION
        if changes[_SINK] != _NO_SINK:
            top = max(top, changes[_SINK])
            total = exponential(top - changes[_SINK], shift, rounding)
    for j in range(visible):
        exponentials[j] = exponential(top - exponentials[j], shift, rounding)
        total += exponentials[j]
    largest = 0
    for j in range(visible):
        probabilities[j] = divide(_ONE * exponentials[j], total, rounding)
        largest = max(largest, probabilities[j])
    return total, largest


@kernel
def row_output(
    exponentials: Integers,
    total: int,
    used: NDArray[np.bool_],
    values: Integers,
    visible: int,
    ratios: Integers,
    path: Integers,
    output: Integers,
) -> tuple[int, int]:
    """Write the output codes; return overflowed sums and clipped outputs."""
    rounding, dropped = path[_ROUNDING], path[_DROPPED]
    output[:] = 0
    for j in range(visible):
        if used[j]:
            weight = divide(_ONE * exponentials[j] * ratios[j], total << _RATIO_BITS, rounding)
            line = values[j]
            for d in range(len(output)):
                output[d] += (weight * line[d]) >> dropped
    overflows, clipped = 0, 0
    for d in range(len(output)):
        wide, over = narrow(output[d], path[_ACCUMULATOR], path[_WRAPS])
        overflows += over
        if path[_REQUANTIZES]:
            wide = divide(wide, _ONE, rounding)
        output[d], over = narrow(wide, path[_OUTPUT], 0)
        clipped += over
    return overflows, clipped


@kernel
def row_used(probabilities: Integers, visible: int, budget: int, used: NDArray[np.bool_]) -> None:
    """Mark the values that local pruning keeps, by the top-k engine's rule."""
    if budget >= visible:
        used[:visible] = True
        return
    # Codes are exact in float64. Which pivots the engine draws never changes what it selects.
    codes = probabilities[:visible].astype(np.float64)
    kth, equal, _, _, _ = quick_select(codes, budget, 0)
    filter_top(codes, kth, equal, used)


@kernel
def attend_row(
    query: Integers,
    first_transposed: Integers,
    both_transposed: Integers,
    values: Integers,
    values_both: Integers,
    visible: int,
    multipliers: Integers,
    shift: int,
    ratios: Integers,
    path: Integers,
    threshold: int,
    budget: int,
    changes: Integers,
    bias: Integers,
    scores: Integers,
    exponentials: Integers,
    probabilities: Integers,
    used: NDArray[np.bool_],
    output: Integers,
    overflows: Integers,
) -> bool:
    """One query of one head; adds to ``overflows`` and returns whether LSBs were needed."""
    overflows[0] += row_scores(query, first_transposed, visible, path, scores)
    total, largest = row_softmax(
        scores, visible, multipliers, shift, path, changes, bias, exponentials, probabilities
    )
    refetched: bool = largest < threshold
    if refetched:
        overflows[0] += row_scores(query, both_transposed, visible, path, scores)
        total, largest = row_softmax(
            scores, visible, multipliers, shift, path, changes, bias, exponentials, probabilities
        )
    row_used(probabilities, visible, budget, used)
    read = values_both if refetched else values
    over, clipped = row_output(exponentials, total, used, read, visible, ratios, path, output)
    overflows[1] += over
    overflows[2] += clipped
    return refetched


@kernel
def attend_rows(
    query: Integers,
    first_transposed: Integers,
    both_transposed: Integers,
    values: Integers,
    values_both: Integers,
    visible: Integers,
    multipliers: Integers,
    shifts: Integers,
    ratios: Integers,
    path: Integers,
    threshold: int,
    value_budget: Integers,
    changes: Integers,
    bias: Integers,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """All queries of one head; see :func:`accelsim.functional.fixed_point_attention`."""
    rows = len(query)
    keys, dim = values.shape
    scores, exponentials = np.empty(keys, np.int64), np.empty(keys, np.int64)
    probabilities = np.zeros((rows, keys), np.int64)
    used = np.zeros((rows, keys), np.bool_)
    output = np.empty((rows, dim), np.int64)
    refetched = np.empty(rows, np.bool_)
    overflows = np.zeros(3, np.int64)
    for row in range(rows):
        refetched[row] = attend_row(
            query[row], first_transposed, both_transposed, values, values_both, visible[row],
            multipliers[row], shifts[row], ratios, path, threshold, value_budget[visible[row]],
            changes, bias[row] if len(bias) else bias.ravel(), scores, exponentials,
            probabilities[row], used[row], output[row], overflows,
        )  # fmt: skip
    return probabilities, used, output, refetched, overflows


SUMS = (
    "error_square",
    "reference_square",
    "policy_error_square",
    "policy_square",
    "cosine",
    "kl_nats",
    "kept_mass",
    "refetched",
    "rows",
    "vanished_rows",
    "score_saturations",
    "value_saturations",
    "output_saturations",
)
"""What :func:`compare_head` returns."""


@kernel
def compare_head(
    query: Integers,
    first_transposed: Integers,
    both_transposed: Integers,
    values: Integers,
    values_both: Integers,
    visible: Integers,
    multipliers: Integers,
    shifts: Integers,
    ratios: Integers,
    path: Integers,
    threshold: int,
    value_budget: Integers,
    output_step: float,
    alive: bool,
    dense_query: NDArray[np.float64],
    dense_keys_transposed: NDArray[np.float64],
    dense_values: NDArray[np.float64],
    dense_visible: Integers,
    kept: Integers,
    scale: float,
    policy_output: NDArray[np.float64],
    changes: Integers,
    bias: Integers,
    softcap: float,
    dense_bias: NDArray[np.float64],
    sink: float,
) -> NDArray[Any]:
    """Run one head row by row in fixed point, beside dense attention in float64.

    Args:
        query, first_transposed, both_transposed, values, values_both, visible, multipliers, shifts,
            ratios, path, threshold, value_budget: as :func:`attend_rows`, of the kept keys.
        output_step: what an output code stands for.
        alive: a pruned head has zero output and no rows.
        dense_query: as recorded, [rows, key_dim].
        dense_keys_transposed: all keys of the context, [key_dim, context].
        dense_values: [context, value_dim].
        dense_visible: keys that each row sees without pruning, [rows].
        kept: token of each kept key.
        scale: of the scores.
        policy_output: outputs of the policy in float64, [rows, value_dim].
        changes, bias: as :func:`attend_rows`.
        softcap: of the dense scores; 0 for none.
        dense_bias: added to them then, [rows, context]; empty for none.
        sink: that takes part in their softmax; -inf for none.

    Returns:
        [len(SUMS)].
    """
    rows, dim = len(query), values.shape[1]
    keys, context = values.shape[0], dense_values.shape[0]
    scores, exponentials = np.empty(keys, np.int64), np.empty(keys, np.int64)
    probabilities, used = np.empty(keys, np.int64), np.empty(keys, np.bool_)
    output, overflows = np.empty(dim, np.int64), np.zeros(3, np.int64)
    dense_scores, dense_probabilities = np.empty(context), np.empty(context)
    everything, dense_output = np.ones(context, np.bool_), np.empty(dim)
    sums = np.zeros(13)
    for row in range(rows):
        seen, n = dense_visible[row], visible[row]
        scores_of_row(dense_query[row], dense_keys_transposed, seen, scale, dense_scores)
        cap_row(dense_scores, 0, seen, softcap)
        if len(dense_bias):
            dense_scores[:seen] += dense_bias[row, :seen]
        log_sum, _ = softmax_row(dense_scores, seen, dense_probabilities, sink)
        weighted_sum(dense_probabilities, dense_values, everything, seen, dense_output)
        dense_square = 0.0
        for d in range(dim):
            dense_square += dense_output[d] ** 2
        sums[1] += dense_square
        if not alive:
            sums[0] += dense_square
            continue
        refetched = attend_row(
            query[row], first_transposed, both_transposed, values, values_both, n,
            multipliers[row], shifts[row], ratios, path, threshold, value_budget[n],
            changes, bias[row] if len(bias) else bias.ravel(), scores, exponentials,
            probabilities, used, output, overflows,
        )  # fmt: skip
        square, product = 0.0, 0.0
        for d in range(dim):
            real = output[d] * output_step
            sums[0] += (real - dense_output[d]) ** 2
            sums[2] += (real - policy_output[row, d]) ** 2
            sums[3] += policy_output[row, d] ** 2
            square += real**2
            product += real * dense_output[d]
        if square > 0.0 and dense_square > 0.0:
            sums[4] += product / np.sqrt(square * dense_square)
        elif square == dense_square:
            sums[4] += 1.0
        total = probabilities[:n].sum()
        whole = _ONE if sink > -np.inf else total  # of a sink, too
        for j in range(n):
            sums[6] += dense_probabilities[kept[j]]
            if probabilities[j] > 0:
                p = probabilities[j] / whole
                sums[5] += p * (np.log(p) - dense_scores[kept[j]] + log_sum)
        sums[7] += refetched
        sums[8] += 1.0
        sums[9] += total == 0
    sums[10:] = overflows
    return sums
