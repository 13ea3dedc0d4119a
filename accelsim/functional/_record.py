"""What a walk over a trace leaves behind: the requests of a workload, and figures of accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import METRICS, PER_QUERY, joined
from accelsim.traces import AttentionTrace
from accelsim.workloads import LayerShape, QueryTable, RivalWorkload, Workload

NAMES = METRICS.names or ()
At = int | NDArray[np.int64]


@dataclass(frozen=True)
class PolicyRun:
    """What a policy decided, and how far the attention moved.

    Attributes:
        workload: one row per step, layer and KV head.
        accuracy: see :func:`accelsim.functional.run_policy`.
        per_layer: the same figures by layer, with ``layer`` and ``token_keep_ratio``.
    """

    workload: Workload
    accuracy: dict[str, Any]
    per_layer: list[dict[str, Any]]


class StackRecord:
    """Passes on what is found in one stack, with the layer numbers of the whole trace.

    Args:
        record: of the whole trace.
        layers: number of each layer there.
        first_head: number of its first KV head: a machine knows no sequences, and keys and values
            of each sequence of a batch lie in a place of their own.
    """

    def __init__(self, record: Record, layers: Sequence[int], first_head: int = 0) -> None:
        self._record, self._layers, self._first_head = record, layers, first_head

    def add(
        self,
        place: tuple[At, int, At],
        heads: NDArray[np.int64],
        columns: Mapping[str, NDArray[Any]],
        queries: Sequence[NDArray[Any]],
        keys: Iterable[NDArray[np.int32]] | None = None,
        values: Iterable[NDArray[np.int32]] | None = None,
    ) -> None:
        """See :meth:`Record.add`."""
        step, layer, context = place
        there = (step, self._layers[layer], context)
        heads = heads + self._first_head if self._first_head else heads
        self._record.add(there, heads, columns, queries, keys, values)

    def count(self, counts: Mapping[str, Sequence[NDArray[np.int64]]]) -> None:
        """See :meth:`Record.count`."""
        self._record.count(counts)

    def compare(
        self, layer: int, metrics: NDArray[Any], heads: tuple[int, int], rows: tuple[int, int]
    ) -> None:
        """See :meth:`Record.compare`."""
        self._record.compare(self._layers[layer], metrics, heads, rows)


class Record:
    """Gathers requests in any order, and sums by layer.

    Args:
        trace: that is walked over.
        indices: whether to keep the token indexes of fetched keys and values.
    """

    def __init__(self, trace: AttentionTrace, indices: bool) -> None:
        self._trace, self._indices = trace, indices
        self._columns: dict[str, list[NDArray[Any]]] = defaultdict(list)
        self._queries: list[NDArray[Any]] = []
        self._keys: list[NDArray[np.int32]] = []
        self._values: list[NDArray[np.int32]] = []
        self._counts: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        layers = trace.num_layers
        self._metrics = np.zeros((layers, len(NAMES)))
        # Kept and all, query heads and query rows.
        self._heads = np.zeros((layers, 2), dtype=np.int64)
        self._rows = np.zeros((layers, 2), dtype=np.int64)

    def add(
        self,
        place: tuple[At, int, At],
        heads: NDArray[np.int64],
        columns: Mapping[str, NDArray[Any]],
        queries: Sequence[NDArray[Any]],
        keys: Iterable[NDArray[np.int32]] | None = None,
        values: Iterable[NDArray[np.int32]] | None = None,
    ) -> None:
        """Note one request for each of some KV heads, of one step or of several.

        Args:
            place: step (0 is the prompt), layer, and tokens of the context before any pruning; each
                of all requests, or [requests].
            heads: [requests], the KV heads.
            columns: names of the workload to values [requests].
            queries: for each request, its queries as records of
                :data:`~accelsim.attention.kernels.PER_QUERY`.
            keys: for each request, the ascending tokens fetched; ``None`` where a machine fetches
                everything.
            values: likewise.
        """
        for name, at in zip(("step", "layer", "context_tokens"), place, strict=True):
            self._columns[name].append(np.full(len(heads), at))
        self._columns["head"].append(heads)
        for name, column in columns.items():
            self._columns[name].append(column)
        self._queries += queries
        if self._indices and keys is not None and values is not None:
            self._keys += keys
            self._values += values

    def count(self, counts: Mapping[str, Sequence[NDArray[np.int64]]]) -> None:
        """Note what the standard columns have no room for, for each request; in row order."""
        for name, lists in counts.items():
            self._counts[name] += lists

    def compare(
        self, layer: int, metrics: NDArray[Any], heads: tuple[int, int], rows: tuple[int, int]
    ) -> None:
        """Add to the sums of a layer.

        Args:
            layer: which.
            metrics: [steps] of :data:`~accelsim.attention.kernels.METRICS`, added one after the
                other.
            heads: query heads that were computed, and all.
            rows: query rows that were computed, and those of dense attention.
        """
        for step in metrics.view(np.float64).reshape(-1, len(NAMES)):
            self._metrics[layer] += step
        self._heads[layer] += heads
        self._rows[layer] += rows

    def result(self, keep_ratio: Callable[[int, dict[str, float]], float]) -> PolicyRun:
        """Build the workload and the figures.

        Args:
            keep_ratio: (layer, its figures) to the ratio of tokens that its schedule keeps.
        """
        trace = self._trace
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate(parts) for name, parts in self._columns.items()
        }
        # As the model runs them: stacks that others read come first.
        rank = np.empty(trace.num_layers, dtype=np.int64)
        rank[[layer for stack in trace.stacks() for layer in stack.layers]] = np.arange(len(rank))
        order = np.lexsort([columns["head"], rank[columns["layer"]], columns["step"]])
        places = order.tolist()
        queries = [self._queries[i] for i in places]
        every = joined(queries, PER_QUERY)
        own = trace.layer(int(columns["layer"][order[0]]))
        shapes = {
            index: LayerShape(other.query_heads, other.kv_heads, *other.widths)
            for index, other in enumerate(map(trace.layer, range(trace.num_layers)))
        }
        fields: dict[str, Any] = {
            "head_dim": own.key_dim,
            "value_dim": None if own.value_dim == own.key_dim else own.value_dim,
            "latent": own.kind == "latent",
            "layers": shapes if len(set(shapes.values())) > 1 else {},
            "name": trace.model,
            "query_table": QueryTable.of(
                [len(q) for q in queries], {name: every[name] for name in PER_QUERY.names or ()}
            ),
        }
        if self._keys:
            fields["key_indices"] = tuple(self._keys[i] for i in places)
            fields["value_indices"] = tuple(self._values[i] for i in places)
        kind: type[Workload] = Workload
        if self._counts:
            kind = RivalWorkload
            fields["counts"] = {n: np.concatenate(lists) for n, lists in self._counts.items()}
        columns = {name: column[order] for name, column in columns.items()}
        workload = kind.from_columns(columns, **fields)
        counts = self._counts_by_layer(workload)
        per_layer = []
        for layer in range(trace.num_layers):
            figures = self._figures(counts, slice(layer, layer + 1))
            ratio = keep_ratio(layer, figures)
            per_layer.append({"layer": layer, **figures, "token_keep_ratio": ratio})
        accuracy = {"mode": "open-loop", **self._figures(counts, slice(None))}
        return PolicyRun(workload, accuracy, per_layer)

    def _counts_by_layer(self, workload: Workload) -> dict[str, NDArray[np.int64]]:
        """Sums over the rows of each layer, int64 [layers]."""
        two_planes = np.where(workload["key_lsb_bits"] > 0, workload["queries"], 0)
        counted = {"two_planes": two_planes} | {
            name: workload[name] for name in ("refetch_queries", "query_keys", "query_values")
        }
        found = {name: np.zeros(self._trace.num_layers, dtype=np.int64) for name in counted}
        for name, column in counted.items():
            np.add.at(found[name], workload["layer"], column)
        return found

    def _figures(self, counts: Mapping[str, NDArray[np.int64]], layers: slice) -> dict[str, float]:
        """Figures of some layers; ``counts`` are sums of the workload by layer."""
        sums = dict(zip(NAMES, self._metrics[layers].sum(axis=0).tolist(), strict=True))
        count = {name: int(of_layer[layers].sum()) for name, of_layer in counts.items()}
        two_planes = count["two_planes"]
        kept_heads, heads = self._heads[layers].sum(axis=0).tolist()
        kept_rows, all_rows = self._rows[layers].sum(axis=0).tolist()
        rows, reference = sums["rows"], sums["reference_square"]
        error = sums["error_square"] / reference if reference > 0 else 0.0
        return {
            "relative_output_error": float(np.sqrt(error)),
            "mean_cosine": sums["cosine"] / rows,
            "mean_kl": sums["kl_nats"] / rows,
            # Summed probabilities may end a rounding error above 1.
            "kept_mass": min(sums["kept_mass"] / rows, 1.0),
            "kept_value_mass": min(sums["kept_value_mass"] / rows, 1.0),
            "lsb_refetch_fraction": count["refetch_queries"] / two_planes if two_planes else 0.0,
            "kept_token_fraction": count["query_keys"] / sums["visible"],
            "kept_value_fraction": count["query_values"] / sums["visible"],
            "kept_head_fraction": kept_heads / heads,
            "kept_query_fraction": kept_rows / all_rows,
        }


Recording = Record | StackRecord
"""What takes the requests and figures of a rule."""
