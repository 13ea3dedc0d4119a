"""The Workload: what the hardware is asked to do, one row per request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.workloads._bytes import asked, read_bits
from accelsim.workloads.indices import DrawnIndices, taken
from accelsim.workloads.queries import QueryTable, exact

COLUMNS: dict[str, tuple[Any, str]] = {
    "step": (np.int32, "decoding step; 0 is the prefill (or the first step of a file)"),
    "layer": (np.int32, "layer index"),
    "head": (np.int32, "key/value head index"),
    "context_tokens": (np.int32, "tokens in the context before any pruning"),
    "queries": (np.int32, "query rows that reuse the fetched keys and values (1 in plain decode)"),
    "keys": (np.int32, "key vectors fetched: the union over the queries"),
    "values": (np.int32, "value vectors fetched: the union over the queries"),
    "query_keys": (np.int64, "key vectors scored, summed over the queries"),
    "query_values": (np.int64, "value vectors multiplied, summed over the queries"),
    "key_bits": (np.int16, "bits of a key element in the first (MSB) fetch"),
    "key_lsb_bits": (np.int16, "bits of a key element in the LSB plane; 0 where there is none"),
    "value_bits": (np.int16, "bits of a value element"),
    "refetch_lsb": (np.bool_, "the LSB plane of all fetched keys is fetched too"),
    "refetch_queries": (np.int32, "queries whose scores are recomputed with the LSB plane"),
    "refetch_query_keys": (np.int64, "key vectors scored again, summed over those queries"),
    "topk_size": (np.int32, "scores given to the local value top-k of one query (largest query)"),
    "topk_target": (np.int32, "scores it keeps"),
    "topk_passes": (np.int32, "quick-select passes, summed over the queries; -1: not recorded"),
    "topk_elements": (np.int64, "scores read in those passes, summed; -1: not recorded"),
    "topk_beats": (
        np.int64,
        "cycles that 16 comparators read them in, each pass rounded up; -1: not recorded",
    ),
    "select_size": (np.int32, "candidates of the token selection; 0: none on this row"),
    "select_target": (np.int32, "tokens that the selection keeps"),
    "select_passes": (np.int32, "quick-select passes of the selection"),
    "select_elements": (np.int64, "importances read in those passes"),
    "select_beats": (
        np.int64,
        "cycles that 16 comparators read them in, each pass rounded up; -1: not recorded",
    ),
    "select_once": (
        np.bool_,
        "select_* hold all searches there are; else one, which a machine may make for each query",
    ),
    "score_updates": (np.int64, "accumulators that a policy reads, adds to and writes back"),
    "metadata_bytes": (
        np.int64,
        "DRAM bytes read beside vectors: page bounds, chunk means, scales",
    ),
    "residual_bytes": (np.int64, "DRAM bytes of vectors read beyond key_bits and value_bits"),
    "write_back_bytes": (np.int64, "DRAM bytes a policy writes: merged vectors, page bounds"),
    "key_runs": (np.int32, "contiguous runs of tokens in the fetched keys; 0: not recorded"),
    "capped_scores": (np.int64, "scores under a soft cap of the model, summed over the queries"),
    "biased_scores": (np.int64, "scores to which the model adds a bias, summed over the queries"),
    "index_products": (
        np.int64,
        "multiplications of an indexer that chooses keys, summed over the queries",
    ),
}
"""Column name to (dtype, meaning). Counts are numbers of vectors or scores unless named bytes."""

_WHERE_NONE_ZERO = ("select_size", "select_target", "select_passes", "select_elements")

POLICY_COLUMNS = (
    "select_once",
    "score_updates",
    "metadata_bytes",
    "residual_bytes",
    "write_back_bytes",
    "key_runs",
    "capped_scores",
    "biased_scores",
    "index_products",
)
"""What policies and models ask of the hardware beyond vectors and top-k; zero where nothing.
A Parquet file written before they existed reads as zero."""

BEAT_COLUMNS = {"topk_beats": "topk_passes", "select_beats": "select_passes"}
"""Column of beats to that of the passes they belong to. Where beats were not recorded and there is
a pass, they are -1; the rows' pooled bound is ``ceil(elements / 16)`` up to one more a pass."""

MAX_HEAD_DIM = 1 << 14
"""Elements of a vector: sixty times the widest head in use."""

_UNRECORDED = (
    "key_bits", "value_bits", "topk_passes", "topk_elements", "topk_beats", "select_beats",
)  # fmt: skip
_LEAST = dict.fromkeys(("context_tokens", "keys", "values", "queries"), 1) | dict.fromkeys(
    _UNRECORDED, -1
)
"""Column to its least value where that is not 0; -1 is "not quantized" or "not recorded"."""

