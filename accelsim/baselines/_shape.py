"""The dense attention that a baseline computes for the same source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from accelsim.baselines._kernels import Calls
from accelsim.traces import AttentionTrace
from accelsim.workloads import Workload
from accelsim.workloads.models import ModelShape


@dataclass(frozen=True)
class Call:
    """``count`` equal calls of dense attention of one layer.

    Attributes:
        count: how many such calls.
        queries: query tokens.
        context: key tokens.
        causal: whether the queries are the last of the context, seen triangularly.
        hidden: query-key pairs of one head that a mask hides beyond that, as windows do.
        window: newest keys that a causal query sees, where that is what hides them; 0 for all.
    """

    count: int
    queries: int
    context: int
    causal: bool
    hidden: int = 0
    window: int = 0

    @property
    def pairs(self) -> int:
        """Query-key pairs of one head, before any pruning."""
        if not self.causal:
            return self.queries * self.context - self.hidden
        first = self.context - self.queries + 1
        return self.queries * (first + self.context) // 2 - self.hidden

    @property
    def keys(self) -> int:
        """Keys that some query sees."""
        return min(self.context, self.window + self.queries - 1) if self.window else self.context

    @classmethod
    def windowed(cls, count: int, queries: int, context: int, causal: bool, window: int) -> Call:
        """A call whose causal queries see so many of the newest keys; all for a window of 0."""
        beyond = max(context - window, 0) if window else 0
        some = min(beyond, queries)
        return cls(count, queries, context, causal, some * (2 * beyond - some + 1) // 2, window)


@dataclass(frozen=True)
class AttentionShape:
    """Dense attention over all layers and steps, as a GPU or CPU runs it.

    Attributes:
        calls: what is called, grouped by size.
        query_heads: query heads per layer.
        kv_heads: key/value heads per layer.
        head_dim: elements of a vector.
        sequences: that run together in every call.
    """

    calls: tuple[Call, ...]
    query_heads: int
    kv_heads: int
    head_dim: int
    sequences: int = 1

    @property
    def layer_calls(self) -> int:
        """Attention calls: layers times steps."""
        return sum(call.count for call in self.calls)

    @property
    def flops(self) -> int:
        """Dense operations (a multiply-accumulate is two): scores and weighted values."""
        pairs = sum(call.count * call.pairs for call in self.calls)
        return 4 * self.sequences * pairs * self.query_heads * self.head_dim

    @property
    def square_flops(self) -> int:
        """Operations of a kernel that computes masked scores too, and then drops them."""
        pairs = sum(call.count * call.queries * call.keys for call in self.calls)
        return 4 * self.sequences * pairs * self.query_heads * self.head_dim

    def score_bytes(self, element_bytes: float) -> int:
        """Bytes of the score matrix: written, read and written by the softmax, read again."""
        scores = sum(call.count * call.queries * call.keys for call in self.calls)
        return round(4 * self.sequences * scores * self.query_heads * element_bytes)

    def bytes_moved(self, element_bytes: float) -> int:
        """Bytes of queries, keys, values and outputs, each once per call."""
        elements = sum(
            call.count
            * (2 * call.keys * self.kv_heads + 2 * call.queries * self.query_heads)
            * self.head_dim
            for call in self.calls
        )
        return round(self.sequences * elements * element_bytes)

    def to_calls(self) -> tuple[list[Calls], list[NDArray[np.int64]]]:
        """Return the calls of every kind that occurs, as kernels are measured, and their counts.

        One query is a decode, causal queries on themselves a prefill, others an encoder. Queries
        that continue a context, or see windows of it, count as a prefill with as many query-key
        pairs.
        """
        sizes: dict[str, list[tuple[float, int, int]]] = {}
        for call in self.calls:
            kind = "decode" if call.queries == 1 else "prefill" if call.causal else "encoder"
            tokens = float(call.context)
            if call.queries not in (1, call.context) or (call.hidden and not call.window):
                tokens = (2 * call.pairs) ** 0.5 if call.causal else call.pairs**0.5
            sizes.setdefault(kind, []).append((tokens, call.window, call.count))
        calls, counts = [], []
        for kind, rows in sizes.items():
            tokens_of, window, count = (np.array(column) for column in zip(*rows, strict=True))
            same = np.ones_like(tokens_of)
            calls.append(
                Calls(
                    kind,
                    same * self.sequences,
                    tokens_of,
                    same * self.query_heads,
                    same * self.kv_heads,
                    same * self.head_dim,
                    window.astype(np.float64),
                )
            )
            counts.append(count.astype(np.int64))
        return calls, counts

    @classmethod
    def from_model(
        cls, model: ModelShape, context: int, decode: int, sequences: int
    ) -> AttentionShape:
        """The dense attention of a model: of ``decode`` steps after a context, or of the context.

        Args:
            model: sizes.
            context: tokens before the first decoded one.
            decode: tokens decoded; the prompt itself if 0.
            sequences: copies that run together.
        """
        windows: dict[int, int] = {}
        for layer in range(model.layers):
            window = model.window(layer) or 0
            windows[window] = windows.get(window, 0) + 1
        calls = [
            Call.windowed(count, 1 if decode else context, context + step, model.causal, window)
            for step in (range(1, decode + 1) if decode else (0,))
            for window, count in windows.items()
        ]
        return cls(tuple(calls), model.query_heads, model.kv_heads, model.head_dim, sequences)

    @classmethod
    def from_trace(cls, trace: AttentionTrace) -> AttentionShape:
        """The dense attention of the recorded run: a decoded token reads the keys that it sees."""
        masks = Counter(trace.layer(layer).mask for layer in range(trace.num_layers))
        steps = [np.arange(trace.prefill_tokens)] if trace.prefill_tokens else []
        steps += list(np.arange(trace.prefill_tokens, trace.tokens)[:, None])
        calls = []
        for positions in steps:
            context, queries = int(positions[-1]) + 1, len(positions)
            for mask, count in masks.items():
                end = np.minimum(mask.end(positions, trace.tokens), context)
                seen = int((end - mask.first(positions)).sum())
                if queries == 1 and context > trace.prefill_tokens:
                    calls.append(Call(count, 1, seen, trace.causal))
                else:
                    whole = Call(count, queries, context, trace.causal)
                    calls.append(replace(whole, hidden=whole.pairs - seen))
        return cls(tuple(calls), trace.num_query_heads, trace.num_kv_heads, trace.head_dim)

    @classmethod
    def from_workload(cls, workload: Workload) -> AttentionShape:
        """The dense attention that a workload stands for: all heads, all context tokens.

        Pruned heads have no rows and pruned queries no share in one, so every layer is counted with
        all heads that occur anywhere, and a prefill (step 0, several queries a row) with one query
        per context token and head. A layer all of whose heads are pruned in a step is not seen.
        """
        steps, layers, queries = workload["step"], workload["layer"], workload["queries"]
        contexts = workload["context_tokens"].astype(np.int64)
        prefill = (steps == 0) & bool((queries[steps == 0] > 1).any())
        in_step = queries[~prefill] if not prefill.all() else -(-queries // np.maximum(contexts, 1))
        group = max(int(in_step.max()), 1)
        # In a causal prefill some query sees fewer keys than were fetched.
        causal = bool((workload["query_keys"] < queries * workload["keys"].astype(np.int64)).any())
        pairs = steps.astype(np.int64) * (int(layers.max()) + 1) + layers
        _, first = np.unique(pairs, return_index=True)
        calls = [
            Call(int(count), 1, int(size), True)
            for size, count in zip(
                *np.unique(contexts[first[~prefill[first]]], return_counts=True), strict=True
            )
        ]
        calls += [
            Call(int(count), int(size), int(size), causal)
            for size, count in zip(
                *np.unique(contexts[first[prefill[first]]], return_counts=True), strict=True
            )
        ]
        kv_heads = len(np.unique(workload["head"]))
        return cls(tuple(calls), group * kv_heads, kv_heads, workload.head_dim)
