"""``run_policy``: a policy's decisions over a recorded trace, and what they cost in accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import AccelsimError, TraceError
from accelsim.functional import kernels
from accelsim.functional._cascade import Cascade, Selection
from accelsim.functional._stored import value_budgets
from accelsim.functional.quantization import progressive_planes, quantize_dequantize
from accelsim.functional.topk import PARALLELISM
from accelsim.policies import (
    STAGES,
    KiviQuantization,
    Policy,
    ProgressiveQuantization,
    Quantization,
    Stage,
    why_not,
)
from accelsim.traces import AttentionTrace
from accelsim.workloads import QueryTable, Workload


@dataclass(frozen=True)
class PolicyRun:
    """What a policy decided, and how far the attention moved.

    Attributes:
        workload: one row per step, layer and KV head.
        accuracy: see :func:`run_policy`.
        per_layer: the same figures by layer, with ``layer`` and ``token_keep_ratio``.
    """

    workload: Workload
    accuracy: dict[str, Any]
    per_layer: list[dict[str, Any]]


class LayerStep(NamedTuple):
    """What was decided for one layer in one step, and the outputs that follow.

    Attributes:
        step: 0 is the prefill.
        layer: which.
        context: tokens before any pruning.
        positions: token of each query row.
        kept: ascending tokens whose keys survive.
        alive: [query_heads].
        outputs: [query_heads, rows, head_dim], zero for pruned heads.
    """

    step: int
    layer: int
    context: int
    positions: NDArray[np.int64]
    kept: NDArray[np.int64]
    alive: NDArray[np.bool_]
    outputs: NDArray[np.float64]


Observer = Callable[[LayerStep], None]


def run_policy(
    trace: AttentionTrace,
    policy: Policy,
    *,
    indices: bool = True,
    seed: int = 0,
    observe: Observer | None = None,
) -> PolicyRun:
    """Run ``policy`` over ``trace``, open loop.

    Step 0 is the prefill: one row holds all surviving queries of the group; tokens pruned there
    have no queries in later layers, and the last token of a causal prompt always survives. Steps 1
    and up are one query each. The recorded tensors are those of the unpruned model, so the error
    is optimistic in depth.

    Accuracy compares with dense attention on the recorded tensors, over surviving queries:
    ``relative_output_error`` (Frobenius, pruned heads count as zero output), ``mean_cosine``,
    ``mean_kl`` (nats, KL of the policy's probabilities from the dense ones, before value pruning),
    ``kept_mass`` and ``kept_value_mass`` (dense probability on the kept keys, on the used values),
    ``lsb_refetch_fraction`` (of the query-head rows whose stage reads keys in two planes; 0 where
    none does), ``kept_token_fraction`` and ``kept_value_fraction`` (of the keys that dense
    attention would read for these rows), ``kept_head_fraction`` and ``kept_query_fraction`` (of
    all).

    Args:
        trace: recorded queries, keys and values.
        policy: what to keep.
        indices: record the token indexes of fetched keys and values in the workload.
        seed: of the top-k pivots; changes pass counts, never decisions.
        observe: called with each layer of each step as it is decided.

    Raises:
        TraceError: the trace holds no tokens, or numbers that are not finite.
    """
    if trace.tokens < 1:
        raise TraceError(f"{trace.path}: trace has no tokens; expected at least one")
    explain = why_not(policy, trace)
    if explain:
        raise TraceError(f"{trace.path}: {explain}")
    if _selects(policy, trace):
        if observe is not None:
            raise AccelsimError(
                f"{trace.path}: the fixed-point datapath follows SpAtten's own policies; "
                "expected one without 'selection' and without a 'kivi' cache"
            )
        from accelsim.functional._selected import run_selection

        return PolicyRun(*run_selection(trace, policy, indices, seed))
    runner = _Runner(trace, policy, indices, seed)
    runner.observe = observe
    steps = range(0 if trace.prefill_tokens else 1, trace.decode_tokens + 1)
    for step in steps:
        runner.run_step(step)
    return runner.result()


@dataclass(frozen=True)
class _Layer:
    """Tensors of a layer: as recorded, and as one stage reads them back from memory."""

    query: NDArray[np.float32]
    raw_key: NDArray[np.float32]
    raw_value: NDArray[np.float32]
    key_first: NDArray[np.float64]
    key_both: NDArray[np.float64]
    value: NDArray[np.float64]


def finite_tensors(
    trace: AttentionTrace, layer: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return query, key and value of one layer.

    Raises:
        TraceError: one of them holds NaN or infinity.
    """
    tensors = trace.query(layer), trace.key(layer), trace.value(layer)
    for name, tensor in zip(("query", "key", "value"), tensors, strict=True):
        if not np.isfinite(tensor).all():
            raise TraceError(
                f"{trace.path}: tensor 'layer.{layer}.{name}' holds NaN or infinity; "
                "expected finite numbers"
            )
    return tensors


def _selects(policy: Policy, trace: AttentionTrace) -> bool:
    """Whether another rule than SpAtten's decides in a stage that the trace has."""
    stages = [policy.at_stage(stage) for stage in _stages(trace)]
    kivi = any(isinstance(p.quantization, KiviQuantization) for p in stages)
    return kivi or any(p.selection is not None for p in stages)


def _stages(trace: AttentionTrace) -> list[Stage]:
    """Stages that a trace has."""
    present = {"prefill": trace.prefill_tokens > 0, "decode": trace.decode_tokens > 0}
    return [stage for stage in STAGES if present[stage]]


def _load_layer(trace: AttentionTrace, policy: Policy, layer: int) -> _Layer:
    query, key, value = finite_tensors(trace, layer)
    q = policy.at_layer(layer, trace.num_layers).quantization
    if isinstance(q, ProgressiveQuantization):
        first, both = progressive_planes(key, q.msb_bits, q.lsb_bits, q.split, q.scale)
        stored = quantize_dequantize(value, q.fetched_value_bits, q.scale)
    else:
        assert not isinstance(q, KiviQuantization)
        first = both = quantize_dequantize(key, q.key_bits, q.scale)
        stored = quantize_dequantize(value, q.value_bits, q.scale)
    return _Layer(
        np.ascontiguousarray(query),
        np.ascontiguousarray(key),
        np.ascontiguousarray(value),
        np.ascontiguousarray(first),
        np.ascontiguousarray(both),
        np.ascontiguousarray(stored),
    )


class _Stage:
    """What holds in one stage: rules and bit widths by layer.

    Attributes:
        policy: of the stage.
        progressive: whether keys are read in two planes.
        threshold: of the refetch; 0 for none.
        value_budgets: [num_layers, tokens + 1], values kept of n visible keys.
        bits: see :attr:`Policy.fetched_bits`, by layer.
        scale_bytes: with every vector that has a scale of its own, 16 bits.
        accumulates: whether this stage or a later one ranks tokens by what they received.
    """

    def __init__(self, trace: AttentionTrace, policy: Policy, later: list[Policy]) -> None:
        self.policy = policy
        q = policy.quantization
        self.progressive = isinstance(q, ProgressiveQuantization)
        self.threshold = q.threshold if isinstance(q, ProgressiveQuantization) else 0.0
        self.value_budgets = value_budgets(policy, trace.num_layers, trace.tokens)
        self.bits = [
            policy.at_layer(i, trace.num_layers).fetched_bits for i in range(trace.num_layers)
        ]
        per_token = not isinstance(q, KiviQuantization) and q.scale == "per_token"
        self.scale_bytes = 2 if per_token else 0
        self.accumulates = any(p.tokens is not None for p in (policy, *later))


class _Runner:
    """Walks steps and layers, and gathers rows and sums."""

    def __init__(self, trace: AttentionTrace, policy: Policy, indices: bool, seed: int) -> None:
        self.trace, self.indices, self.seed = trace, indices, seed
        self.observe: Observer | None = None
        self.cascade = Cascade(trace.num_layers, trace.tokens, trace.num_query_heads, policy, seed)
        policies = [policy.at_stage(stage) for stage in _stages(trace)]
        self.stages = {
            stage: _Stage(trace, policies[i], policies[i + 1 :])
            for i, stage in enumerate(_stages(trace))
        }
        self.layers: list[_Layer] = []
        self.stored: Quantization | None = None
        self.columns: dict[str, list[int]] = defaultdict(list)
        self.key_indices: list[NDArray[np.int32]] = []
        self.value_indices: list[NDArray[np.int32]] = []
        self.queries: list[NDArray[np.int32]] = []
        self.sums = np.zeros((trace.num_layers, len(kernels.METRICS)))
        self.stats = np.zeros((trace.num_layers, len(kernels.STATS)), dtype=np.int64)
        # Head rows and query rows that dense attention would have computed.
        self.dense_rows = np.zeros((trace.num_layers, 2), dtype=np.int64)
        self.kept_rows = np.zeros((trace.num_layers, 2), dtype=np.int64)
        self.two_plane_rows = np.zeros(trace.num_layers, dtype=np.int64)

    def _enter(self, stage: Stage) -> None:
        """Load the layers as the stage reads them, unless they are loaded already."""
        policy = self.stages[stage].policy
        if self.stored != policy.quantization:
            self.layers = []  # never two copies of a long trace
            every = range(self.trace.num_layers)
            self.layers = [_load_layer(self.trace, policy, i) for i in every]
            self.stored = policy.quantization

    def run_step(self, step: int) -> None:
        trace = self.trace
        stage: Stage = "decode" if step else "prefill"
        self._enter(stage)
        context = trace.prefill_tokens + step
        survivors = np.arange(trace.tokens) < context
        heads = np.ones(trace.num_query_heads, dtype=np.bool_)
        own = context - 1 if step or trace.causal else None
        for layer in range(trace.num_layers):
            survivors, work = self.cascade.select_tokens(stage, layer, survivors, context, own)
            heads = self.cascade.select_heads(stage, layer, heads, context)
            self._run_layer(step, layer, context, np.flatnonzero(survivors), heads, work)

    def _run_layer(
        self,
        step: int,
        layer: int,
        context: int,
        kept: NDArray[np.int64],
        heads: NDArray[np.bool_],
        work: Selection,
    ) -> None:
        trace, tensors = self.trace, self.layers[layer]
        stage = self.stages["decode" if step else "prefill"]
        positions = kept if step == 0 else np.array([context - 1], dtype=np.int64)
        stats, per_query, used, outputs, sums = kernels.attend_layer(
            tensors.query,
            tensors.raw_key,
            tensors.raw_value,
            tensors.key_first,
            tensors.key_both,
            tensors.value,
            positions,
            kept,
            heads,
            context,
            trace.causal,
            trace.scale,
            stage.threshold,
            stage.value_budgets[layer],
            PARALLELISM,
            self.seed + 1 + layer * 15485863 + step * 32452843,
            self.cascade.token_importance,
            self.cascade.head_importance,
        )
        if self.observe is not None:
            self.observe(LayerStep(step, layer, context, positions, kept, heads, outputs))
        self.sums[layer] += sums
        self.stats[layer] += stats.sum(axis=0)
        self.two_plane_rows[layer] += len(per_query) if stage.progressive else 0
        self.dense_rows[layer] += (len(heads), context if step == 0 else 1)
        self.kept_rows[layer] += (int(heads.sum()), len(positions))
        self.queries.append(per_query)
        key_indices = kept.astype(np.int32)
        for kv in np.flatnonzero(stats[:, 0]):
            value_indices = key_indices[used[kv]]
            self._append_row(step, layer, int(kv), context, stats[kv], work, stage.bits[layer])
            self.columns["keys"].append(len(key_indices))
            self.columns["values"].append(len(value_indices))
            runs = 1 + int(np.count_nonzero(np.diff(key_indices) > 1))
            self.columns["key_runs"].append(runs)
            scales = (len(key_indices) + len(value_indices)) * stage.scale_bytes
            self.columns["metadata_bytes"].append(scales)
            self.columns["score_updates"].append(int(stats[kv, 1]) if stage.accumulates else 0)
            if self.indices:
                self.key_indices.append(key_indices)
                self.value_indices.append(value_indices)
            work = Selection()

    def _append_row(
        self,
        step: int,
        layer: int,
        kv_head: int,
        context: int,
        stats: NDArray[np.int64],
        work: Selection,
        bits: tuple[int, int, int],
    ) -> None:
        row = dict(zip(kernels.STATS, stats.tolist(), strict=True))
        row |= {"step": step, "layer": layer, "head": kv_head, "context_tokens": context}
        row |= dict(zip(("key_bits", "key_lsb_bits", "value_bits"), bits, strict=True))
        row["refetch_lsb"] = row["refetch_queries"] > 0
        row |= {f"select_{name}": getattr(work, name) for name in work.__dataclass_fields__}
        for name, count in row.items():
            self.columns[name].append(count)

    def result(self) -> PolicyRun:
        workload = Workload.from_columns(
            self.columns,
            head_dim=self.trace.head_dim,
            name=self.trace.model,
            key_indices=tuple(self.key_indices) if self.indices else None,
            value_indices=tuple(self.value_indices) if self.indices else None,
            query_table=QueryTable.of(
                self.columns["queries"],
                dict(zip(kernels.PER_QUERY, np.concatenate(self.queries).T, strict=True)),
            ),
        )
        every = range(self.trace.num_layers)
        per_layer = [{"layer": i, **self._figures(slice(i, i + 1))} for i in every]
        # The schedule of the last stage; the prompt's may be another one.
        tokens = list(self.stages.values())[-1].policy.tokens
        for i, figures in enumerate(per_layer):
            ratio = 1.0 if tokens is None else tokens.keep_ratio(i, self.trace.num_layers)
            figures["token_keep_ratio"] = ratio
        accuracy = {"mode": "open-loop", **self._figures(slice(None))}
        return PolicyRun(workload, accuracy, per_layer)

    def _figures(self, layers: slice) -> dict[str, float]:
        sums = dict(zip(kernels.METRICS, self.sums[layers].sum(axis=0).tolist(), strict=True))
        stats = dict(zip(kernels.STATS, self.stats[layers].sum(axis=0).tolist(), strict=True))
        dense_heads, dense_queries = self.dense_rows[layers].sum(axis=0).tolist()
        kept_heads, kept_queries = self.kept_rows[layers].sum(axis=0).tolist()
        rows, reference = sums["rows"], sums["reference_square"]
        two_planes = int(self.two_plane_rows[layers].sum())
        error = sums["error_square"] / reference if reference > 0 else 0.0
        return {
            "relative_output_error": float(np.sqrt(error)),
            "mean_cosine": sums["cosine"] / rows,
            "mean_kl": sums["kl_nats"] / rows,
            # Summed probabilities may end a rounding error above 1.
            "kept_mass": min(sums["kept_mass"] / rows, 1.0),
            "kept_value_mass": min(sums["kept_value_mass"] / rows, 1.0),
            "lsb_refetch_fraction": stats["refetch_queries"] / two_planes if two_planes else 0.0,
            "kept_token_fraction": stats["query_keys"] / sums["visible"],
            "kept_value_fraction": stats["query_values"] / sums["visible"],
            "kept_head_fraction": kept_heads / dense_heads,
            "kept_query_fraction": kept_queries / dense_queries,
        }
