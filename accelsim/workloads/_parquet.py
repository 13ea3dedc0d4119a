"""Workloads on disk as Parquet: columns, fetched token indexes, per-query detail, metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError
from accelsim.files import whole_file
from accelsim.workloads._table import (
    BEAT_COLUMNS,
    COLUMNS,
    MAX_HEAD_DIM,
    POLICY_COLUMNS,
    LayerShape,
    Workload,
)
from accelsim.workloads.queries import FIELDS, QueryTable, exact

SCHEMA = "accelsim.workload/2"
"""Version 2 adds beats and the per-query table."""
_READABLE = ("accelsim.workload/1", SCHEMA)
_PER_QUERY = "query."
"""Prefix of the list columns that hold the fields of the per-query table."""
_INDEX_FIELDS = ("key_indices", "value_indices")


def write_parquet(workload: Workload, path: str | Path) -> None:
    """Write a workload; the file appears whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays: dict[str, Any] = {name: pa.array(workload[name]) for name in COLUMNS}
    for name in _INDEX_FIELDS:
        lists = getattr(workload, name)
        if lists is not None:
            arrays[name] = pa.array([row.tolist() for row in lists], type=pa.list_(pa.int32()))
    queries = workload.query_table
    if queries is not None:
        offsets = pa.array(queries.start, type=pa.int64())
        for name in FIELDS:
            values = pa.array(getattr(queries, name))
            arrays[_PER_QUERY + name] = pa.LargeListArray.from_arrays(offsets, values)
    table = pa.table(arrays).replace_schema_metadata(
        {
            "accelsim.schema": SCHEMA,
            "head_dim": str(workload.head_dim),
            "name": workload.name,
        }
        | ({} if workload.value_dim is None else {"value_dim": str(workload.value_dim)})
        | ({"latent": "true"} if workload.latent else {})
        | ({"layers": json.dumps(dict(workload.layers))} if workload.layers else {})
    )
    with whole_file(path, WorkloadError) as stream:
        pq.write_table(table, stream)


def read_parquet(path: str | Path) -> Workload:
    """Read a workload written by :func:`write_parquet`.

    A file of version 1 has no per-query table (``None``) and no beats (-1 where there are passes).

    Raises:
        WorkloadError: not a Parquet file, not of this schema, a column missing or of a wrong type,
            per-query detail that does not add up to the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, memory_map=True)
        names = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0]
        raise WorkloadError(f"{path}: not a readable Parquet file ({detail})") from None
    metadata = {
        name: (table.schema.metadata or {}).get(name.encode(), b"").decode(errors="replace")
        for name in ("accelsim.schema", "head_dim", "name", "value_dim", "latent", "layers")
    }
    if metadata["accelsim.schema"] not in _READABLE:
        raise WorkloadError(
            f"{path}: metadata 'accelsim.schema' is '{metadata['accelsim.schema'][:40]}'; expected "
            + " or ".join(_READABLE)
        )
    head_dim = metadata["head_dim"]
    value_dim = metadata["value_dim"] or head_dim
    for name, text in (("head_dim", head_dim), ("value_dim", value_dim)):
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_HEAD_DIM:
            raise WorkloadError(
                f"{path}: metadata '{name}' is '{text[:40]}'; expected 1 to {MAX_HEAD_DIM}"
            )
    if metadata["latent"] not in ("", "true"):
        raise WorkloadError(
            f"{path}: metadata 'latent' is '{metadata['latent'][:40]}'; expected true, or no such "
            "key"
        )
    if len(set(names)) != len(names):
        raise WorkloadError(f"{path}: two columns have one name")
    older = metadata["accelsim.schema"] != SCHEMA
    columns: dict[str, Any] = {}
    for name, (dtype, _) in COLUMNS.items():
        if name not in names:
            if name in POLICY_COLUMNS:
                columns[name] = np.zeros(table.num_rows, dtype=dtype)
                continue
            if older and name in BEAT_COLUMNS:
                columns[name] = np.where(columns[BEAT_COLUMNS[name]] == 0, 0, -1).astype(dtype)
                continue
            raise WorkloadError(f"{path}: column '{name}' is missing")
        values = table[name].to_numpy()
        if values.dtype.kind not in "iub":
            expected = np.dtype(dtype).name
            raise WorkloadError(f"{path}: column '{name}': expected {expected}, without gaps")
        columns[name] = exact(values, dtype, f"{path}: column '{name}'")
    indices = {
        name: _lists(table, name, path) for name in _INDEX_FIELDS if name in table.column_names
    }
    try:
        workload = Workload(
            columns,
            head_dim=int(head_dim),
            name=metadata["name"] or Path(path).stem,
            key_indices=indices.get("key_indices"),
            value_indices=indices.get("value_indices"),
            query_table=_query_table(table, path),
            value_dim=int(value_dim) if metadata["value_dim"] else None,
            latent=bool(metadata["latent"]),
            layers=_layers(metadata["layers"], path),
        )
    except WorkloadError as error:
        if str(error).startswith(str(path)):
            raise
        raise WorkloadError(f"{path}: {error}") from None
    return workload


_MAX_LAYERS_TEXT = 1 << 20
_MAX_LAYER = 1 << 31


def _layers(text: str, path: str | Path) -> dict[int, LayerShape]:
    """Read the metadata key ``layers``, JSON of layer to the fields of :class:`LayerShape`."""
    try:
        found: Any = json.loads(text or "{}") if len(text) <= _MAX_LAYERS_TEXT else None
        shapes = {int(layer): LayerShape(*values) for layer, values in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        shapes = {-1: LayerShape(0, 0, 0, 0)}
    for layer, shape in shapes.items():
        numbers = [type(n) is int and 0 < n < _MAX_LAYER for n in shape[:4]]
        if not (0 <= layer < _MAX_LAYER and all(numbers) and isinstance(shape.latent, bool)):
            raise WorkloadError(
                f"{path}: metadata 'layers': expected JSON of layer to [query heads, KV heads, "
                "key_dim, value_dim, latent]"
            )
    return shapes


def _lists(table: Any, name: str, path: str | Path) -> tuple[NDArray[np.int32], ...]:
    """The lists of a column, one array a row."""
    counts, values = _flat(table, name, path)
    flat = exact(values, np.int32, f"{path}: column '{name}', its entries")
    return tuple(np.split(flat, np.cumsum(counts)[:-1]))


def _flat(table: Any, name: str, path: str | Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lengths and entries of the lists of a column."""
    lists = table[name].combine_chunks()
    if not hasattr(lists, "value_lengths") or lists.null_count:
        raise WorkloadError(f"{path}: column '{name}': expected a list for each row")
    counts = lists.value_lengths().to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "iub":
        raise WorkloadError(f"{path}: column '{name}': expected lists of integers")
    return counts, values


def _query_table(table: Any, path: str | Path) -> QueryTable | None:
    names = {name: _PER_QUERY + name for name in FIELDS}
    missing = [column for column in names.values() if column not in table.column_names]
    if len(missing) == len(names):
        return None
    if missing:
        raise WorkloadError(f"{path}: column '{missing[0]}' is missing")
    fields: dict[str, Any] = {}
    for name, column in names.items():
        counts, values = _flat(table, column, path)
        if not np.array_equal(counts, fields.setdefault("counts", counts)):
            raise WorkloadError(
                f"{path}: column '{column}': expected as many entries a row as the other '"
                f"{_PER_QUERY}' columns"
            )
        fields[name] = values
    return QueryTable.of(fields["counts"], fields)
