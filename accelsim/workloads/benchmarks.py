"""The thirty benchmarks of SpAtten's evaluation, as descriptions that become workloads.

A description (``traces/benchmarks/*.yaml``) holds the shape, lengths, schedules and widths, says
what of it is published, and what is an assumption of ours. The workload that it gives has the sizes
of a pruned run, a seeded random importance of tokens and heads, and pass counts of a seeded quick
select; there are no tensors, hence no accuracy.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from accelsim.configs import Config, Unit, read_yaml, validate
from accelsim.errors import WorkloadError, did_you_mean
from accelsim.files import shipped
from accelsim.policies import Policy
from accelsim.traces import trace_names
from accelsim.workloads._table import Workload
from accelsim.workloads.models import Heads, Layers
from accelsim.workloads.queries import BEAT, QueryTable

Tokens = Annotated[int, Field(ge=0, le=1 << 20), Unit("tokens")]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Published(Config):
    """What SpAtten Fig. 14 prints for one platform."""

    speedup: Annotated[float, Field(gt=0, le=1e6), Unit("times")]
    energy_saving: Annotated[float, Field(gt=0, le=1e6), Unit("times")]


class Benchmark(Config):
    """One benchmark."""

    description: str
    source: str
    """What is published, and where."""
    assumptions: dict[str, str]
    """Key of this file to why we chose its value; everything else is published."""
    model: str
    layers: Layers
    heads: Heads
    head_dim: Annotated[int, Field(ge=1, le=65_536), Unit("elements")]
    kind: Literal["encoder", "generation"]
    """``encoder``: one pass over ``input_tokens``; ``generation``: one query a step after them."""
    input_tokens: Annotated[int, Field(ge=1, le=1 << 20), Unit("tokens")]
    generated_tokens: Tokens = 0
    policy: Policy
    """Schedules and widths, by stage: an encoder is prefill, a generation is decode.
    ``layer_keep`` replaces the token schedule."""
    layer_keep: tuple[Fraction, ...] = ()
    """Keep ratio of tokens by layer, where a released workload shows it."""
    refetch_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the rows whose LSB plane is fetched."""
    seed: Annotated[int, Field(ge=0, le=(1 << 32) - 1), Unit("(a seed)")] = 0
    published: dict[str, Published]
    """Platform to what the paper prints; for comparison only, no workload reads it."""

    @model_validator(mode="after")
    def _consistent(self) -> Benchmark:
        if self.kind == "generation" and not self.generated_tokens:
            raise ValueError("a generation needs 'generated_tokens'")
        if self.layer_keep and len(self.layer_keep) != self.layers:
            raise ValueError(f"'layer_keep' has {len(self.layer_keep)} of {self.layers} layers")
        return self

    @property
    def stage_policy(self) -> Policy:
        """The policy in the one stage that the workload has."""
        return self.policy.at_stage("prefill" if self.kind == "encoder" else "decode")

    def token_budget(self, layer: int, context: int) -> int:
        """Tokens of a context that survive in ``layer``, before the cascade."""
        tokens = self.stage_policy.tokens
        if tokens is not None and context < tokens.min_keys:
            return context
        ratio = 1.0 if tokens is None else tokens.keep_ratio(layer, self.layers)
        if self.layer_keep:
            ratio = self.layer_keep[layer]
        return max(int(np.ceil(ratio * context)), 1)

    def kept_heads(self, layer: int, context: int) -> int:
        """Heads that survive in ``layer`` with a context."""
        heads = self.stage_policy.heads
        if heads is None or context < heads.min_keys:
            return self.heads
        return heads.budget(layer, self.layers, self.heads)


def benchmark_root() -> Path:
    """Folder of the descriptions."""
    return shipped("traces/benchmarks")


def benchmark_names() -> list[str]:
    """Names of the benchmarks, sorted."""
    return sorted(path.stem for path in benchmark_root().glob("*.yaml"))


def benchmark_path(name: str) -> Path:
    """File of a benchmark.

    Raises:
        WorkloadError: no such benchmark; names the nearest, or says that there is no such file.
    """
    known = benchmark_names()
    if name not in known and Path(name).name != name:
        raise WorkloadError(
            f"{name}: no such file (expected a trace, a workload CSV or Parquet file, or the name "
            "of a benchmark)"
        )
    if name not in known:
        nearest = did_you_mean(name, [*known, *trace_names()])
        raise WorkloadError(f"unknown benchmark '{name}'{nearest}")
    return benchmark_root() / f"{name}.yaml"


def read_benchmark(name: str) -> Benchmark:
    """Read one description.

    Raises:
        WorkloadError: no such benchmark.
        ConfigError: a description that is not valid.
    """
    path = benchmark_path(name)
    return validate(Benchmark, read_yaml(path), str(path))


def load_benchmark(name: str, *, dense: bool = False, every: int = 1) -> Workload:
    """Return the workload of a benchmark; the same each time.

    Args:
        name: one of :func:`benchmark_names`.
        dense: nothing pruned and everything at 12 bit, SpAtten's own width.
        every: of a generation, only each ``every``-th step (a sample for sweeps).

    Raises:
        WorkloadError: no such benchmark.
    """
    bench = read_benchmark(name)
    if dense:
        bench = dense_version(bench)
    return synthesize(bench, name, every=every)


def dense_version(bench: Benchmark) -> Benchmark:
    """The same shape with nothing pruned, 12 bit."""
    return bench.model_copy(
        update={"policy": Policy(), "layer_keep": (), "refetch_fraction": 0.0},
    )


def synthesize(bench: Benchmark, name: str, *, every: int = 1) -> Workload:
    """Return the workload that a description stands for."""
    return _Synthesis(bench, name).run(every)


