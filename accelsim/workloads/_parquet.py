"""Workloads on disk as Parquet: every column, the fetched token indexes, the metadata."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.errors import WorkloadError
from accelsim.workloads._table import COLUMNS, POLICY_COLUMNS, Workload

SCHEMA = "accelsim.workload/1"
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
    table = pa.table(arrays).replace_schema_metadata(
        {
            "accelsim.schema": SCHEMA,
            "head_dim": str(workload.head_dim),
            "name": workload.name,
        }
    )
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".parquet.tmp")
    os.close(handle)
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_parquet(path: str | Path) -> Workload:
    """Read a workload written by :func:`write_parquet`.

    Raises:
        WorkloadError: not a Parquet file, not of this schema, a column missing or of a wrong type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        detail = str(error).splitlines()[0]
        raise WorkloadError(f"{path}: not a readable Parquet file ({detail})") from None
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if metadata.get("accelsim.schema") != SCHEMA:
        raise WorkloadError(f"{path}: metadata 'accelsim.schema' is not '{SCHEMA}'")
    columns = {}
    for name, (dtype, _) in COLUMNS.items():
        if name not in table.column_names:
            if name in POLICY_COLUMNS:
                columns[name] = np.zeros(table.num_rows, dtype=dtype)
                continue
            raise WorkloadError(f"{path}: column '{name}' is missing")
        values = table[name].to_numpy()
        if values.dtype.kind not in "iub":
            raise WorkloadError(f"{path}: column '{name}': expected {np.dtype(dtype).name}")
        columns[name] = np.ascontiguousarray(values, dtype=dtype)
    indices = {
        name: tuple(np.asarray(row, dtype=np.int32) for row in table[name].to_pylist())
        for name in _INDEX_FIELDS
        if name in table.column_names
    }
    return Workload(
        columns,
        head_dim=int(metadata.get("head_dim", "64")),
        name=metadata.get("name", Path(path).stem),
        key_indices=indices.get("key_indices"),
        value_indices=indices.get("value_indices"),
    )
