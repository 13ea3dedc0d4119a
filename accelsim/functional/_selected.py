"""Open loop for the selection policies: their decisions over a recorded trace, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional import kernels
from accelsim.functional._stored import Stored
from accelsim.functional.selection import (
    Block,
    Decision,
    Selector,
    Shape,
    selector_for,
    stage_of,
)
from accelsim.functional.selection._kernels import WORK, prune_values
from accelsim.policies import KiviQuantization, Policy, ProgressiveQuantization, Stage
from accelsim.traces import AttentionTrace
from accelsim.workloads import QueryTable, Workload

_ROWS_PER_BLOCK = 256


@dataclass
class _Part:
    """What one block of rows gave.

    Attributes:
        steps: [rows], 0 for the prompt.
        positions: [rows].
        kept, used: [kv_heads, group, rows, context].
        keys, values: how many of them, [kv_heads, group, rows].
        decision: of the selector.
        topk: [query_heads, rows, 5], work of local value pruning.
        two_planes: whether its stage reads keys in two planes.
    """

    steps: NDArray[np.int64]
    positions: NDArray[np.int64]
    kept: NDArray[np.bool_]
    used: NDArray[np.bool_]
    keys: NDArray[np.int64]
    values: NDArray[np.int64]
    decision: Decision
    topk: NDArray[np.int64]
    two_planes: bool


def run_selection(
    trace: AttentionTrace, policy: Policy, indices: bool, seed: int
) -> tuple[Workload, dict[str, Any], list[dict[str, Any]]]:
    """Run a policy with a ``selection`` (or a KIVI cache); see :func:`run_policy`.

    The prompt attends densely (or by the rule, where it selects per query) and is one row; the
    tensors of one layer are in memory at a time.

    Returns:
        Workload, accuracy and per-layer figures.
    """
    shape = Shape(
        trace.num_layers, trace.num_query_heads, trace.num_kv_heads, trace.head_dim, trace.tokens,
        trace.prefill_tokens, trace.causal,
    )  # fmt: skip
    selector = selector_for(policy, shape, seed)
    rows: list[dict[str, Any]] = []
    sums = np.zeros((trace.num_layers, len(kernels.METRICS)))
    stats = np.zeros((trace.num_layers, 5), dtype=np.int64)
    for layer in range(trace.num_layers):
        prompt: list[_Part] = []
        here = {
            stage: own.at_layer(layer, trace.num_layers) for stage, own in policy.by_stage().items()
        }
        for part, figures in _blocks(trace, here, selector, layer, seed):
            sums[layer] += figures
            stats[layer] += (
                np.count_nonzero(part.decision.refetched),
                part.values.sum(),
                len(part.positions),
                part.keys.sum(),
                part.decision.refetched.size if part.two_planes else 0,
            )
            if part.steps[0] == 0:
                prompt.append(part)
            else:
                for row in range(len(part.steps)):
                    rows += _requests(trace, here["decode"], layer, [_only(part, row)])
        if prompt:
            rows += _requests(trace, here["prefill"], layer, prompt)
    rows.sort(key=lambda r: (r["step"], r["layer"], r["head"]))
    keys = tuple(r.pop("key_indices") for r in rows)
    values = tuple(r.pop("value_indices") for r in rows)
    queries = QueryTable.join([r.pop("per_query") for r in rows])
    workload = Workload.from_columns(
        {name: [r[name] for r in rows] for name in rows[0]},
        head_dim=trace.head_dim,
        name=trace.model,
        key_indices=keys if indices else None,
        value_indices=values if indices else None,
        query_table=queries,
    )
    per_layer = [
        {"layer": i, **_figures(trace, sums[i : i + 1], stats[i : i + 1])}
        for i in range(trace.num_layers)
    ]
    for record in per_layer:
        record["token_keep_ratio"] = record["kept_token_fraction"]
    return workload, {"mode": "open-loop", **_figures(trace, sums, stats)}, per_layer


def _blocks(
    trace: AttentionTrace,
    policies: dict[Stage, Policy],
    selector: Selector,
    layer: int,
    seed: int,
) -> Iterator[tuple[_Part, NDArray[np.float64]]]:
    """Yield the blocks of a layer with the sums of their accuracy figures."""
    query, key, value = trace.query(layer), trace.key(layer), trace.value(layer)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not np.isfinite(tensor).all():
            raise TraceError(
                f"{trace.path}: tensor 'layer.{layer}.{name}' holds NaN or infinity; "
                "expected finite numbers"
            )
    exact = (key.astype(np.float64), value.astype(np.float64))
    counts = range(trace.tokens + 1)
    stored, policy = None, policies["prefill"]
    for positions in _row_blocks(trace, selector.rows(layer, np.arange(trace.tokens))):
        here = policies[stage_of(positions, selector.shape)]
        if stored is None or here.quantization != policy.quantization:
            stored = Stored(here, key, value, trace.prefill_tokens)
        policy = here
        budgets = [n if policy.values is None else policy.values.budget(n) for n in counts]
        context = int(positions[-1]) + 1 if trace.causal else trace.tokens
        wide = query[:, positions].astype(np.float64)
        scores, both = stored.scores(wide, positions, context, trace.scale)
        block = Block(
            layer, positions, wide, stored.key_both[:, :context], stored.value[:, :context],
            scores, both, stored.threshold, trace.causal, trace.scale,
        )  # fmt: skip
        decision = selector.run(block)
        kept, weights = decision.kept, block.scores
        topk = np.zeros((*kept.shape[:2], len(WORK)), dtype=np.int64)
        used = np.zeros_like(kept)
        prune_values(weights, kept, np.array(budgets), seed + layer, used, topk)
        output = decision.output
        if output is None or policy.values is not None:
            output = stored.output(np.where(used, weights, 0.0), positions)
        selector.learn(block, output)
        figures = _compare(wide, exact, block, kept, used, weights, output)
        split = (trace.num_kv_heads, trace.group, *kept.shape[1:])
        steps = np.maximum(positions - trace.prefill_tokens + 1, 0)
        kept, used = kept.reshape(split), used.reshape(split)
        two_planes = isinstance(policy.quantization, ProgressiveQuantization)
        keys, values = kept.sum(axis=3, dtype=np.int64), used.sum(axis=3, dtype=np.int64)
        yield _Part(steps, positions, kept, used, keys, values, decision, topk, two_planes), figures


def _row_blocks(trace: AttentionTrace, positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into blocks that hold prompt rows or decode rows; an encoder is one block."""
    if not trace.causal:
        yield positions
        return
    for part in (
        positions[positions < trace.prefill_tokens],
        positions[positions >= trace.prefill_tokens],
    ):
        for start in range(0, len(part), _ROWS_PER_BLOCK):
            yield part[start : start + _ROWS_PER_BLOCK]