_AT_MOST = {
    "keys": "context_tokens",
    "values": "keys",
    "query_values": "query_keys",
    "refetch_queries": "queries",
    "refetch_query_keys": "query_keys",
    "topk_target": "topk_size",
    "select_target": "select_size",
}
"""Column to the one that bounds it in every row."""


class LayerShape(NamedTuple):
    """Heads and widths of one layer.

    Attributes:
        query_heads: that it has, pruned ones too.
        kv_heads: likewise.
        key_dim: elements in a query or key vector.
        value_dim: elements in a value vector.
        latent: values are the first elements of the keys, and are fetched with them.
    """

    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    latent: bool = False

    @property
    def widths(self) -> tuple[int, int, bool]:
        """``key_dim``, ``value_dim`` and ``latent``."""
        return self.key_dim, self.value_dim, self.latent


class CacheShape(NamedTuple):
    """Room that the KV cache of a run has; it says where in DRAM a vector lies.

    Attributes:
        heads: KV heads of a layer, those of all sequences.
        slots: places of a layer and head: ``layer * heads + head`` of the last, and one.
        tokens: of each place.
        keys: most that a row fetches.
        key_dim: elements of the widest key.
    """

    heads: int
    slots: int
    tokens: int
    keys: int
    key_dim: int


@dataclass(frozen=True)
class Workload:
    """A columnar table of requests, in the order in which the hardware receives them.

    One row is one fetch of the keys and values of one KV head of one layer of one step, with the
    ``queries`` that use them: one query of one head in plain decode, the query heads of the group
    under grouped-query attention, all surviving queries in a prefill or encoder.

    Attributes:
        columns: one array of equal length for each name in :data:`COLUMNS`.
        head_dim: elements in a query or key vector.
        name: what to call the workload in reports.
        key_indices: per row, the ascending token indexes of the fetched keys (``None``: not known,
            the accelerator then uses its own index pattern).
        value_indices: likewise for the values.
        extra: columns that a foreign file carried and its export must give back.
        trailer: lines of a foreign file that are no requests (its configuration's name).
        query_table: what each query of each row asks for (``None``: not known, a row then is one
            query). Its sums are the ``query_*``, ``refetch_*`` and ``topk_*`` columns, checked.
        value_dim: elements in a value vector; ``None``: as many as in a key.
        latent: values are the first ``value_dim`` elements of the keys, and so are fetched with
            them: the column ``values`` then says what is multiplied, and moves nothing.
        layers: layer to heads and widths, where layers differ; then of every layer that has rows,
            and ``head_dim``, ``value_dim`` and ``latent`` are those of the first row's. Empty where
            all are alike.
        cache: room of the KV cache, where it is not that which the rows themselves need.
    """

    columns: Mapping[str, NDArray[Any]]
    head_dim: int = 64
    name: str = "workload"
    key_indices: Sequence[NDArray[np.int32]] | None = None
    value_indices: Sequence[NDArray[np.int32]] | None = None
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    trailer: tuple[tuple[str, ...], ...] = ()
    query_table: QueryTable | None = None
    value_dim: int | None = None
    latent: bool = False
    layers: Mapping[int, LayerShape] = field(default_factory=dict)
    cache: CacheShape | None = None

    def __post_init__(self) -> None:
        unknown = set(self.columns) - set(COLUMNS)
        missing = set(COLUMNS) - set(self.columns)
        if unknown or missing:
            raise WorkloadError(
                f"workload '{self.name}': unknown columns {sorted(unknown)}, "
                f"missing columns {sorted(missing)}"
            )
        for name, column in self.columns.items():
            self._check_type(name, column)
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) != 1:
            raise WorkloadError(f"workload '{self.name}': columns of unequal length {lengths}")
        if self.rows == 0:
            raise WorkloadError(
                f"workload '{self.name}' has no rows; expected at least one request"
            )
        self._check_widths()
        for name, column in self.columns.items():
            self._refuse(name, column < _LEAST.get(name, 0), f"at least {_LEAST.get(name, 0)}")
        if self.query_table is not None:
            self.query_table.check(self.name, self.columns)
        self.check_bounds()

    def _check_widths(self) -> None:
        where, own = f"workload '{self.name}'", (self.head_dim, self.value_width, self.latent)
        for key, value, latent in {own, *(shape.widths for shape in self.layers.values())}:
            if not 1 <= key <= MAX_HEAD_DIM:
                raise WorkloadError(f"{where}: head_dim = {key}; expected 1 to {MAX_HEAD_DIM}")
            if not 1 <= value <= (key if latent else MAX_HEAD_DIM):
                most = "head_dim, of a latent" if latent else f"{MAX_HEAD_DIM}"
                raise WorkloadError(f"{where}: value_dim = {value}; expected 1 to {most}")
        if not self.layers:
            return
        missing = set(self.columns["layer"].tolist()) - set(self.layers)
        if missing:
            raise WorkloadError(
                f"{where}: layer {min(missing)} has rows; expected its heads and widths in 'layers'"
            )
        if own != self.layers[int(self.columns["layer"][0])].widths:
            raise WorkloadError(
                f"{where}: head_dim, value_dim and latent differ from those of the first row's "
                "layer; expected them equal"
            )

    def _check_type(self, name: str, column: NDArray[Any]) -> None:
        label, expected = f"workload '{self.name}': column '{name}'", np.dtype(COLUMNS[name][0])
        if not isinstance(column, np.ndarray):
            raise WorkloadError(f"{label}: expected an array (Workload.from_columns takes lists)")
        if column.ndim != 1:
            raise WorkloadError(f"{label} has {column.ndim} dimensions; expected 1")
        if column.dtype != expected:
            raise WorkloadError(
                f"{label} has elements of {column.dtype}; expected {expected} "
                "(Workload.from_columns casts)"
            )

    def check_bounds(self) -> None:
        """Compare columns with those that bound them in every row, as every new table does.

        Raises:
            WorkloadError: more keys than tokens, more values than keys, indexes that are not
                ascending or not as many as keys or values, and the like.
        """
        for name, limit in _AT_MOST.items():
            most = self.columns[limit]
            self._refuse(name, self.columns[name] > most, f"at most {limit} = {{}}", most)
        for name, limit in (("key_indices", "keys"), ("value_indices", "values")):
            self._check_indices(name, limit)

    def _refuse(
        self, name: str, wrong: NDArray[np.bool_], expected: str, limit: NDArray[Any] | None = None
    ) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            if limit is not None:
                expected = expected.format(limit[row])
            raise WorkloadError(
                f"workload '{self.name}': row {row} has {name} = {self.columns[name][row]}; "
                f"expected {expected}"
            )

    def _check_indices(self, name: str, column: str) -> None:
        lists = getattr(self, name)
        if lists is None:
            return
        if isinstance(lists, DrawnIndices):
            # Made on demand, in order by construction; all of them may be larger than the memory.
            if len(lists) != self.rows:
                raise WorkloadError(
                    f"workload '{self.name}': {name}: {len(lists)} lists for {self.rows} rows"
                )
            return
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        if len(counts) != self.rows or (counts != self.columns[column]).any():
            raise WorkloadError(
                f"workload '{self.name}': {name}: expected a list for each row, with as many "
                f"tokens as its {column}"
            )
        flat = np.concatenate(lists)
        ends = np.cumsum(counts)
        wrong = np.zeros(len(flat) + 1, dtype=np.bool_)
        wrong[1:-1] = flat[1:] <= flat[:-1]
        wrong[ends] = False  # the first of the next row
        wrong[:-1] |= flat < 0
        if wrong.any():
            at = int(np.argmax(wrong))
            row = int(np.searchsorted(ends, at, side="right"))
            raise WorkloadError(
                f"workload '{self.name}': {name}: row {row} names token {flat[at]}; expected "
                "ascending token indexes"
            )

    @property
    def value_width(self) -> int:
        """Elements in a value vector."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def fetched_value_width(self) -> int:
        """Elements that DRAM moves for a value: none of a latent, whose keys hold them."""
        return 0 if self.latent else self.value_width

    @property
    def one_width(self) -> bool:
        """Whether all rows have keys, and values, of one width."""
        return len({self.layers[layer].widths for layer in self._layers_with_rows}) <= 1

    @property
    def _layers_with_rows(self) -> list[int]:
        return np.unique(self["layer"]).tolist() if self.layers else []

    @cached_property
    def key_dims(self) -> NDArray[np.int64]:
        """Elements in a query or key vector of each row."""
        return self._by_row(lambda shape: shape.key_dim, self.head_dim)

    @cached_property
    def value_dims(self) -> NDArray[np.int64]:
        """Elements in a value vector of each row."""
        return self._by_row(lambda shape: shape.value_dim, self.value_width)

    @cached_property
    def fetched_value_dims(self) -> NDArray[np.int64]:
        """Elements that DRAM moves for a value of each row: none of a latent."""
        return self._by_row(
            lambda shape: 0 if shape.latent else shape.value_dim, self.fetched_value_width
        )

    def _by_row(self, of: Callable[[LayerShape], int], common: int) -> NDArray[np.int64]:
        found = np.full(self.rows, common, np.int64)
        for layer in self._layers_with_rows:
            found[self["layer"] == layer] = of(self.layers[layer])
        return found

    @cached_property
    def cache_shape(self) -> CacheShape:
        """Room of the KV cache: ``cache``, or what the rows need."""
        if self.cache is not None:
            return self.cache
        heads, keys = int(self["head"].max()) + 1, int(self["keys"].max())
        last = int((self["layer"].astype(np.int64) * heads + self["head"]).max())
        tokens = max(int(self["context_tokens"].max()), keys)
        return CacheShape(heads, last + 1, tokens, keys, int(self.key_dims.max()))

    @property
    def cache_slots(self) -> NDArray[np.int64]:
        """Place of each row's layer and head in the KV cache."""
        slots: NDArray[np.int64] = self["layer"] * np.int64(self.cache_shape.heads) + self["head"]
        return slots

    @property
    def rows(self) -> int:
        """Number of requests."""
        return len(self.columns["step"])

    @property
    def dependencies(self) -> str:
        """Order in which it runs if nothing else is asked for: ``causal``, a layer after the layer
        before and a token after the token before; ``streamed`` for the rows of a foreign file,
        which are requests without an order."""
        return "streamed" if self.extra else "causal"

    def stages(self) -> tuple[NDArray[np.bool_], int]:
        """Which rows belong to a prompt or encoder pass, bool [rows], and the decoding steps.

        A step is one of a prompt or encoder if a row of it has queries at several positions;
        without a query table, if it has several queries and is the first.
        """
        return self._stages

    @cached_property
    def _stages(self) -> tuple[NDArray[np.bool_], int]:
        step = self["step"]
        if self.query_table is not None:
            position, start = self.query_table.position, self.query_table.start[:-1]
            low = np.minimum.reduceat(position, start)
            several = low != np.maximum.reduceat(position, start)
        else:
            several = (self["queries"] > 1) & (step == step[0])
        early = np.isin(step, step[several])
        return early, len(np.unique(step[~early]))

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], **fields: Any) -> Workload:
        """Build a table, casting to the column dtypes and filling derivable columns.

        The sums over queries default to those of the ``query_table`` if there is one; else
        ``queries`` to 1, the ``query_*`` sums to ``queries`` times the fetched vectors, the refetch
        sums to the flag, and the top-k and selection columns to "none".
        """
        given = {name: np.asarray(values) for name, values in columns.items()}
        label = fields.get("name", "workload")
        table: QueryTable | None = fields.get("query_table")
        for name, sums in ({} if table is None else table.sums()).items():
            given.setdefault(name, sums)
        rows = len(next(iter(given.values())))
        full = np.full(rows, 1)
        queries = given.setdefault("queries", full)
        keys, values = given["keys"], given["values"]
        some = full == 0 if table is None else given["refetch_queries"] > 0
        refetch = given.setdefault("refetch_lsb", some)
        given.setdefault("query_keys", queries * keys.astype(np.int64))
        given.setdefault("query_values", queries * values.astype(np.int64))
        given.setdefault("refetch_queries", np.where(refetch, queries, 0))
        given.setdefault("refetch_query_keys", given["refetch_queries"] * keys.astype(np.int64))
        given.setdefault("key_lsb_bits", np.where(refetch, 4, 0))
        # A row whose queries use each value in turn still prunes: never judge by the union.
        prunes = given["query_values"] < given["query_keys"]
        target = -(-given["query_values"] // np.maximum(queries, 1))
        given.setdefault("topk_size", np.where(prunes, keys, 0))
        given.setdefault("topk_target", np.where(prunes, target, 0))
        given.setdefault("topk_passes", full * -1)
        # Without a pass no score is read.
        unread = np.where(given["topk_passes"] == 0, 0, -1)
        given.setdefault("topk_elements", unread)
        for name in (*_WHERE_NONE_ZERO, *POLICY_COLUMNS):
            given.setdefault(name, full * 0)
        for name in ("step", "layer", "head"):
            given.setdefault(name, full * 0)
        for name, passes in BEAT_COLUMNS.items():
            given.setdefault(name, np.where(given[passes] == 0, 0, -1))
        given.setdefault("context_tokens", keys)
        cast = {
            name: exact(given[name], dtype, f"workload '{label}': column '{name}'")
            for name, (dtype, _) in COLUMNS.items()
            if name in given
        }
        return cls(cast, **fields)

    def select(self, mask: NDArray[np.bool_]) -> Workload:
        """Return the rows where ``mask`` is true, in order."""
        return self.rows_at(np.flatnonzero(mask))

    def rows_at(self, chosen: NDArray[np.int64]) -> Workload:
        """Return the rows of some numbers, in that order; a number may come several times."""
        columns = {name: column[chosen] for name, column in self.columns.items()}
        key, value, latent = self.head_dim, self.value_dim, self.latent
        if self.layers and len(chosen):
            first = self.layers[int(columns["layer"][0])]
            key, latent = first.key_dim, first.latent
            value = None if first.value_dim == key else first.value_dim
        return Workload(
            columns,
            key,
            self.name,
            taken(self.key_indices, chosen),
            taken(self.value_indices, chosen),
            {name: column[chosen] for name, column in self.extra.items()},
            self.trailer,
            None if self.query_table is None else self.query_table.select(chosen),
            value,
            latent,
            self.layers,
            self.cache,
        )

    def part(self, chosen: NDArray[np.int64]) -> Workload:
        """Return some rows as :meth:`rows_at`, whose vectors lie where they lie in the whole."""
        return replace(self.rows_at(chosen), cache=self.cache_shape)

    def batched(self, sequences: int) -> Workload:
        """Return copies that run together: of each layer of a step, one sequence after another.

        Copy ``s`` has the KV heads ``s * heads`` and up, for a machine knows no sequences: keys and
        values of each copy lie in a place of their own.

        Args:
            sequences: how many.
        """
        if sequences == 1:
            return self
        step, layer = self["step"], self["layer"]
        change = (np.diff(step) != 0) | (np.diff(layer) != 0)
        group = np.concatenate(([0], np.cumsum(change)))
        row = np.tile(np.arange(self.rows), sequences)
        copy = np.repeat(np.arange(sequences), self.rows)
        order = np.lexsort((row, copy, group[row]))
        found = self.rows_at(row[order])
        size = int(self["head"].max()) + 1
        columns = dict(found.columns)
        columns["head"] = (columns["head"] + copy[order] * size).astype(np.int32)
        return replace(found, columns=columns, cache=None)

    def with_trailer(self, trailer: tuple[tuple[str, ...], ...]) -> Workload:
        """Return the same table with ``trailer`` attached."""
        return replace(self, trailer=trailer)

    def read_bits(self) -> dict[str, NDArray[np.int64]]:
        """Bits that each row reads, by tensor and bit plane (:func:`read_bits`)."""
        return read_bits(self.columns, self.key_dims, self.fetched_value_dims)

    def policy_bytes(self) -> dict[str, int]:
        """Bytes that the policy's decisions name, by tensor and bit plane (:func:`read_bits`)."""
        bits = self.read_bits()
        return {name: int(column.sum()) // 8 for name, column in bits.items()}

    def policy_bytes_by_head(self) -> list[dict[str, int]]:
        """The same for vectors, one record with ``layer`` and ``head`` for each of both."""
        pairs = np.stack([self["layer"], self["head"]])
        places, groups = np.unique(pairs, axis=1, return_inverse=True)
        bits = self.read_bits()
        read = {
            name: np.bincount(groups.ravel(), weights=bits[name]) / 8
            for name in ("key_msb", "key_lsb", "value")
        }
        return [
            {"layer": int(layer), "head": int(head)} | {n: int(read[n][i]) for n in read}
            for i, (layer, head) in enumerate(places.T)
        ]

    def asks(self) -> dict[str, int]:
        """Amounts of :data:`SERVICES` that the rows ask of a machine, those above zero."""
        return asked(self.columns)


@dataclass(frozen=True)
class RivalWorkload(Workload):
    """A workload decided by a machine's own rule.

    Attributes:
        counts: name to a flat int64 array over all rows in row order. A3: one number for each
            query of each row (``visible``, ``iterations``, ``candidates``, ``kept``). MNNFast: one
            for each chunk of keys of each row (``scored``, ``kept``: summed over the queries).
        lengths: how many of these numbers each row has, [rows]; ``None``: one for each query.
    """

    counts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    lengths: NDArray[np.int64] | None = None

    def rows_at(self, chosen: NDArray[np.int64]) -> RivalWorkload:
        """Return the rows of some numbers, in that order; a number may come several times."""
        plain = super().rows_at(chosen)
        lengths = self["queries"].astype(np.int64) if self.lengths is None else self.lengths
        ends = np.cumsum(lengths)
        own, after = lengths[chosen], ends[chosen]
        places = np.arange(own.sum()) + np.repeat(after - np.cumsum(own), own)
        return RivalWorkload(
            **{each.name: getattr(plain, each.name) for each in fields(plain)},
            counts={name: numbers[places] for name, numbers in self.counts.items()},
            lengths=own,
        )
