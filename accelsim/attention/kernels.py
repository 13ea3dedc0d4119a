"""Compiled kernels of the functional model; :mod:`accelsim.attention.reference` is their meaning.

Everything is float64, so that decisions (which token is larger) do not depend on the order in which
the compiler sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import kernel

WORK = np.dtype([(name, np.int64) for name in ("size", "target", "passes", "elements", "beats")])
"""Work of one selection of the top-k engine: candidates, how many stay, quick-select passes, scores
read in them, and cycles in which :data:`COMPARATORS` read them, each pass rounded up. All zero
where nothing was selected."""

COUNTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "queries",
            "query_keys",
            "query_values",
            "refetch_queries",
            "refetch_query_keys",
            "topk_size",
            "topk_target",
            "topk_passes",
            "topk_elements",
            "topk_beats",
        )
    ]
)
"""What the queries of one KV head did, summed; sizes and targets are the largest."""

PER_QUERY = np.dtype(
    [
        (name, np.int32)
        for name in ("position", "keys", "values", "refetch", "topk_passes", "topk_beats")
    ]
)
"""What one query did; see :class:`accelsim.workloads.QueryTable`."""

METRICS = np.dtype(
    [
        (name, np.float64)
        for name in (
            "error_square",
            "reference_square",
            "cosine",
            "kl_nats",
            "kept_mass",
            "kept_value_mass",
            "rows",
            "visible",
        )
    ]
)
"""Sums over query rows, against dense attention on the same tensors: squares of the output error
and of the dense output, cosines, KL in nats, dense probability on kept keys and on used values,
rows, and keys that they may see."""

COMPARATORS = 16
"""Comparators per array of the top-k engine (SpAtten, HPCA 2021, section IV-B, Table I)."""


def joined(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Records of several arrays one after the other, [all of them].

    NumPy joins records field by field, which takes some fifty times as long as this.

    Args:
        parts: of records, each contiguous.
        dtype: of all of them.
    """
    return np.frombuffer(bytearray().join(part.data for part in parts), dtype)


NO_SINKS = np.empty(0)
NO_BIAS = np.empty((0, 1))
NO_STORED: NDArray[np.float32] = np.zeros((0, 0, 0), dtype=np.float32)
NO_VALUES = np.empty((0, 0, 0))
NO_BITS = np.empty((0, 0), dtype=np.uint8)


class Tensors(NamedTuple):
    """One layer, as recorded and as it reads back from memory.

    Attributes:
        query: [query_heads, queries, key_dim] float32.
        raw_key: as recorded, [kv_heads, tokens, key_dim] float32, for the dense reference.
        raw_value: likewise, [kv_heads, tokens, value_dim].
        key_first: keys as fetched first, [kv_heads, tokens, key_dim] float64.
        key_both: keys with both planes; only read where a threshold asks.
        value: values as fetched, [kv_heads, tokens, value_dim].
        value_both: values of a row that fetched both planes, where those lie in the keys (a
            latent); else empty.
    """

    query: NDArray[np.float32]
    raw_key: NDArray[np.float32]
    raw_value: NDArray[np.float32]
    key_first: NDArray[np.float64]
    key_both: NDArray[np.float64]
    value: NDArray[np.float64]
    value_both: NDArray[np.float64] = NO_VALUES


class Rows(NamedTuple):
    """Which queries attend to which keys.

    Attributes:
        positions: ascending token index of each query row.
        kept: ascending indexes of the tokens whose keys survive.
        alive: [query_heads].
        context: tokens before any pruning.
        first: first token that each row may see; ascending, not strictly.
        end: one past the last; likewise.
        bits: [rows, bytes], which tokens from ``first`` to ``end - 1`` a row sees, eight to a byte,
            the lowest bit first; empty where it sees them all.
    """

    positions: NDArray[np.int64]
    kept: NDArray[np.int64]
    alive: NDArray[np.bool_]
    context: int
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    bits: NDArray[np.uint8] = NO_BITS

    @classmethod
    def plain(
        cls,
        positions: NDArray[np.int64],
        kept: NDArray[np.int64],
        alive: NDArray[np.bool_],
        context: int,
        causal: bool,
    ) -> Rows:
        """Rows that see tokens up to their own, or the whole context."""
        end = positions + 1 if causal else np.full(len(positions), context)
        return cls(positions, kept, alive, context, np.zeros(len(positions), np.int64), end)


