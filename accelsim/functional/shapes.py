"""A policy on a shape: what it decides where only sizes are known, not queries, keys and values.

Ratios, budgets, widths and windows give the sizes. What depends on data is drawn from what the same
policy did to a recorded trace: how often a query needs the LSB plane, how the kept tokens cluster,
how far query heads that share a KV head use the same values. Passes of quick select are drawn as
for the benchmarks: they depend on ranks of random pivots alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.topk import PARALLELISM
from accelsim.errors import ConfigError, did_you_mean
from accelsim.functional._record import PolicyRun
from accelsim.functional._stored import value_budgets
from accelsim.policies import Budgeted, KiviQuantization, Policy, ProgressiveQuantization, Stage
from accelsim.policies.tokens import CascadeTokens
from accelsim.traces import trace_names, trace_path
from accelsim.workloads import QueryTable, Workload, quick_select_work
from accelsim.workloads.indices import DrawnIndices
from accelsim.workloads.models import ModelShape
from accelsim.workloads.shapes import PREFIX, ShapeSource

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_LIKE = {True: "smollm2-64p-32d", False: "minilm-128"}
"""Shipped trace of a decoder, and of an encoder."""


def trace_like(source: ShapeSource, causal: bool) -> Path:
    """File of the trace that a shape is like.

    Raises:
        ConfigError: no such file, and no shipped trace of that name.
    """
    name, shipped = source.like or _LIKE[causal], trace_names()
    if name in shipped:
        return trace_path(name)
    if not Path(name).is_file():
        raise ConfigError(
            f"{PREFIX}{source.model}: key 'like': no trace '{name}'{did_you_mean(name, shipped)}; "
            "expected a .safetensors file, or a shipped trace"
        )
    return Path(name)


def why_not_without_tensors(policy: Policy, shape: ModelShape, source: ShapeSource) -> str:
    """Say why a policy cannot decide on a shape, or return an empty string."""
    stage = policy.at_stage("decode" if source.decode else "prefill")
    rule = stage.selection
    known = ("streaming_llm", "tova")
    if rule is not None and rule.kind not in known:
        return (
            f"policy '{rule.kind}' ranks tokens by their queries and keys, which a shape does not "
            "have; expected a trace (accelsim capture), or a policy of ratios, widths, windows or "
            "TOVA (dense, spatten-*, static-*, progressive-*, kivi-4, streaming-llm, tova*)"
        )
    if rule is not None and getattr(rule, "share", "layer") != "layer":
        return (
            f"policy '{rule.kind}': key 'selection.share': expected layer on a shape, where which "
            "heads would agree is not known"
        )
    on_cache = rule is not None or isinstance(stage.quantization, KiviQuantization)
    if on_cache and not source.decode:
        name = "kivi" if rule is None else rule.kind
        return f"policy '{name}' acts on the cache of a decoder; expected --decode above 0"
    prunes = [p for p in policy.by_stage().values() if p.tokens or p.selection]
    if shape.window_tokens is not None and prunes:
        return (
            "the policy prunes tokens for all layers, and layers of this model see different ones; "
            "expected one without 'tokens' and 'selection'"
        )
    by_layer = stage.tokens is not None and stage.tokens.accumulate == "layers"
    if by_layer and not source.decode and shape.causal:
        return "'accumulate: layers' ranks each query of a prompt by tensors; expected a trace"
    return ""


def draws(policy: Policy, source: ShapeSource) -> bool:
    """Whether something that a policy does depends on data."""
    stage = policy.at_stage("decode" if source.decode else "prefill")
    q = stage.quantization
    planes = isinstance(q, ProgressiveQuantization) and q.threshold > 0
    return planes or _gathers(stage) or stage.values is not None


def _gathers(policy: Policy) -> bool:
    """Whether the tokens that stay lie where the data puts them."""
    rule = policy.selection
    return policy.tokens is not None or (rule is not None and rule.kind == "tova")


@dataclass(frozen=True)
class Habits:
    """What a policy did to a trace, by layer: lists of what its fetches showed.

    Attributes:
        refetch: share of the queries of a fetch that needed the LSB plane.
        runs: contiguous runs of the kept keys between the protected ends, over those expected of as
            many keys in random places.
        others: how far a further query head of a KV head adds values of its own: 0, the same values
            as the first; 1, as many as independent choices would.
        below: share of the tokens dropped in a step by the layer above that this layer still held.
    """

    refetch: list[Floats]
    runs: list[Floats]
    others: list[Floats]
    below: list[Floats]

    @classmethod
    def of(cls, run: PolicyRun, policy: Policy, decoding: bool) -> Habits:
        """Look at the rows of one stage.

        Raises:
            ConfigError: the trace has no such stage.
        """
        work = run.workload
        table, lists = work.query_table, work.key_indices
        assert table is not None
        assert lists is not None
        here = np.flatnonzero((work["step"] > 0) == decoding)
        if not len(here):
            stage = "decode steps" if decoding else "prompt"
            raise ConfigError(f"trace '{work.name}' has no {stage} to draw from; expected some")
        rules = policy.at_stage("decode" if decoding else "prefill")
        first, recent = _protected(rules.tokens, decoding)
        gathers = _gathers(rules)
        layers = len(run.per_layer)
        refetch, runs, others, below = (_lists(layers) for _ in range(4))
        kept = {}
        for row in here.tolist():
            layer = int(work["layer"][row])
            mine = slice(table.start[row], table.start[row + 1])
            refetch[layer].append(float(table.refetch[mine].mean()))
            if gathers:
                ratio = _clustering(lists[row], int(work["context_tokens"][row]), first, recent)
                runs[layer] += ratio
                kept[int(work["step"][row]), layer] = lists[row]
            if decoding:
                others[layer] += _further(
                    int(work["keys"][row]), table.values[mine], int(work["values"][row])
                )
        for (step, layer), now in kept.items():
            before, own = kept.get((step - 1, layer)), kept.get((step - 1, layer + 1))
            if before is not None and own is not None:
                dropped = np.setdiff1d(before, now)
                below[layer + 1] += [float(np.isin(dropped, own).mean())] if len(dropped) else []
        found = (refetch, runs, others, below)
        return cls(*([np.array(each) for each in name] for name in found))

    def draw(self, name: str, place: float, count: int, rng: np.random.Generator) -> Floats:
        """Draw from one layer of the trace.

        Args:
            name: of an attribute.
            place: of the layer in the model's depth, in [0, 1).
            count: how many.
            rng: of the draw.

        Returns:
            [count]; 1 where the trace showed nothing (nothing was pruned there).
        """
        lists: list[Floats] = getattr(self, name)
        known = lists[int(place * len(lists))]
        if not len(known):
            known = np.concatenate(lists)
        if not len(known):
            return np.ones(count)
        return np.asarray(rng.choice(known, count))


def _lists(count: int) -> list[list[float]]:
    return [[] for _ in range(count)]


def _protected(rule: CascadeTokens | None, ordered: bool) -> tuple[int, int]:
    """Tokens at either end that stay; the newest is the query's own."""
    first, recent = (0, 0) if rule is None else rule.protected_ranges()
    return first, max(recent, 1) if ordered else recent