def _only(part: _Part, row: int) -> _Part:
    one = slice(row, row + 1)
    seen = int(part.positions[row]) + 1
    d = part.decision
    decision = Decision(
        d.kept[:, one], d.refetched[:, one], d.work[:, one], d.score_updates[:, one],
        d.metadata_vectors[:, one], d.written_vectors[:, one],
    )  # fmt: skip
    return _Part(
        part.steps[one], part.positions[one], part.kept[:, :, one, :seen],
        part.used[:, :, one, :seen], part.keys[:, :, one], part.values[:, :, one], decision,
        part.topk[:, one], part.two_planes,
    )  # fmt: skip


def _requests(
    trace: AttentionTrace, policy: Policy, layer: int, parts: list[_Part]
) -> list[dict[str, Any]]:
    """Return one record per KV head for the rows of ``parts``, which share one fetch."""
    step = int(parts[0].steps[0])
    prefill = trace.prefill_tokens if trace.causal else trace.tokens
    context = trace.prefill_tokens + step if step else prefill
    records = []
    for kv in range(trace.num_kv_heads):
        keys = _union([p.kept[kv] for p in parts], context)
        values = _union([p.used[kv] for p in parts], context)
        group = slice(kv * trace.group, (kv + 1) * trace.group)
        # Query-major: the heads of the group for a position, then for the next one.
        topk = np.concatenate([p.topk[group].swapaxes(0, 1).reshape(-1, len(WORK)) for p in parts])
        per_query = {
            "position": np.concatenate([np.repeat(p.positions, trace.group) for p in parts]),
            "keys": np.concatenate([p.keys[kv].T.ravel() for p in parts]),
            "values": np.concatenate([p.values[kv].T.ravel() for p in parts]),
            "refetch": np.concatenate([p.decision.refetched[group].T.ravel() for p in parts]),
            "topk_passes": topk[:, 2],
            "topk_beats": topk[:, 4],
        }
        work = np.concatenate([p.decision.work[kv] for p in parts])
        record: dict[str, Any] = {
            "step": step,
            "layer": layer,
            "head": kv,
            "context_tokens": context,
            "keys": len(keys),
            "values": len(values),
            "key_runs": 1 + int(np.count_nonzero(np.diff(keys) > 1)),
            "key_indices": keys,
            "value_indices": values,
            "per_query": per_query,
        }
        record["topk_size"], record["topk_target"] = topk[:, :2].max(axis=0)
        record["topk_elements"] = topk[:, 3].sum()
        record |= dict(zip(WORK[:2], work[:, :2].max(axis=0), strict=True))
        record |= dict(zip(WORK[2:], work[:, 2:].sum(axis=0), strict=True))
        vectors = {
            name: sum(int(getattr(p.decision, name)[kv].sum()) for p in parts)
            for name in ("score_updates", "metadata_vectors", "written_vectors")
        }
        record["score_updates"] = vectors["score_updates"]
        records.append(record | _bytes(trace, policy, record, vectors, keys, values))
    return records