class Settings(NamedTuple):
    """How a layer attends.

    Attributes:
        scale: of the scores.
        threshold: rows whose top probability is below it use both planes; 0 for none.
        value_budget: values kept of n visible keys, indexed by n.
        seed: of the pivots of the top-k engine.
        softcap: c of ``c * tanh(score / c)``; 0 for none.
        sinks: [query_heads], scores that take part in the softmax and have no value; empty for
            none.
        bias: [query_heads, distances], added to a capped score by the distance of its key from the
            query; the middle one is distance 0. Empty for none.
        stored_bias: [query_heads, rows, context], added to a capped score instead; empty for none.
    """

    scale: float
    threshold: float
    value_budget: NDArray[np.int64]
    seed: int
    softcap: float = 0.0
    sinks: NDArray[np.float64] = NO_SINKS
    bias: NDArray[np.float64] = NO_BIAS
    stored_bias: NDArray[np.float32] = NO_STORED


class Importance(NamedTuple):
    """What tokens and heads have received; increased in place.

    Attributes:
        tokens: [tokens] probabilities.
        heads: [query_heads] absolute output.
    """

    tokens: NDArray[np.float64]
    heads: NDArray[np.float64]


class LayerResult(NamedTuple):
    """What :func:`attend_layer` found.

    Attributes:
        counts: [kv_heads] of :data:`COUNTS`.
        per_query: [queries] of :data:`PER_QUERY`, KV head after KV head; in it position after
            position, and the living heads of the group for each. One that has no key is not
            counted, and has 0 keys here.
        used_values: [kv_heads, kept keys].
        outputs: [query_heads, rows, value_dim], zero for pruned heads and queries without a key.
        metrics: [1] of :data:`METRICS`.
    """

    counts: NDArray[Any]
    per_query: NDArray[Any]
    used_values: NDArray[np.bool_]
    outputs: NDArray[np.float64]
    metrics: NDArray[Any]


# Park and Miller's generator: small, portable, and exact in signed 64-bit arithmetic.
_MULTIPLIER, _MODULUS = 48271, 2147483647

_INVERSE_LN2 = 1.4426950408889634
# ln 2 in two parts; multiples of the first, which ends in 21 zero bits, are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52
_TWO_TO_MINUS_128 = 2.0**-128
# Below, exp is zero in float64.
_SMALLEST_EXPONENT = -746.0


@kernel
def next_random(state: int) -> int:
    """Return the next state of the pivot generator, in 1 ... 2^31 - 2."""
    return state * _MULTIPLIER % _MODULUS


@kernel
def first_random(seed: int) -> int:
    """Return a well mixed start state for any non-negative seed."""
    state = seed % (_MODULUS - 1) + 1
    for _ in range(4):
        state = next_random(state)
    return state


@kernel
def quick_select(
    values: NDArray[np.float64], target: int, seed: int
) -> tuple[float, int, int, int, int]:
    """Find the ``target``-th largest value as the top-k engine does.

    Returns:
        The value, how many equal to it belong to the top, passes, values read in them, and beats:
        rows of :data:`COMPARATORS` that read them, each pass rounded up.
    """
    size = len(values)
    current = values.copy()
    less = np.empty(size)
    greater = np.empty(size)
    state = first_random(seed)
    wanted, passes, elements, beats = target, 0, 0, 0
    while True:
        state = next_random(state)
        pivot = current[state % size]
        passes += 1
        elements += size
        beats += (size + COMPARATORS - 1) // COMPARATORS
        num_less, num_greater = 0, 0
        for lane in range(size):
            # Written always, counted only where it belongs: no branch to mispredict. The zero
            # eliminators keep the order.
            value = current[lane]
            less[num_less] = value
            greater[num_greater] = value
            num_less += value < pivot
            num_greater += value > pivot
        equal = size - num_less - num_greater
        if wanted <= num_greater:
            current, greater = greater, current
            size = num_greater
        elif wanted <= num_greater + equal:
            return pivot, wanted - num_greater, passes, elements, beats
        else:
            wanted -= num_greater + equal
            current, less = less, current
            size = num_less


@kernel
def filter_top(
    values: NDArray[np.float64], kth: float, equal_kept: int, kept: NDArray[np.bool_]
) -> None:
    """Mark values above ``kth`` and the first ``equal_kept`` that equal it (the filter pass)."""
    ties = 0
    for i in range(len(values)):
        kept[i] = values[i] > kth
        if values[i] == kth and ties < equal_kept:
            kept[i] = True
            ties += 1