def _clustering(kept: NDArray[np.int32], context: int, first: int, recent: int) -> list[float]:
    """Runs of the kept tokens between the protected ends over the expected ones, if some left."""
    inner = kept[(kept >= first) & (kept < context - recent)]
    size, count = context - first - recent, len(inner)
    if not 0 < count < size:
        return []
    runs = 1 + int((np.diff(inner) > 1).sum())
    return [runs / (count * (size - count + 1) / size)]


def _further(keys: int, used: NDArray[np.int32], union: int) -> list[float]:
    """See :attr:`Habits.others`."""
    share = float(used.mean()) / keys
    if len(used) < 2 or share >= 1 or union >= keys:
        return []
    independent = np.log1p(-union / keys) / np.log1p(-share)
    return [float(np.clip((independent - 1) / (len(used) - 1), 0, 1))]


def shape_workload(
    shape: ModelShape, source: ShapeSource, policy: Policy, habits: Habits | None = None
) -> Workload:
    """What a policy asks of the hardware on a shape.

    Args:
        shape: of the model.
        source: context, decoded tokens, copies, seed.
        policy: what to keep.
        habits: of the trace that it is like; needed where :func:`draws`.

    Raises:
        ConfigError: a policy that needs tensors.
    """
    problem = why_not_without_tensors(policy, shape, source)
    if problem:
        raise ConfigError(f"{PREFIX}{source.model}: {problem}")
    return _Synthesis(shape, source, policy, habits).run().batched(source.batch)


