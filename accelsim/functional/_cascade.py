"""SpAtten's own policies over a trace, step by step, in one fused kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.attention import kernels
from accelsim.attention.quantization import progressive_planes, quantize_dequantize
from accelsim.functional._attends import score_biases, sight, stored_bias
from accelsim.functional._record import Recording
from accelsim.functional._requests import requested
from accelsim.functional._stored import value_budgets
from accelsim.functional._walk import OpenLoopRule, Order, finite_tensors
from accelsim.policies import (
    STAGES,
    KiviQuantization,
    Policy,
    ProgressiveQuantization,
    Quantization,
    Stage,
)
from accelsim.policies.cascade import StepCascade
from accelsim.policies.selector import Shape
from accelsim.traces import AttentionTrace, Layer


class LayerStep(NamedTuple):
    """What was decided for one layer in one step, and the outputs that follow.

    Attributes:
        step: 0 is the prefill.
        layer: which.
        context: tokens before any pruning; of another sequence in a cross layer.
        positions: token of each query row.
        first: first token that each row may see.
        end: one past the last.
        bits: which tokens from ``first`` to ``end - 1`` a row sees, [rows, bytes], the lowest bit
            first; empty where it sees them all.
        kept: ascending tokens whose keys survive.
        alive: [query_heads].
        outputs: [query_heads, rows, value_dim], zero for pruned heads and rows without a key.
    """

    step: int
    layer: int
    context: int
    positions: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    bits: NDArray[np.uint8]
    kept: NDArray[np.int64]
    alive: NDArray[np.bool_]
    outputs: NDArray[np.float64]


_HELD_BYTES = 2 << 30
"""Of layers that stay in memory from step to step."""
_WAITING_BYTES = 1 << 26
"""Of what was decided and is not noted yet, all layers together."""

Observer = Callable[[LayerStep], None]


def stages_of(trace: AttentionTrace) -> list[Stage]:
    """Stages that a trace has."""
    present = {"prefill": trace.prefill_tokens > 0, "decode": trace.decode_tokens > 0}
    return [stage for stage in STAGES if present[stage]]


def shape_of(trace: AttentionTrace) -> Shape:
    """What a selector must know of a trace."""
    kinds, scores = trace.token_type, trace.scores
    layers = tuple(
        Shape(
            trace.num_layers, own.query_heads, own.kv_heads, own.key_dim, trace.tokens,
            trace.prefill_tokens, trace.causal, moved_value_dim(own), kinds, scores,
        )
        for own in map(trace.layer, range(trace.num_layers))
    )  # fmt: skip
    if len(set(layers)) == 1:
        return layers[0]
    return replace(
        layers[0],
        num_query_heads=max(own.num_query_heads for own in layers),
        num_kv_heads=max(own.num_kv_heads for own in layers),
        head_dim=max(own.head_dim for own in layers),
        layers=layers,
    )


def moved_value_dim(own: Layer) -> int | None:
    """Elements that DRAM moves for a value: those of a key if ``None``, 0 of a latent."""
    if own.kind == "latent":
        return 0
    return None if own.value_dim == own.key_dim else own.value_dim


def _load_layer(trace: AttentionTrace, policy: Policy, layer: int) -> kernels.Tensors:
    """A layer as it reads back under the policy of one stage and layer."""
    query, key, value = finite_tensors(trace, layer)
    own = trace.layer(layer)
    latent = own.kind == "latent"
    q = policy.quantization
    if isinstance(q, ProgressiveQuantization):
        first, both = progressive_planes(key, q.msb_bits, q.lsb_bits, q.split, q.scale)
        value_bits = q.fetched_value_bits
    else:
        assert not isinstance(q, KiviQuantization)
        first = both = quantize_dequantize(key, q.key_bits, q.key_scale or q.scale)
        value_bits = q.value_bits
    stored_both = kernels.NO_VALUES
    if latent:
        # Read once, with the keys: in their width, and in both planes where those were fetched.
        stored = first[..., : own.value_dim]
        if both is not first:
            stored_both = both[..., : own.value_dim]
    else:
        stored = quantize_dequantize(value, value_bits, q.scale)
    return kernels.Tensors(
        np.ascontiguousarray(query),
        np.ascontiguousarray(key),
        np.ascontiguousarray(value),
        np.ascontiguousarray(first),
        np.ascontiguousarray(both),
        np.ascontiguousarray(stored),
        np.ascontiguousarray(stored_both),
    )


class _StageRule:
    """What holds in one stage: policies by layer, threshold, value budgets."""

    def __init__(self, trace: AttentionTrace, policy: Policy) -> None:
        layers = trace.num_layers
        self.policy = policy
        self.by_layer = [policy.at_layer(i, layers) for i in range(layers)]
        q = policy.quantization
        self.threshold = q.threshold if isinstance(q, ProgressiveQuantization) else 0.0
        most = max(trace.layer(i).keys for i in range(layers))
        self.value_budgets = value_budgets(policy, layers, most)


class _Step(NamedTuple):
    """What one layer decided in one step, not noted yet.

    Attributes:
        step: 0 is the prefill.
        context: tokens before any pruning.
        heads: query heads alive.
        rows: query rows that were computed.
        queries: those of dense attention.
        kept: ascending tokens whose keys survive.
        read: those of them that some query sees.
        work: [1] of :data:`~accelsim.attention.kernels.WORK`, of the selection of tokens.
        counts, per_query, used_values, metrics: as the kernel found them.
    """

    step: int
    context: int
    heads: int
    rows: int
    queries: int
    kept: NDArray[np.int64]
    read: NDArray[np.int64]
    work: NDArray[Any]
    counts: NDArray[Any]
    per_query: NDArray[Any]
    used_values: NDArray[np.bool_]
    metrics: NDArray[Any]


class _Places(NamedTuple):
    """Tokens of several steps, one after the other.

    Attributes:
        step: which of the steps each is of.
        token: its number.
        ends: of each step, one past its last.
    """

    step: NDArray[np.int64]
    token: NDArray[np.int64]
    ends: NDArray[np.int64]


def _places(tokens: Sequence[NDArray[np.int64]]) -> _Places:
    sizes = [len(each) for each in tokens]
    step = np.repeat(np.arange(len(tokens)), sizes)
    return _Places(step, np.concatenate(tokens), np.cumsum(sizes))


def _cut(values: NDArray[Any], ends: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Parts of an array, each up to its end."""
    return [values[i:j] for i, j in itertools.pairwise([0, *ends.tolist()])]