@kernel
def scores_of_row(
    query: NDArray[np.float64],
    keys_transposed: NDArray[np.float64],
    visible: int,
    scale: float,
    scores: NDArray[np.float64],
    first: int = 0,
) -> None:
    """Write ``scale * query . key`` of keys ``first`` to ``visible - 1``, out of [head_dim, keys].

    Features are added one after the other, whatever the machine; four at a time stay in a register.
    """
    dim = len(query)
    # Sliced, so that places count from zero: a start that may be negative costs a look at each.
    row = scores[first:visible]
    for j in range(len(row)):
        row[j] = 0.0
    blocks = dim - dim % 4
    for d in range(0, blocks, 4):
        e0, e1 = query[d] * scale, query[d + 1] * scale
        e2, e3 = query[d + 2] * scale, query[d + 3] * scale
        k0, k1 = keys_transposed[d, first:visible], keys_transposed[d + 1, first:visible]
        k2, k3 = keys_transposed[d + 2, first:visible], keys_transposed[d + 3, first:visible]
        for j in range(len(row)):
            row[j] = row[j] + e0 * k0[j] + e1 * k1[j] + e2 * k2[j] + e3 * k3[j]
    for d in range(blocks, dim):
        element = query[d] * scale
        line = keys_transposed[d, first:visible]
        for j in range(len(row)):
            row[j] += element * line[j]


@kernel
def cap_row(scores: NDArray[np.float64], first: int, visible: int, softcap: float) -> None:
    """Cap the scores of keys ``first`` to ``visible - 1``, in place; nothing where the cap is 0."""
    if softcap > 0.0:
        for j in range(first, visible):
            scores[j] = softcap * np.tanh(scores[j] / softcap)


@kernel
def bias_row(
    scores: NDArray[np.float64],
    tokens: NDArray[np.int64],
    position: int,
    bias: NDArray[np.float64],
) -> None:
    """Add the bias of each token's distance from the query, in place.

    Args:
        scores: [keys].
        tokens: [keys], which they are of.
        position: of the query.
        bias: [distances], distance 0 in the middle.
    """
    zero = len(bias) // 2 - position
    for j in range(len(scores)):
        scores[j] += bias[zero + tokens[j]]


@kernel
def add_row(
    scores: NDArray[np.float64], tokens: NDArray[np.int64], bias: NDArray[np.float32]
) -> None:
    """Add the stored bias of each token, in place.

    Args:
        scores: [tokens].
        tokens: which.
        bias: [context], of one query.
    """
    for j in range(len(scores)):
        scores[j] += bias[tokens[j]]


@kernel
def exponentials_of_row(
    scores: NDArray[np.float64], top: float, visible: int, exponentials: NDArray[np.float64]
) -> None:
    """Write ``exp(scores - top)``, within two units in the last place; ``top`` is the largest.

    Straight-line arithmetic that compilers turn into vector instructions, which a call of the C
    library's ``exp`` per element is not.
    """
    powers = np.empty(visible)
    bits = powers.view(np.int64)
    for j in range(visible):
        x = max(scores[j] - top, _SMALLEST_EXPONENT)
        # Adding 1.5 * 2^52 rounds to an integer, and leaves it in the low bits.
        shifted = x * _INVERSE_LN2 + _ROUND
        k = shifted - _ROUND
        r = (x - k * _LN2_HIGH) - k * _LN2_LOW
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        powers[j] = shifted
        exponentials[j] = p * r * r + r + 1.0
    # 2^(k + 128) is written as bits; the product with 2^-128 may be denormal.
    for j in range(visible):
        bits[j] = (bits[j] + 1151) << 52
    for j in range(visible):
        exponentials[j] = exponentials[j] * powers[j] * _TWO_TO_MINUS_128