class _Synthesis:
    """Walks steps and layers with one seeded importance of tokens and heads."""

    def __init__(self, bench: Benchmark, name: str) -> None:
        self.bench, self.name = bench, name
        self.rng = np.random.default_rng(bench.seed)
        total = bench.input_tokens + bench.generated_tokens
        self.importance = self.rng.random(total)
        self.head_order = self.rng.permutation(bench.heads)
        self.columns: dict[str, list[int]] = defaultdict(list)
        self.key_indices: list[NDArray[np.int32]] = []
        self.value_indices: list[NDArray[np.int32]] = []
        self.queries: list[dict[str, NDArray[Any]]] = []
        policy = bench.stage_policy
        self.policies = [policy.at_layer(i, bench.layers) for i in range(bench.layers)]

    def run(self, every: int) -> Workload:
        bench = self.bench
        if bench.kind == "encoder":
            self._step(0, bench.input_tokens, encoder=True)
        else:
            for step in range(0, bench.generated_tokens, every):
                self._step(step, bench.input_tokens + step + 1, encoder=False)
        return Workload.from_columns(
            self.columns,
            head_dim=bench.head_dim,
            name=self.name,
            key_indices=tuple(self.key_indices),
            value_indices=tuple(self.value_indices),
            query_table=QueryTable.join(self.queries),
        )

    def _step(self, step: int, context: int, *, encoder: bool) -> None:
        kept = np.arange(context)
        for layer in range(self.bench.layers):
            budget = min(self.bench.token_budget(layer, context), len(kept))
            before = len(kept)
            if budget < before:
                ranks = self.importance[kept].copy()
                if not encoder:
                    ranks[-1] = 2.0  # the query's own token always survives
                kept = np.sort(kept[np.argsort(-ranks)[:budget]])
            self._layer(step, layer, context, kept, before, encoder)

    def _layer(
        self,
        step: int,
        layer: int,
        context: int,
        kept: NDArray[np.int64],
        before: int,
        encoder: bool,
    ) -> None:
        count = len(kept)
        queries = count if encoder else 1
        values = self.policies[layer].values
        key_bits, lsb_bits, value_bits = self.policies[layer].fetched_bits
        used = count if values is None else values.budget(count)
        select = (before, count) if count < before else (0, 0)
        for head in np.sort(self.head_order[: self.bench.kept_heads(layer, context)]):
            # All values are fetched for the queries of an encoder: some query uses each of them.
            fetched = count if encoder else used
            refetch = bool(self.rng.random() < self.bench.refetch_fraction)
            passes, elements, beats = quick_select_work(count, used, queries, self.rng)
            chosen, scanned, rounded = quick_select_work(*select, 1, self.rng)
            row = {
                "step": step,
                "layer": layer,
                "head": int(head),
                "context_tokens": context,
                "queries": queries,
                "keys": count,
                "values": fetched,
                "query_keys": queries * count,
                "query_values": queries * used,
                "key_bits": key_bits,
                "key_lsb_bits": lsb_bits,
                "value_bits": value_bits,
                "refetch_lsb": refetch,
                "topk_size": count if used < count else 0,
                "topk_target": used if used < count else 0,
                "topk_passes": passes.sum(),
                "topk_elements": elements.sum(),
                "topk_beats": beats.sum(),
                "select_size": select[0],
                "select_target": select[1],
                "select_passes": chosen[0],
                "select_elements": scanned[0],
                "select_beats": rounded[0],
            }
            for column, number in row.items():
                self.columns[column].append(int(number))
            self.queries.append(
                {
                    "position": kept if encoder else np.array([context - 1]),
                    "keys": np.full(queries, count),
                    "values": np.full(queries, used),
                    "refetch": np.full(queries, refetch),
                    "topk_passes": passes,
                    "topk_beats": beats,
                }
            )
            picked = kept
            if fetched < count:
                picked = np.sort(kept[self.rng.permutation(count)[:fetched]])
            self.key_indices.append(kept.astype(np.int32))
            self.value_indices.append(picked.astype(np.int32))
            select = (0, 0)


def quick_select_work(
    size: int | NDArray[np.int64],
    target: int | NDArray[np.int64],
    queries: int,
    rng: np.random.Generator,
    parallelism: int = BEAT,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Work of quick selects of the ``target`` largest of ``size`` values, for each of ``queries``.

    The values are distinct and in random order, so only the rank of each random pivot matters; all
    selections go on together. No selection (zeros) where nothing is dropped.

    Args:
        size: values given to each selection, or to each of them [queries].
        target: values that stay, likewise.
        queries: selections.
        rng: of the pivots.
        parallelism: values read in a cycle.

    Returns:
        Passes, values read in them, and cycles of reading with each pass rounded up; each
        int64 [queries].
    """
    passes, elements, beats = np.zeros((3, queries), np.int64)
    at = np.flatnonzero(np.broadcast_to(np.less(target, size), queries))
    high = np.broadcast_to(np.asarray(size, np.int64), queries)[at].copy()
    wanted = np.broadcast_to(np.asarray(target, np.int64) - 1, queries)[at]
    low = np.zeros_like(high)
    while len(at):
        passes[at] += 1
        elements[at] += high - low
        beats[at] += -(-(high - low) // parallelism)
        pivot = low + (rng.random(len(at)) * (high - low)).astype(np.int64)
        low = np.where(pivot < wanted, pivot + 1, low)
        high = np.where(pivot > wanted, pivot, high)
        going = pivot != wanted
        low, high, at, wanted = low[going], high[going], at[going], wanted[going]
    return passes, elements, beats
