"""The dense attention that a baseline computes for the same source."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        head_dim: elements of a key.
        sequences: that run together in every call.
        value_dim: elements of a value; those of a key if ``None``.
        latent: values are parts of the keys, and so are read with them.
        beside: layers of other heads or widths, and what their calls are.
    """

    calls: tuple[Call, ...]
    query_heads: int
    kv_heads: int
    head_dim: int
    sequences: int = 1
    value_dim: int | None = None
    latent: bool = False
    beside: tuple[AttentionShape, ...] = ()

    @property
    def parts(self) -> tuple[AttentionShape, ...]:
        """This one without ``beside``, and each of those: calls of one kind of layer."""
        return (replace(self, beside=()), *self.beside) if self.beside else (self,)

    @property
    def both_dims(self) -> int:
        """Elements of a key and of a value together."""
        return self.head_dim + (self.head_dim if self.value_dim is None else self.value_dim)

    @property
    def layer_calls(self) -> int:
        """Attention calls: layers times steps."""
        return sum(call.count for part in self.parts for call in part.calls)

    @property
    def flops(self) -> int:
        """Dense operations (a multiply-accumulate is two): scores and weighted values."""
        return sum(
            2 * part.sequences * call.count * call.pairs * part.query_heads * part.both_dims
            for part in self.parts
            for call in part.calls
        )

    @property
    def square_flops(self) -> int:
        """Operations of a kernel that computes masked scores too, and then drops them."""
        return sum(2 * part._squares * part.query_heads * part.both_dims for part in self.parts)

    @property
    def _squares(self) -> int:
        """Scores of one head, masked ones counted, of this part."""
        squares = sum(call.count * call.queries * call.keys for call in self.calls)
        return self.sequences * squares

    def score_bytes(self, element_bytes: float) -> int:
        """Bytes of the score matrix: written, read and written by the softmax, read again."""
        scores = sum(part._squares * part.query_heads for part in self.parts)
        return round(4 * scores * element_bytes)

    def bytes_moved(self, element_bytes: float) -> int:
        """Bytes of queries, keys, values and outputs, each once per call."""
        if self.beside:
            return sum(part.bytes_moved(element_bytes) for part in self.parts)
        stored = self.head_dim if self.latent else self.both_dims
        elements = sum(
            call.count
            * (
                call.keys * self.kv_heads * stored
                + call.queries * self.query_heads * self.both_dims
            )
            for call in self.calls
        )
        return round(self.sequences * elements * element_bytes)

    def to_calls(self) -> tuple[list[Calls], list[NDArray[np.int64]]]:
        """Return the calls of every kind that occurs, as kernels are measured, and their counts.

        One query is a decode, causal queries on themselves a prefill, others an encoder. Queries
        that continue a context, or see windows of it, count as a prefill with as many query-key
        pairs. Kernels are measured with values as wide as keys; others count as such of the mean
        width, which does as many operations and moves as many bytes (but of a latent, which is read
        once and counts twice).
        """
        if self.beside:
            several = [part.to_calls() for part in self.parts]
            return [c for part in several for c in part[0]], [
                n for part in several for n in part[1]
            ]
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
                    same * self.both_dims / 2,
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
        """The dense attention of the recorded run: a decoded token reads the keys that it sees.

        Sequences of a batch run in the same calls. Those of other lengths count as many of one: of
        a prompt the root mean square, of a decoded token the mean, rounded up, as query-key pairs
        go; calls of layers that the sequences do not share in the same way follow one another.
        """
        if trace.further:
            return _together([cls.from_trace(sequence) for sequence in trace.sequences])
        parts = []
        for stack in trace.stacks():
            shapes: dict[object, list[int]] = {}
            for index in range(stack.trace.num_layers):
                own = stack.trace.layer(index)
                shapes.setdefault((own.query_heads, own.kv_heads, own.widths), []).append(index)
            parts += [cls._of_layers(stack.trace, layers) for layers in shapes.values()]
        return _one_of(parts)

    @classmethod
    def _of_layers(cls, trace: AttentionTrace, indexes: Sequence[int]) -> AttentionShape:
        """Layers of one stack that have the same heads and widths."""
        alike: dict[object, list[int]] = {}
        for index in indexes:
            own = trace.layer(index)
            stored = index if own.mask.kind == "stored" else None
            alike.setdefault((own.mask, own.kind == "cross", own.keys, stored), []).append(index)
        steps = [np.arange(trace.prefill_tokens)] if trace.prefill_tokens else []
        steps += list(np.arange(trace.prefill_tokens, trace.tokens)[:, None])
        calls = []
        for positions in steps:
            queries, last = len(positions), int(positions[-1])
            for layers in alike.values():
                cross = trace.layer(layers[0]).kind == "cross"
                context = trace.layer(layers[0]).keys if cross else last + 1
                causal = trace.causal and not cross
                seen = _seen(trace, layers[0], positions, context)
                if queries == 1 and last >= trace.prefill_tokens:
                    calls.append(Call(len(layers), 1, seen, causal))
                else:
                    whole = Call(len(layers), queries, context, causal)
                    calls.append(replace(whole, hidden=whole.pairs - seen))
        own = trace.layer(indexes[0])
        return cls(
            tuple(calls), own.query_heads, own.kv_heads, own.key_dim,
            value_dim=None if own.value_dim == own.key_dim else own.value_dim,
            latent=own.kind == "latent",
        )  # fmt: skip

    @classmethod
    def from_workload(cls, workload: Workload) -> AttentionShape:
        """The dense attention that a workload stands for: all heads, all context tokens.

        Pruned heads have no rows and pruned queries no share in one, so every layer is counted with
        all heads that occur anywhere, and a prefill (step 0, several queries a row) with one query
        per context token and head. A layer all of whose heads are pruned in a step is not seen.
        Layers of other heads or widths stand beside.
        """
        layer_of = workload["layer"]
        shapes: dict[object, list[int]] = {}
        for layer in np.unique(layer_of).tolist() if workload.layers else ():
            shapes.setdefault(workload.layers[layer], []).append(layer)
        if len(shapes) > 1:
            alike = [workload.select(np.isin(layer_of, layers)) for layers in shapes.values()]
            parts = [cls.from_workload(one) for one in alike]
            return replace(parts[0], beside=tuple(parts[1:]))
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
        return cls(
            tuple(calls), group * kv_heads, kv_heads, workload.head_dim,
            value_dim=workload.value_dim, latent=workload.latent,
        )  # fmt: skip