@kernel
def softmax_row(
    scores: NDArray[np.float64],
    visible: int,
    probabilities: NDArray[np.float64],
    sink: float = -np.inf,
) -> tuple[float, float]:
    """Softmax of the first ``visible`` scores; return their log-sum-exp and the top probability.

    A ``sink`` is one more score, which has no probability of its own among these.
    """
    largest = scores[0]
    for j in range(1, visible):
        largest = scores[j] if scores[j] > largest else largest
    top = max(largest, sink)
    exponentials_of_row(scores, top, visible, probabilities)
    # Four sums side by side: one addition need not wait for the one before.
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    blocks = visible - visible % 4
    for j in range(0, blocks, 4):
        s0 += probabilities[j]
        s1 += probabilities[j + 1]
        s2 += probabilities[j + 2]
        s3 += probabilities[j + 3]
    for j in range(blocks, visible):
        s0 += probabilities[j]
    total = (s0 + s1) + (s2 + s3)
    if sink > -np.inf:
        total += np.exp(sink - top)
    for j in range(visible):
        probabilities[j] /= total
    return top + np.log(total), np.exp(largest - top) / total


@kernel
def weighted_sum(
    probabilities: NDArray[np.float64],
    values: NDArray[np.float64],
    used: NDArray[np.bool_],
    visible: int,
    output: NDArray[np.float64],
) -> None:
    """Write the sum of ``probabilities[j] * values[j]`` over the used ones of ``visible``.

    Values are added one after the other, whatever the machine; four at a time stay in a register.
    """
    output[:] = 0.0
    lines = np.empty(4, dtype=np.int64)
    waiting = 0
    for j in range(visible):
        if not used[j]:
            continue
        lines[waiting] = j
        waiting += 1
        if waiting == 4:
            waiting = 0
            l0, l1, l2, l3 = lines[0], lines[1], lines[2], lines[3]
            p0, p1 = probabilities[l0], probabilities[l1]
            p2, p3 = probabilities[l2], probabilities[l3]
            v0, v1, v2, v3 = values[l0], values[l1], values[l2], values[l3]
            for d in range(len(output)):
                output[d] = output[d] + p0 * v0[d] + p1 * v1[d] + p2 * v2[d] + p3 * v3[d]
    for i in range(waiting):
        p = probabilities[lines[i]]
        line = values[lines[i]]
        for d in range(len(output)):
            output[d] += p * line[d]


@kernel
def sees(bits: NDArray[np.uint8], token: int) -> bool:
    """Whether a token's bit is set in a row of bits, lowest bit first."""
    return bool((bits[token >> 3] >> (token & 7)) & 1)