class CascadeRule(OpenLoopRule):
    """Cascade, value pruning and static or progressive quantization.

    The kernel computes scores row by row and never stores a matrix of them, so long traces fit; the
    decisions are those of the selector that a running model asks. Where no cascade passes anything
    from layer to layer, one layer is in memory at a time; else as many as fit, and the others are
    read again in each step.
    """

    order: Order = "steps"

    def __init__(
        self, trace: AttentionTrace, policy: Policy, seed: int, observe: Observer | None
    ) -> None:
        self._trace, self._seed, self._observe = trace, seed, observe
        self._cascade = StepCascade(policy, shape_of(trace), seed)
        self._stages: dict[Stage, _StageRule] = {}
        for stage in stages_of(trace):
            own = policy.at_stage(stage)
            alike = (rule for rule in self._stages.values() if rule.policy is own)
            self._stages[stage] = next(alike, None) or _StageRule(trace, own)
        self._own = [trace.layer(i) for i in range(trace.num_layers)]
        self._bias = score_biases(trace, self._own)
        self._layers: dict[int, kernels.Tensors] = {}
        self._held_bytes = 0
        self._waiting: dict[int, list[_Step]] = {}
        self._stored: Quantization | None = None
        parts = [stage.policy for stage in self._stages.values()]
        if observe is None and all(p.tokens is None and p.heads is None for p in parts):
            self.order = "layers"
        # The schedule of the last stage; the prompt's may be another one.
        self._tokens = list(self._stages.values())[-1].policy.tokens

    def keep_ratio(self, layer: int, figures: dict[str, float]) -> float:
        """Of the schedule."""
        tokens = self._tokens
        if tokens is None or self._own[layer].kind == "cross":
            return 1.0
        return tokens.keep_ratio(layer, self._trace.num_layers)

    def attend(self, layer: int, positions: NDArray[np.int64], record: Recording) -> None:
        """One layer of one step, or of all steps after the prompt."""
        if positions[0] < self._trace.prefill_tokens:
            self._attend(layer, positions, record)
            return
        for position in positions:
            self._attend(layer, np.array([position]), record)

    def _attend(self, layer: int, positions: NDArray[np.int64], record: Recording) -> None:
        trace, context = self._trace, int(positions[-1]) + 1
        step = max(context - trace.prefill_tokens, 0)
        name: Stage = "decode" if step else "prefill"
        stage = self._stages[name]
        own, cascade = self._own[layer], self._cascade
        cross = own.kind == "cross"
        work = cascade.choose(layer, name, context, ranks=not cross)
        # Heads are pruned only where all layers have as many.
        tokens, heads = cascade.tokens, cascade.heads[: own.query_heads]
        asking = positions[tokens[positions]]
        received = cascade.token_importance
        if cross:
            # Tokens of another sequence, which no cascade ranks.
            context = own.keys
            tokens, received = np.ones(context, dtype=np.bool_), np.zeros(context)
        seen = sight(trace, layer, own, asking, context)
        rows = kernels.Rows(
            asking, tokens[:context].nonzero()[0], heads, context, seen.first, seen.end,
            seen.bits,
        )  # fmt: skip
        found = kernels.attend_layer(
            self._tensors(layer, stage),
            rows,
            kernels.Settings(
                own.scale,
                stage.threshold,
                stage.value_budgets[layer],
                self._seed + 1 + layer * 15485863 + step * 32452843,
                own.softcap or 0.0,
                kernels.NO_SINKS if own.sinks is None else own.sinks,
                self._bias[layer],
                stored_bias(trace, layer, own, asking, context),
            ),
            kernels.Importance(received, cascade.head_importance[: own.query_heads]),
        )
        if self._observe is not None:
            self._observe(
                LayerStep(
                    step, layer, context, asking, seen.first, seen.end, seen.bits, rows.kept, heads,
                    found.outputs,
                )
            )  # fmt: skip
        kept = rows.kept
        waiting = self._waiting.setdefault(layer, [])
        waiting.append(
            _Step(
                step, context, int(np.count_nonzero(heads)), len(asking), len(positions), kept,
                kept if seen.some is None else kept[seen.some[kept]], work, found.counts,
                found.per_query, found.used_values, found.metrics,
            )
        )  # fmt: skip
        size = 2 * kept.nbytes + found.used_values.nbytes + found.per_query.nbytes
        most = _WAITING_BYTES // max(trace.num_layers * size, 1)
        if not step or len(waiting) >= most or positions[-1] == trace.tokens - 1:
            self._note(layer, name, record)

    def _note(self, layer: int, name: Stage, record: Recording) -> None:
        """Note what steps of a layer asked for, many at a time: one by one it takes far longer."""
        own, stage = self._own[layer], self._stages[name]
        steps = self._waiting.pop(layer)
        contexts = np.array([each.context for each in steps])
        kept = _places([each.kept for each in steps])
        all_seen = all(each.read is each.kept for each in steps)
        read = kept if all_seen else _places([each.read for each in steps])
        used = np.concatenate([each.used_values for each in steps], axis=1)
        keys = np.zeros((own.kv_heads, len(steps), contexts[-1]), dtype=np.bool_)
        keys[:, read.step, read.token] = True
        values = np.zeros(keys.shape, dtype=np.bool_)
        values[:, kept.step, kept.token] = used
        record.compare(
            layer,
            kernels.joined([each.metrics for each in steps], kernels.METRICS),
            (sum(each.heads for each in steps), len(steps) * own.query_heads),
            (sum(each.rows for each in steps), sum(each.queries for each in steps)),
        )
        counts = kernels.joined([each.counts for each in steps], kernels.COUNTS)
        counts = counts.reshape(len(steps), own.kv_heads)
        columns = requested(
            stage.by_layer[layer], own.key_dim, keys, values, contexts, name == "decode",
            counts["refetch_queries"].T > 0, value_dim=moved_value_dim(own),
        )  # fmt: skip
        # Requests are in the order of the steps, and in a step by KV head.
        at, alive = np.nonzero(counts["queries"])
        mine = counts[at, alive]
        chosen = np.zeros(len(at), dtype=kernels.WORK)
        first = np.flatnonzero(np.diff(at, prepend=-1))
        chosen[first] = kernels.joined([each.work for each in steps], kernels.WORK)[at[first]]
        per_query = kernels.joined([each.per_query for each in steps], kernels.PER_QUERY)
        if own.mask.kind == "stored":
            per_query = per_query[per_query["keys"] > 0]
        scored = mine["query_keys"] + mine["refetch_query_keys"]
        accumulates = own.kind != "cross" and self._cascade.accumulates(name)
        fetched = _cut(read.token.astype(np.int32), read.ends)
        tokens = kept.token.astype(np.int32)
        multiplied = [
            _cut(tokens[of_head], np.cumsum(count))
            for of_head, count in zip(used, columns["values"], strict=True)
        ]
        record.add(
            (np.array([each.step for each in steps])[at], layer, contexts[at]),
            alive,
            {n: column[alive, at] for n, column in columns.items()}
            | {f"select_{n}": chosen[n] for n in kernels.WORK.names or ()}
            | {n: mine[n] for n in ("topk_size", "topk_target", "topk_elements")}
            | {
                "select_once": np.zeros(len(alive), dtype=np.bool_),
                "capped_scores": scored * (own.softcap is not None),
                "biased_scores": scored * (own.bias is not None),
                "score_updates": mine["query_keys"] * accumulates,
            },
            _cut(per_query, np.cumsum(mine["queries"])),
            (fetched[i] for i in at.tolist()),
            (multiplied[h][i] for i, h in zip(at.tolist(), alive.tolist(), strict=True)),
        )

    def _tensors(self, layer: int, stage: _StageRule) -> kernels.Tensors:
        """A layer as a stage reads it."""
        quantization = stage.policy.quantization
        if self._stored is not quantization and self._stored != quantization:
            self._layers, self._held_bytes = {}, 0  # never two copies of a long trace
            self._stored = quantization
        found = self._layers.get(layer)
        if found is None:
            if self.order == "layers":
                self._layers, self._held_bytes = {}, 0
            found = _load_layer(self._trace, stage.by_layer[layer], layer)
            size = sum({id(tensor): tensor.nbytes for tensor in found}.values())
            if not self._layers or self._held_bytes + size <= _HELD_BYTES:
                self._layers[layer] = found
                self._held_bytes += size
        return found