def _union(masks: list[NDArray[np.bool_]], context: int) -> NDArray[np.int32]:
    """Ascending tokens that any of the rows [group, rows, keys] uses."""
    seen = np.zeros(context, dtype=np.bool_)
    for mask in masks:
        seen[: mask.shape[2]] |= np.asarray(mask.any(axis=(0, 1)))
    return np.flatnonzero(seen).astype(np.int32)


def _bytes(
    trace: AttentionTrace,
    policy: Policy,
    record: dict[str, Any],
    vectors: dict[str, int],
    keys: NDArray[np.int32],
    values: NDArray[np.int32],
) -> dict[str, int]:
    """Bit widths of a request, and its bytes beside the vectors."""
    q, dim = policy.quantization, trace.head_dim
    metadata, residual = 0, 0
    bits = policy.fetched_bits
    stored = bits[0] + bits[1]
    if isinstance(q, KiviQuantization):
        decoding = record["step"] > 0
        old_keys = q.quantized_keys(record["context_tokens"]) if decoding else 0
        old_values = q.quantized_values(record["context_tokens"]) if decoding else 0
        quantized_keys, quantized_values = keys[keys < old_keys], values[values < old_values]
        recent = len(keys) - len(quantized_keys), len(values) - len(quantized_values)
        residual = (
            recent[0] * (q.full_bits - q.key_bits) + recent[1] * (q.full_bits - q.value_bits)
        ) * dim // 8  # fmt: skip
        groups = len(np.unique(quantized_keys // q.group_tokens)) * dim
        groups += len(quantized_values) * -(-dim // q.group_channels)
        # A residual vector has one scale of 16 bits.
        metadata = groups * q.scale_bytes + sum(recent) * 2
    elif q.scale == "per_token":
        metadata = (len(keys) + len(values)) * 2
    return {
        "key_bits": bits[0],
        "key_lsb_bits": bits[1],
        "value_bits": bits[2],
        "metadata_bytes": metadata + vectors["metadata_vectors"] * dim * stored // 8,
        "residual_bytes": residual,
        "write_back_bytes": vectors["written_vectors"] * dim * stored // 8,
    }


def _compare(
    query: NDArray[np.float64],
    exact: tuple[NDArray[np.float64], NDArray[np.float64]],
    block: Block,
    kept: NDArray[np.bool_],
    used: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    output: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sums of :data:`kernels.METRICS` of a block, against dense attention."""
    heads, rows, context = kept.shape
    key, value = (tensor[:, :context] for tensor in exact)
    grouped = (query * block.scale).reshape(len(key), -1, query.shape[2])
    scores = (grouped @ key.transpose(0, 2, 1)).reshape(heads, rows, context)
    hidden = np.arange(context)[None, :] >= block.visible[:, None]
    scores[:, hidden] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    dense = np.exp(scores)
    reference = (dense.reshape(len(key), -1, context) @ value).reshape(heads, rows, -1)
    norms = np.sqrt((output**2).sum(axis=-1) * (reference**2).sum(axis=-1))
    dots = (output * reference).sum(axis=-1)
    cosine = np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), 1.0)
    some = probabilities > 0
    surprise = np.log(probabilities[some]) - scores[some]
    return np.array(
        [
            ((output - reference) ** 2).sum(),
            (reference**2).sum(),
            cosine.sum(),
            (probabilities[some] * surprise).sum(),
            dense[kept].sum(),
            dense[used].sum(),
            heads * rows,
            float(block.visible.sum()) * heads,
        ]
    )


def _figures(
    trace: AttentionTrace, sums: NDArray[np.float64], stats: NDArray[np.int64]
) -> dict[str, float]:
    total = dict(zip(kernels.METRICS, sums.sum(axis=0).tolist(), strict=True))
    refetched, values, queries, keys, two_planes = stats.sum(axis=0).tolist()
    rows = total["rows"]
    error = total["error_square"] / total["reference_square"] if total["reference_square"] else 0.0
    return {
        "relative_output_error": float(np.sqrt(error)),
        "mean_cosine": total["cosine"] / rows,
        "mean_kl": total["kl_nats"] / rows,
        "kept_mass": min(total["kept_mass"] / rows, 1.0),
        "kept_value_mass": min(total["kept_value_mass"] / rows, 1.0),
        "lsb_refetch_fraction": refetched / two_planes if two_planes else 0.0,
        "kept_token_fraction": keys / total["visible"],
        "kept_value_fraction": values / total["visible"],
        "kept_head_fraction": 1.0,
        "kept_query_fraction": queries / (trace.tokens * len(sums)),
    }