@kernel
def attend_layer(
    tensors: Tensors, at: Rows, settings: Settings, importance: Importance
) -> LayerResult:
    """Attention of one layer in one step, under masks, with dense attention beside it.

    One loop over the rows, so that nothing of the size of a score matrix is ever stored.
    """
    query, raw_key, raw_value, key_first, key_both, value, value_both = tensors
    positions, kept, alive, context, firsts, ends, bits = at
    scale, threshold, value_budget, seed, softcap, sinks, bias, stored_bias = settings
    heads, _, dim = query.shape
    value_dim = raw_value.shape[2]
    biased, masked, latent = len(bias) > 0, len(bits) > 0, len(value_both) > 0
    stored = len(stored_bias) > 0
    kv_heads = raw_key.shape[0]
    group = heads // kv_heads
    num_kept, rows = len(kept), len(positions)
    counts = np.zeros(kv_heads, dtype=COUNTS)
    per_query = np.zeros(rows * int(alive.sum()), dtype=PER_QUERY)
    first_query = 0
    used_values = np.zeros((kv_heads, num_kept), dtype=np.bool_)
    outputs = np.zeros((heads, rows, value_dim))
    metrics = np.zeros(1, dtype=METRICS)
    sums = metrics[0]

    first_t = np.empty((dim, num_kept))
    both_t = np.empty((dim, num_kept))
    values = np.empty((num_kept, value_dim))
    values_both = np.empty((num_kept if latent else 0, value_dim))
    dense_t = np.empty((dim, context))
    dense_values = np.empty((context, value_dim))
    vector = np.empty(dim)
    scores = np.empty(num_kept)
    probabilities = np.empty(num_kept)
    used = np.empty(num_kept, dtype=np.bool_)
    dense_scores = np.empty(context)
    dense_probabilities = np.empty(context)
    everything = np.ones(context, dtype=np.bool_)
    dense_output = np.empty(value_dim)
    every_token = np.arange(context)
    # Of a row under a mask: its keys side by side, and places of them among the kept.
    picks = np.empty(num_kept if masked else 0, dtype=np.int64)
    picked = np.empty(num_kept if masked else 0, dtype=np.int64)
    spread = np.empty(num_kept if masked else 0)
    spread_used = np.empty(num_kept if masked else 0, dtype=np.bool_)

    for kv in range(kv_heads):
        for j in range(num_kept):
            for d in range(dim):
                first_t[d, j] = key_first[kv, kept[j], d]
            for d in range(value_dim):
                values[j, d] = value[kv, kept[j], d]
            if latent:
                for d in range(value_dim):
                    values_both[j, d] = value_both[kv, kept[j], d]
        for j in range(context):
            for d in range(dim):
                dense_t[d, j] = raw_key[kv, j, d]
            for d in range(value_dim):
                dense_values[j, d] = raw_value[kv, j, d]
        # Laid out for the first row that asks.
        both_there = False
        count = counts[kv]
        living = int(alive[kv * group : (kv + 1) * group].sum())
        place = 0
        for head in range(kv * group, (kv + 1) * group):
            # Kept keys of a row are those from ``since`` to ``until - 1``.
            since, until = 0, 0
            sink = sinks[head] if len(sinks) else -np.inf
            for row in range(rows):
                position = positions[row]
                for d in range(dim):
                    vector[d] = query[head, position, d]
                low, high = firsts[row], ends[row]
                scores_of_row(vector, dense_t, high, scale, dense_scores, low)
                cap_row(dense_scores, low, high, softcap)
                if biased:
                    bias_row(dense_scores[low:high], every_token[low:high], position, bias[head])
                elif stored:
                    add_row(dense_scores[low:high], every_token[low:high], stored_bias[head, row])
                visible = high - low
                if masked:
                    for j in range(low, high):
                        if not sees(bits[row], j):
                            dense_scores[j] = -np.inf
                            visible -= 1
                dense_log_sum, _ = softmax_row(
                    dense_scores[low:], high - low, dense_probabilities[low:], sink
                )
                weighted_sum(
                    dense_probabilities[low:], dense_values[low:], everything, high - low,
                    dense_output,
                )  # fmt: skip
                dense_square = 0.0
                for d in range(value_dim):
                    dense_square += dense_output[d] ** 2
                sums.reference_square += dense_square
                if not alive[head]:
                    sums.error_square += dense_square
                    continue

                while since < num_kept and kept[since] < low:
                    since += 1
                while until < num_kept and kept[until] < high:
                    until += 1
                seen = until - since
                here = kept[since:until]
                if masked:
                    seen = 0
                    for j in range(since, until):
                        if sees(bits[row], kept[j]):
                            picks[seen], picked[seen] = j, kept[j]
                            seen += 1
                    here = picked[:seen]
                    if seen == 0:
                        sums.error_square += dense_square
                        continue
                scores_of_row(vector, first_t, until, scale, scores, since)
                if masked:
                    for j in range(seen):
                        scores[since + j] = scores[picks[j]]
                own_scores, mine = scores[since : since + seen], probabilities[since : since + seen]
                cap_row(scores, since, since + seen, softcap)
                if biased:
                    bias_row(own_scores, here, position, bias[head])
                elif stored:
                    add_row(own_scores, here, stored_bias[head, row])
                log_sum, top = softmax_row(own_scores, seen, mine, sink)
                own = per_query[first_query + row * living + place]
                own.position, own.keys = position, seen
                count.queries += 1
                count.query_keys += seen
                if top < threshold:
                    if not both_there:
                        both_there = True
                        for j in range(num_kept):
                            for d in range(dim):
                                both_t[d, j] = key_both[kv, kept[j], d]
                    scores_of_row(vector, both_t, until, scale, scores, since)
                    if masked:
                        for j in range(seen):
                            scores[since + j] = scores[picks[j]]
                    cap_row(scores, since, since + seen, softcap)
                    if biased:
                        bias_row(own_scores, here, position, bias[head])
                    elif stored:
                        add_row(own_scores, here, stored_bias[head, row])
                    log_sum, top = softmax_row(own_scores, seen, mine, sink)
                    own.refetch = 1
                    count.refetch_queries += 1
                    count.refetch_query_keys += seen
                for j in range(seen):
                    importance.tokens[here[j]] += mine[j]

                chosen = used[since : since + seen]
                budget = value_budget[seen]
                if budget < seen:
                    kth, equal, passes, elements, beats = quick_select(
                        mine, budget, seed + head * 8191 + position
                    )
                    filter_top(mine, kth, equal, chosen)
                    count.topk_size = max(count.topk_size, seen)
                    count.topk_target = max(count.topk_target, budget)
                    count.topk_passes += passes
                    count.topk_elements += elements
                    count.topk_beats += beats
                    own.topk_passes, own.topk_beats = passes, beats
                else:
                    chosen[:] = True
                own.values = min(budget, seen)
                count.query_values += own.values
                output = outputs[head, row]
                read = values_both if latent and own.refetch else values
                if masked:
                    span = until - since
                    spread_used[:span] = False
                    for j in range(seen):
                        spread[picks[j] - since] = mine[j]
                        spread_used[picks[j] - since] = chosen[j]
                    weighted_sum(spread, read[since:until], spread_used, span, output)
                else:
                    weighted_sum(mine, read[since:until], chosen, seen, output)

                error, square, product = 0.0, 0.0, 0.0
                # Running sums stay in registers: in memory, each addition waits for the store.
                received = importance.heads[head]
                for d in range(value_dim):
                    received += abs(output[d])
                    error += (output[d] - dense_output[d]) ** 2
                    square += output[d] ** 2
                    product += output[d] * dense_output[d]
                importance.heads[head] = received
                sums.error_square += error
                if square > 0.0 and dense_square > 0.0:
                    sums.cosine += product / np.sqrt(square * dense_square)
                elif square == dense_square:
                    sums.cosine += 1.0
                nats, mass, value_mass = sums.kl_nats, sums.kept_mass, sums.kept_value_mass
                for j in range(seen):
                    # In logarithms: dense probabilities may underflow, scores never do.
                    log_p = own_scores[j] - log_sum
                    log_dense = dense_scores[here[j]] - dense_log_sum
                    nats += mine[j] * (log_p - log_dense)
                    mass += dense_probabilities[here[j]]
                    if chosen[j]:
                        used_values[kv, picks[j] if masked else since + j] = True
                        value_mass += dense_probabilities[here[j]]
                sums.kl_nats, sums.kept_mass, sums.kept_value_mass = nats, mass, value_mass
                sums.rows += 1.0
                sums.visible += visible
            place += 1 if alive[head] else 0
        first_query += rows * living
    return LayerResult(counts, per_query, used_values, outputs, metrics)