@dataclass
class _Set:
    """Kept tokens of one layer of one step: ends that stay, and some between them in runs."""

    context: int
    first: int
    last: int
    count: int
    runs: int
    seed: tuple[int, ...]

    def draw(self) -> NDArray[np.int32]:
        """Ascending tokens, int32 [kept]."""
        size = self.context - self.first - self.last
        head = np.arange(self.first)
        tail = np.arange(self.context - self.last, self.context)
        if self.count in (0, size):
            inner = self.first + np.arange(self.count)
        else:
            rng = np.random.default_rng(self.seed)
            lengths = _parts(self.count, self.runs, rng)
            gaps = _parts(size - self.count + 2, self.runs + 1, rng)
            gaps[[0, -1]] -= 1
            starts = self.first + np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
            within = np.arange(self.count) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            inner = np.repeat(starts, lengths) + within
        return np.concatenate([head, inner, tail]).astype(np.int32)

    @property
    def total(self) -> int:
        """Kept tokens."""
        return self.first + self.count + self.last


def _parts(total: int, parts: int, rng: np.random.Generator) -> Ints:
    """Cut a number into positive parts, all cuts alike; int64 [parts]."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False, shuffle=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


class _Cascade:
    """How many tokens and heads of each layer are left, step after step.

    A token that a layer drops may have been dropped by the next one before, which then drops
    another: how often is drawn.
    """

    def __init__(
        self, shape: ModelShape, source: ShapeSource, policy: Policy, habits: Habits | None
    ) -> None:
        self._shape, self._policy, self._habits = shape, policy, habits
        self._rng = np.random.default_rng((source.seed, 6))
        self.tokens = [source.context] * shape.layers
        self.heads = [shape.query_heads] * shape.layers
        self.selects: list[tuple[int, int]] = []
        if shape.causal and source.decode:
            self.step("prefill", source.context, new=0)

    def step(self, stage: Stage, context: int, new: int) -> tuple[list[int], list[int]]:
        """Prune all layers in one step.

        Args:
            stage: whose rules hold.
            context: tokens so far.
            new: tokens that came with the step.

        Returns:
            Tokens and query heads alive, by layer.
        """
        rule, heads = (getattr(self._policy.at_stage(stage), name) for name in ("tokens", "heads"))
        layers, every = self._shape.layers, self._shape.query_heads
        ordered = self._shape.causal or stage == "decode"
        before, living, dropped = context, every, 0
        tokens, self.selects = [], []
        for layer in range(layers):
            held = self.tokens[layer] + new
            left = min(before, max(held - self._alive_below(layer, dropped), 1))
            select = (0, 0)
            if rule is not None:
                first, recent = _protected(rule, ordered)
                forced = min(first + recent, left)
                target = max(rule.budget(layer, layers, context) - forced, 0)
                if left - forced > target:
                    select = (left - forced, target) if target else select
                    left = forced + target
            self.selects.append(select)
            dropped = held - left
            stays = rule is None or rule.permanent
            self.tokens[layer] = left if stays else self.tokens[layer] + new
            tokens.append(left)
            before = left
            living = min(living, self.heads[layer])
            if heads is not None and context >= heads.min_keys:
                living = min(living, heads.budget(layer, layers, every))
            self.heads[layer] = living
        return tokens, list(self.heads)

    def _alive_below(self, layer: int, dropped: int) -> int:
        """Of tokens that the layer above dropped in a step, those that a layer still held."""
        if not dropped or self._habits is None:
            return dropped
        share = self._habits.draw("below", layer / self._shape.layers, 1, self._rng)[0]
        return int(self._rng.binomial(dropped, share))


class _Eviction:
    """How many tokens of each layer are left where one budget holds for all its heads (TOVA).

    The prompt stays whole until it is over; the query's own token has no score yet, and stays.
    """

    def __init__(self, shape: ModelShape, source: ShapeSource, rule: Budgeted) -> None:
        layers = range(shape.layers)
        self._budgets = [rule.at_layer(layer, shape.layers).budget for layer in layers]
        self._heads = [shape.query_heads] * shape.layers
        self.tokens = [source.context] * shape.layers
        self.selects: list[tuple[int, int]] = []

    def step(self, stage: Stage, context: int, new: int) -> tuple[list[int], list[int]]:
        """As of :class:`_Cascade`."""
        targets = [max(budget(context), 1) for budget in self._budgets]
        pairs = list(zip(self.tokens, targets, strict=True))
        self.selects = [(held, most - 1) if held + new > most else (0, 0) for held, most in pairs]
        self.tokens = [min(held + new, most) for held, most in pairs]
        return list(self.tokens), self._heads


class _Synthesis:
    """Walks steps and layers; all rows of a layer at once."""

    def __init__(
        self, shape: ModelShape, source: ShapeSource, policy: Policy, habits: Habits | None
    ) -> None:
        self.shape, self.source, self.habits = shape, source, habits
        self.stage: Stage = "decode" if source.decode else "prefill"
        self.policy = policy.at_stage(self.stage)
        layers = range(shape.layers)
        self.policies = [self.policy.at_layer(i, shape.layers) for i in layers]
        rule = self.policy.selection
        self.evicts = rule is not None and _gathers(self.policy)
        self.cascade: _Cascade | _Eviction = (
            _Eviction(shape, source, rule)
            if self.evicts and isinstance(rule, Budgeted)
            else _Cascade(shape, source, policy, habits)
        )
        self.budgets: Ints | None = None
        if self.policy.values is not None:
            tokens = source.context + source.decode
            self.budgets = value_budgets(self.policy, shape.layers, tokens)
        order = np.random.default_rng((source.seed, 1)).permutation(shape.query_heads)
        self.rank = np.argsort(order)
        self.columns: list[dict[str, NDArray[Any]]] = []
        self.queries: list[dict[str, NDArray[Any]]] = []
        self.sets: list[_Set] = []
        self.set_of: list[Ints] = []
        q = self.policy.quantization
        self.planes = isinstance(q, ProgressiveQuantization) and q.threshold > 0

    def run(self) -> Workload:
        """Return the workload of one sequence."""
        source, shape = self.source, self.shape
        for step in range(1, source.decode + 1) if source.decode else (0,):
            context = source.context + step
            tokens, heads = self.cascade.step(self.stage, context, new=int(step > 0))
            for layer in range(shape.layers):
                kept = self._kept(step, layer, context, tokens[layer])
                self._layer(step, layer, context, kept, heads[layer])
        columns = {
            name: np.concatenate([part[name] for part in self.columns]) for name in self.columns[0]
        }
        fields: dict[str, Any] = {}
        numbers = np.concatenate(self.set_of)
        if any(kept.total < kept.context for kept in self.sets) or self.budgets is not None:
            fields["key_indices"] = DrawnIndices(lambda at: self.sets[at].draw(), numbers)
            fields["value_indices"] = _values_of(
                fields["key_indices"], columns["keys"], columns["values"], source.seed
            )
        last = source.context + source.decode
        fields["query_table"] = QueryTable.join(self.queries)
        return Workload.from_columns(
            columns,
            head_dim=shape.head_dim,
            name=f"{source.model}, {last} tokens",
            **fields,
        )

    def _kept(self, step: int, layer: int, context: int, tokens: int) -> _Set:
        """Tokens that the last query of a layer scores, or that all queries of a prompt do."""
        rule, cascade = self.policy.selection, self.policy.tokens
        seed = (self.source.seed, 2, step, layer)
        if rule is not None and not self.evicts:
            sinks = int(getattr(rule, "sinks", 0))
            own = rule.at_layer(layer, self.shape.layers)  # type: ignore[attr-defined]
            newest = max(own.budget(context) - sinks, 1)
            newest = min(newest, max(context - sinks, 1))
            return _Set(context, min(sinks, context - newest), newest, 0, 1, seed)
        if tokens == context:
            seen = self.shape.seen(layer, context) if step else context
            return _Set(context, 0, seen, 0, 1, seed)
        ordered = self.shape.causal or step > 0
        first, recent = _protected(cascade, ordered)
        first, recent = min(first, tokens), min(recent, max(tokens - first, 0))
        count, size = tokens - first - recent, context - first - recent
        ratio = 1.0
        if self.habits is not None:
            rng = np.random.default_rng((*seed, 3))
            ratio = float(self.habits.draw("runs", self._place(layer), 1, rng)[0])
        expected = count * (size - count + 1) / size if size else 0
        runs = int(np.clip(round(ratio * expected), 1, max(min(count, size - count + 1), 1)))
        return _Set(context, first, recent, count, runs, seed)

    def _place(self, layer: int) -> float:
        return (layer + 0.5) / self.shape.layers

    def _layer(self, step: int, layer: int, context: int, kept: _Set, heads: int) -> None:
        shape, policy = self.shape, self.policies[layer]
        rng = np.random.default_rng((self.source.seed, 4, step, layer))
        alive = (self.rank < heads).reshape(shape.kv_heads, -1).sum(axis=1)
        rows = np.flatnonzero(alive)
        group, count = alive[rows], kept.total
        position, scored = self._positions(step, layer, kept)
        # Queries of a row: by position, then by head.
        each = np.concatenate([np.repeat(scored, g) for g in group])
        where = np.concatenate([np.repeat(position, g) for g in group])
        start = np.concatenate(([0], np.cumsum(group * len(position))))
        used = each if self.budgets is None else self.budgets[layer][each]
        refetch = np.zeros(len(each), dtype=np.bool_)
        if self.planes and self.habits is not None:
            likely = self.habits.draw("refetch", self._place(layer), len(rows), rng)
            refetch = rng.random(len(each)) < np.repeat(likely, np.diff(start))
        passes, elements, beats = quick_select_work(each, used, len(each), rng)
        values = np.full(len(rows), count)
        if step:
            values = self._union(layer, count, int(used[0]), group, rng)
        keys = np.full(len(rows), count)
        key_bits, lsb_bits, value_bits = policy.fetched_bits
        metadata, residual = self._beside(policy, kept, values, step > 0)
        sums = {
            name: np.add.reduceat(array, start[:-1], dtype=np.int64)
            for name, array in (("query_keys", each), ("topk_elements", elements))
        }
        again = np.logical_or.reduceat(refetch, start[:-1])
        largest = np.maximum.reduceat(np.where(used < each, each, 0), start[:-1])
        stay = largest if self.budgets is None else self.budgets[layer][largest]
        select = np.zeros((5, len(rows)), np.int64)
        size, target = self.cascade.selects[layer]
        if size:
            select[:, 0] = [size, target, *_selection_work(size, target, self.evicts, rng)]
        names = ("size", "target", "passes", "elements", "beats")
        self.columns.append(
            {
                "step": np.full(len(rows), step),
                "layer": np.full(len(rows), layer),
                "head": rows,
                "context_tokens": np.full(len(rows), context),
                "keys": keys,
                "values": values,
                "key_bits": np.full(len(rows), key_bits),
                "key_lsb_bits": np.full(len(rows), lsb_bits),
                "value_bits": np.full(len(rows), value_bits),
                "refetch_lsb": again,
                "topk_size": largest,
                "topk_target": np.where(largest > 0, stay, 0),
                "topk_elements": sums["topk_elements"],
                "select_once": (select[0] > 0) & (self.policy.selection is not None),
                "score_updates": sums["query_keys"] * int(_gathers(self.policy)),
                "metadata_bytes": metadata,
                "residual_bytes": residual,
                "key_runs": np.full(len(rows), _run_count(kept)),
            }
            | {f"select_{name}": row for name, row in zip(names, select, strict=True)}
        )
        fields = {
            "position": where,
            "keys": each,
            "values": used,
            "refetch": refetch,
            "topk_passes": passes,
            "topk_beats": beats,
        }
        for first, last in zip(start[:-1].tolist(), start[1:].tolist(), strict=True):
            self.queries.append({name: array[first:last] for name, array in fields.items()})
        self.set_of.append(np.full(len(rows), len(self.sets)))
        self.sets.append(kept)

    def _positions(self, step: int, layer: int, kept: _Set) -> tuple[Ints, Ints]:
        """Positions of the queries of a head, and how many keys each scores."""
        if step:
            return np.array([kept.context - 1]), np.array([kept.total])
        tokens = kept.draw().astype(np.int64)
        if not self.shape.causal:
            return tokens, np.full(len(tokens), len(tokens))
        seen = np.arange(1, len(tokens) + 1)
        window = self.shape.window(layer)
        return tokens, seen if window is None else np.minimum(seen, window)

    def _union(
        self, layer: int, keys: int, used: int, group: Ints, rng: np.random.Generator
    ) -> Ints:
        """Values that the query heads of each row use together."""
        if used >= keys:
            return np.full(len(group), keys)
        others = np.ones(len(group))
        if self.habits is not None:
            others = self.habits.draw("others", self._place(layer), len(group), rng)
        share = -np.expm1(np.log1p(-used / keys) * (1 + (group - 1) * others))
        union = np.rint(keys * share).astype(np.int64)
        return np.asarray(np.clip(union, used, np.minimum(keys, used * group)))

    def _beside(
        self, policy: Policy, kept: _Set, values: Ints, decoding: bool
    ) -> tuple[Ints, Ints]:
        """Bytes beside vectors of the nominal width, of each row."""
        none = np.zeros_like(values)
        q = policy.quantization
        if getattr(q, "scale", "") == "per_tensor":
            return none, none
        # Which tokens matters to a KIVI cache alone, and there a cascade has removed none.
        token = np.arange(kept.context)
        mask = (token < kept.first) | (token >= kept.context - kept.count - kept.last)
        held = np.flatnonzero(mask)
        metadata, residual = none.copy(), none.copy()
        for used in np.unique(values).tolist():
            some = np.zeros_like(mask)
            some[held[np.linspace(0, len(held) - 1, used).astype(np.int64)]] = True
            got = q.beside(
                mask[None, None],
                some[None, None],
                np.array([kept.context]),
                decoding,
                self.shape.head_dim,
            )
            metadata[values == used], residual[values == used] = (int(part[0, 0]) for part in got)
        return metadata, residual


def _selection_work(
    size: int, target: int, evicts: bool, rng: np.random.Generator
) -> tuple[int, ...]:
    """Passes, elements and beats of a selection; one key that leaves is found in one pass."""
    if evicts and target == size - 1:
        return 1, size, -(-size // PARALLELISM)
    if not target:
        return 0, 0, 0
    return tuple(int(number[0]) for number in quick_select_work(size, target, 1, rng))


def _run_count(kept: _Set) -> int:
    """Contiguous runs of a set, as drawn."""
    if kept.total >= kept.context:
        return 1
    return int(1 + (np.diff(kept.draw()) > 1).sum()) if kept.count else 1 + int(kept.first > 0)


def _values_of(keys: DrawnIndices, counts: Ints, values: Ints, seed: int) -> DrawnIndices:
    """Of the kept keys of each row, as many as it reads the values of, in random places."""

    def draw(row: int) -> NDArray[np.int32]:
        kept = keys[row]
        if values[row] >= counts[row]:
            return kept
        rng = np.random.default_rng((seed, 5, row))
        some = rng.choice(len(kept), int(values[row]), replace=False, shuffle=False)
        return np.asarray(kept[np.sort(some)])

    return DrawnIndices(draw, np.arange(len(counts)))