def _seen(trace: AttentionTrace, index: int, positions: NDArray[np.int64], context: int) -> int:
    """Query-key pairs of one head that some queries see among the first ``context`` keys."""
    mask = trace.layer(index).mask
    if mask.kind == "stored":
        return sum(
            int(np.count_nonzero(trace.seen(index, positions[at : at + 256])[:, :context]))
            for at in range(0, len(positions), 256)
        )
    end = np.minimum(mask.end(positions, trace.layer(index).keys), context)
    return int((end - mask.first(positions)).sum())


def _one_of(parts: Sequence[AttentionShape]) -> AttentionShape:
    """Calls of several kinds as one shape; the opposite of :attr:`AttentionShape.parts`."""
    return replace(parts[0], beside=tuple(parts[1:]))


def _together(shapes: Sequence[AttentionShape]) -> AttentionShape:
    """Sequences in one batch: their calls step by step, each with as many as are still there."""
    if len(set(shapes)) == 1:
        return _one_of([replace(part, sequences=len(shapes)) for part in shapes[0].parts])
    if not _in_step(shapes):
        return _one_of([part for shape in shapes for part in shape.parts])
    merged: list[AttentionShape] = []
    for same in zip(*(shape.parts for shape in shapes), strict=True):
        longest = max(same, key=lambda part: len(part.calls))
        running: dict[int, list[Call]] = {}
        for place in range(len(longest.calls)):
            there = [part.calls[place] for part in same if place < len(part.calls)]
            running.setdefault(len(there), []).append(_mean_call(there))
        merged += [
            replace(longest, calls=tuple(calls), sequences=count)
            for count, calls in running.items()
        ]
    return _one_of(merged)


def _in_step(shapes: Sequence[AttentionShape]) -> bool:
    """Whether the sequences make the same calls, but for lengths, until some of them end."""
    if len({len(shape.parts) for shape in shapes}) > 1:
        return False
    for same in zip(*(shape.parts for shape in shapes), strict=True):
        kinds = [[(c.count, c.causal, c.queries == 1) for c in part.calls] for part in same]
        longest = max(kinds, key=len)
        if any(longest[: len(own)] != own for own in kinds):
            return False
    return True


def _mean_call(calls: Sequence[Call]) -> Call:
    """One call that stands for each of several of one step and of the same layers."""

    def typical(values: list[int], root: bool = False) -> int:
        mean = sum(value * value if root else value for value in values) / len(values)
        return math.ceil(math.sqrt(mean) if root else mean)

    first = calls[0]
    prompt = first.queries > 1
    return replace(
        first,
        queries=typical([call.queries for call in calls], prompt),
        context=typical([call.context for call in calls], prompt),
        hidden=typical([call.hidden for call in calls]),
    )