@kernel
def dense_row(
    query: NDArray[np.float64],
    keys_transposed: NDArray[np.float64],
    values: NDArray[np.float64],
    visible: int,
    scale: float,
    log_probabilities: NDArray[np.float64],
    output: NDArray[np.float64],
) -> None:
    """Write the dense log-probabilities of the first ``visible`` keys, and the dense output."""
    probabilities = np.empty(visible)
    scores_of_row(query, keys_transposed, visible, scale, log_probabilities)
    log_sum, _ = softmax_row(log_probabilities, visible, probabilities)
    weighted_sum(probabilities, values, np.ones(visible, dtype=np.bool_), visible, output)
    for j in range(visible):
        log_probabilities[j] -= log_sum


@kernel
def account(
    visible: int,
    log_dense: NDArray[np.float64],
    dense_output: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    scored: NDArray[np.bool_],
    used: NDArray[np.bool_],
    output: NDArray[np.float64],
    metrics: NDArray[Any],
) -> None:
    """Add one query to the sums of :data:`METRICS`.

    Args:
        visible: keys that the query may see.
        log_dense: their dense log-probabilities.
        dense_output: [head_dim].
        probabilities: under the rule; zero where it gives none.
        scored: keys that got an exact score.
        used: values that entered the sum.
        output: [head_dim], under the rule.
        metrics: [1] of :data:`METRICS`, increased in place.
    """
    sums = metrics[0]
    error, square, dense_square, product = 0.0, 0.0, 0.0, 0.0
    for d in range(len(output)):
        error += (output[d] - dense_output[d]) ** 2
        square += output[d] ** 2
        dense_square += dense_output[d] ** 2
        product += output[d] * dense_output[d]
    sums.error_square += error
    sums.reference_square += dense_square
    if square > 0.0 and dense_square > 0.0:
        sums.cosine += product / np.sqrt(square * dense_square)
    elif square == dense_square:
        sums.cosine += 1.0
    for j in range(visible):
        dense = np.exp(log_dense[j])
        if probabilities[j] > 0.0:
            sums.kl_nats += probabilities[j] * (np.log(probabilities[j]) - log_dense[j])
        if scored[j]:
            sums.kept_mass += dense
        if used[j]:
            sums.kept_value_mass += dense
    sums.rows += 1.0
    sums.visible += visible
