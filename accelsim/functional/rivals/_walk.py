"""Walk a trace layer by layer under a machine's rule, and measure what the rule costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional._run import PolicyRun
from accelsim.functional.kernels import METRICS, scores_of_row, softmax_row, weighted_sum
from accelsim.functional.rivals._workload import rival_workload
from accelsim.jit import kernel
from accelsim.traces import AttentionTrace
from accelsim.workloads import QueryTable

Float = NDArray[np.float64]


class Tensors(NamedTuple):
    """One layer, as recorded; all float64.

    Attributes:
        query: [query_heads, tokens, head_dim].
        key: [kv_heads, tokens, head_dim].
        value: [kv_heads, tokens, head_dim].
    """

    query: Float
    key: Float
    value: Float


class Outcome(NamedTuple):
    """What a rule did to one layer of one step.

    Attributes:
        counts: name to per-KV-head lists of int64 arrays, as in :class:`RivalWorkload`.
        scored: [query_heads, rows], keys that got an exact dot product.
        used: [query_heads, rows], values multiplied.
        used_values: [kv_heads], values that at least one query used.
        sums: [len(METRICS)], as :func:`accelsim.functional.kernels.attend_layer` gives them.
    """

    counts: dict[str, list[NDArray[np.int64]]]
    scored: NDArray[np.int64]
    used: NDArray[np.int64]
    used_values: NDArray[np.int64]
    sums: Float


Attend = Callable[[int, NDArray[np.int64], int], Outcome]
"""(layer, positions of the queries, context) to an outcome."""


def load_layers(trace: AttentionTrace) -> list[Tensors]:
    """Read all layers.

    Raises:
        TraceError: no tokens, or numbers that are not finite.
    """
    if trace.tokens < 1:
        raise TraceError(f"{trace.path}: trace has no tokens; expected at least one")
    return [_load_layer(trace, i) for i in range(trace.num_layers)]


def _load_layer(trace: AttentionTrace, layer: int) -> Tensors:
    tensors = []
    for name in Tensors._fields:
        tensor = getattr(trace, name)(layer)
        if not np.isfinite(tensor).all():
            raise TraceError(
                f"{trace.path}: tensor 'layer.{layer}.{name}' holds NaN or infinity; "
                "expected finite numbers"
            )
        tensors.append(np.ascontiguousarray(tensor, dtype=np.float64))
    return Tensors(*tensors)


def walk(trace: AttentionTrace, attend: Attend, bits: int, fetch_values: str) -> PolicyRun:
    """Run a rule over all steps and layers.

    Args:
        trace: recorded queries, keys and values.
        attend: the rule.
        bits: of a key or value element in memory.
        fetch_values: ``all``, or ``used`` where unused values are not fetched.
    """
    columns: dict[str, list[int]] = defaultdict(list)
    queries: list[dict[str, NDArray[np.int64]]] = []
    counts: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    sums = np.zeros((trace.num_layers, len(METRICS)))
    used = np.zeros((trace.num_layers, 2), dtype=np.int64)
    for step in range(0 if trace.prefill_tokens else 1, trace.decode_tokens + 1):
        context = trace.prefill_tokens + step
        positions = np.arange(context) if step == 0 else np.array([context - 1])
        for layer in range(trace.num_layers):
            got = attend(layer, positions.astype(np.int64), context)
            sums[layer] += got.sums
            used[layer] += (got.scored.sum(), got.used.sum())
            for kv_head in range(trace.num_kv_heads):
                # A row reads something: where all weights are small, one value.
                fetched = max(int(got.used_values[kv_head]), 1)
                row = {
                    "step": step,
                    "layer": layer,
                    "head": kv_head,
                    "context_tokens": context,
                    "keys": context,
                    "values": context if fetch_values == "all" else fetched,
                    "key_bits": bits,
                    "value_bits": bits,
                    # No machine here has a top-k engine.
                    "topk_size": 0,
                    "topk_target": 0,
                }
                group = slice(kv_head * trace.group, (kv_head + 1) * trace.group)
                detail = {
                    "position": np.repeat(positions, trace.group),
                    "keys": got.scored[group].T.ravel(),
                    "values": got.used[group].T.ravel(),
                }
                none = np.zeros_like(detail["keys"])
                absent = dict.fromkeys(("refetch", "topk_passes", "topk_beats"), none)
                queries.append(detail | absent)
                for name, value in row.items():
                    columns[name].append(int(value))
                for name, lists in got.counts.items():
                    counts[name].append(lists[kv_head])
    workload = rival_workload(
        columns,
        {name: np.concatenate(lists) for name, lists in counts.items()},
        trace.head_dim,
        trace.model,
        QueryTable.join(queries),
    )
    per_layer = [
        {"layer": i, **_figures(sums[i], used[i]), "token_keep_ratio": 1.0}
        for i in range(trace.num_layers)
    ]
    accuracy = {"mode": "open-loop", **_figures(sums.sum(axis=0), used.sum(axis=0))}
    return PolicyRun(workload, accuracy, per_layer)


def _figures(totals: Float, used: NDArray[np.int64]) -> dict[str, float]:
    sums = dict(zip(METRICS, totals.tolist(), strict=True))
    rows, reference = sums["rows"], sums["reference_square"]
    error = sums["error_square"] / reference if reference > 0 else 0.0
    return {
        "relative_output_error": float(np.sqrt(error)),
        "mean_cosine": sums["cosine"] / rows,
        "mean_kl": sums["kl_nats"] / rows,
        "kept_mass": min(sums["kept_mass"] / rows, 1.0),
        "kept_value_mass": min(sums["kept_value_mass"] / rows, 1.0),
        "lsb_refetch_fraction": 0.0,
        "kept_token_fraction": float(used[0]) / sums["visible"],
        "kept_value_fraction": float(used[1]) / sums["visible"],
        "kept_head_fraction": 1.0,
        "kept_query_fraction": 1.0,
    }


@kernel
def dense_row(
    query: Float,
    keys_transposed: Float,
    values: Float,
    visible: int,
    scale: float,
    log_probabilities: Float,
    output: Float,
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
    log_dense: Float,
    dense_output: Float,
    probabilities: Float,
    scored: NDArray[np.bool_],
    used: NDArray[np.bool_],
    output: Float,
    sums: Float,
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
        sums: [len(METRICS)], increased in place.
    """
    error, square, dense_square, product = 0.0, 0.0, 0.0, 0.0
    for d in range(len(output)):
        error += (output[d] - dense_output[d]) ** 2
        square += output[d] ** 2
        dense_square += dense_output[d] ** 2
        product += output[d] * dense_output[d]
    sums[0] += error
    sums[1] += dense_square
    if square > 0.0 and dense_square > 0.0:
        sums[2] += product / np.sqrt(square * dense_square)
    elif square == dense_square:
        sums[2] += 1.0
    for j in range(visible):
        dense = np.exp(log_dense[j])
        if probabilities[j] > 0.0:
            sums[3] += probabilities[j] * (np.log(probabilities[j]) - log_dense[j])
        if scored[j]:
            sums[4] += dense
        if used[j]:
            sums[5] += dense
    sums[6] += 1.0
    sums[7] += visible
