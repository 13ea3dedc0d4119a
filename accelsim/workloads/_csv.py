"""SpAtten's released 17-column workload files: read into a Workload, written back unchanged.

The schema is that of the CSV files in the authors' release (one row = one head of one layer of one
decoding step). Rows whose ``iteration_id`` is not an integer name the training configuration; they
are no requests, and are kept only so that an export gives the file back.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError, did_you_mean
from accelsim.files import read_text, whole_file
from accelsim.workloads._table import Workload

CSV_COLUMNS = (
    "iteration_id",
    "layer_id",
    "head_id",
    "embedding_length_D",
    "sentence_length_L",
    "key_fetch_num",
    "quant_key_bit",
    "quant_query_bit",
    "auto_requant_thres",
    "if_requant",
    "auto_requant_incre",
    "value_fetch_num",
    "quant_value_bit",
    "if_accumulate_importance",
    "if_rescale_previous_importance",
    "if_topk",
    "topk",
)
"""Column names of a released file, in order."""

_INTEGER_COLUMNS = (
    "layer_id",
    "head_id",
    "sentence_length_L",
    "key_fetch_num",
    "quant_key_bit",
    "value_fetch_num",
    "quant_value_bit",
)
_MAX_COUNT = 1 << 24
_MAX_DIGITS = 100
_LSB_BITS = 4
"""Width of the LSB plane, fixed in the released hardware."""


def read_csv(path: str | Path, iteration: int | None = None) -> Workload:
    """Read a released workload file.

    Args:
        path: file with the 17 columns of :data:`CSV_COLUMNS`.
        iteration: keep only the rows of this decoding step.

    Returns:
        A workload whose ``key_bits`` and ``value_bits`` are as recorded, -1 (not quantized)
        included, and whose ``refetch_lsb`` is the recorded ``if_requant``.

    Raises:
        WorkloadError: naming file, line and column.
    """
    path = Path(path)
    text = read_text(path, WorkloadError)
    try:
        lines = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise WorkloadError(f"{path}: not a CSV file ({error})") from None
    if not lines:
        raise WorkloadError(f"{path}: empty file; expected the header {','.join(CSV_COLUMNS)}")
    header = lines[0]
    missing = [name for name in CSV_COLUMNS if name not in header]
    if missing:
        hint = did_you_mean(missing[0], header)
        raise WorkloadError(f"{path}: column '{missing[0]}' is missing from the header{hint}")
    if len(header) != len(CSV_COLUMNS):
        extra = next(name for name in header if name not in CSV_COLUMNS or header.count(name) > 1)
        raise WorkloadError(
            f"{path}: unexpected column '{extra}'{did_you_mean(extra, CSV_COLUMNS)}"
        )
    place = [header.index(name) for name in CSV_COLUMNS]
    rows, trailer = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise WorkloadError(
                f"{path}: line {number} has {len(line)} fields; expected {len(header)}"
            )
        fields = [line[index] for index in place]
        if fields[0].strip().isdigit():
            wanted = iteration is None or (
                len(fields[0]) <= _MAX_DIGITS and int(fields[0]) == iteration
            )
            if wanted:
                rows.append((number, fields))
        else:
            trailer.append(fields)
    if not rows:
        only = "" if iteration is None else f" of iteration {iteration}"
        raise WorkloadError(f"{path}: no request rows{only}")
    return _to_workload(path, rows, trailer)


def write_csv(workload: Workload, path: str | Path) -> None:
    """Write a workload in the 17-column schema.

    A workload that came from :func:`read_csv` gives the same rows back. Others are written with the
    columns that the released hardware ignores set to their "not used" values; they must have one
    query a row.

    Raises:
        WorkloadError: rows with several queries have no place in this schema.
    """
    if workload.extra:
        records = zip(*(workload.extra[name] for name in CSV_COLUMNS), strict=True)
        body = [list(record) for record in records]
        body += [list(fields) for fields in workload.trailer]
    else:
        if int(workload["queries"].max()) > 1:
            raise WorkloadError(
                f"workload '{workload.name}': the 17-column schema holds one query a row; "
                "write Parquet instead"
            )
        body = [_record(workload, row) for row in range(workload.rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(body)
    with whole_file(path, WorkloadError) as stream:
        stream.write(text.getvalue().encode())


def _record(workload: Workload, row: int) -> list[str]:
    at = {name: workload[name][row] for name in workload.columns}
    refetch = bool(at["refetch_lsb"])
    return [
        str(at["step"]),
        str(at["layer"]),
        str(at["head"]),
        f"{float(workload.head_dim)}",
        str(at["context_tokens"]),
        str(at["keys"]),
        str(at["key_bits"]),
        "12",
        "-1",
        str(refetch),
        str(at["key_lsb_bits"] if refetch else -1),
        str(at["values"]),
        str(at["value_bits"]),
        "True",
        "False",
        str(bool(at["values"] < at["keys"])),
        str(at["topk_target"] if at["values"] < at["keys"] else -1),
    ]


def _to_workload(
    path: Path, rows: list[tuple[int, list[str]]], trailer: list[list[str]]
) -> Workload:
    columns = {name: [fields[i] for _, fields in rows] for i, name in enumerate(CSV_COLUMNS)}
    numbers = {
        name: _integers(path, name, columns[name], [number for number, _ in rows])
        for name in ("iteration_id", *_INTEGER_COLUMNS)
    }
    flags = _flags(path, columns["if_requant"], [number for number, _ in rows])
    dims = set(columns["embedding_length_D"])
    try:
        head_dims = {int(float(text)) for text in dims}
    except (ValueError, OverflowError):
        raise WorkloadError(f"{path}: column 'embedding_length_D': expected one number") from None
    if len(head_dims) != 1 or min(head_dims) < 1:
        raise WorkloadError(
            f"{path}: column 'embedding_length_D': expected one positive value, got {sorted(dims)}"
        )
    for name, low in (("key_fetch_num", 1), ("value_fetch_num", 1)):
        bad = np.flatnonzero((numbers[name] < low) | (numbers[name] > _MAX_COUNT))
        if bad.size:
            line = rows[int(bad[0])][0]
            raise WorkloadError(
                f"{path}: line {line}: {name} = {numbers[name][bad[0]]}; "
                f"expected {low} to {_MAX_COUNT}"
            )
    workload = Workload.from_columns(
        {
            "step": numbers["iteration_id"],
            "layer": numbers["layer_id"],
            "head": numbers["head_id"],
            "context_tokens": numbers["sentence_length_L"],
            "keys": numbers["key_fetch_num"],
            "values": numbers["value_fetch_num"],
            "key_bits": numbers["quant_key_bit"],
            "key_lsb_bits": np.full(len(rows), _LSB_BITS),
            "value_bits": numbers["quant_value_bit"],
            "refetch_lsb": flags,
        },
        head_dim=head_dims.pop(),
        name=path.stem,
        extra={name: np.array(values, dtype=object) for name, values in columns.items()},
    )
    return workload.with_trailer(tuple(tuple(fields) for fields in trailer))


def _integers(path: Path, name: str, texts: list[str], lines: list[int]) -> NDArray[Any]:
    try:
        return np.array([int(text) for text in texts], dtype=np.int32)
    except (ValueError, OverflowError):
        for text, line in zip(texts, lines, strict=True):
            digits = text.strip().lstrip("+-")
            # Python refuses to convert thousands of digits.
            if not digits.isdigit() or len(digits) > _MAX_DIGITS or abs(int(text)) >= 1 << 31:
                raise WorkloadError(
                    f"{path}: line {line}: column '{name}': expected an integer, got '{text[:40]}'"
                ) from None
        raise


def _flags(path: Path, texts: list[str], lines: list[int]) -> NDArray[np.bool_]:
    for text, line in zip(texts, lines, strict=True):
        if text not in ("True", "False"):
            raise WorkloadError(
                f"{path}: line {line}: column 'if_requant': expected True or False, "
                f"got '{text[:40]}'"
            )
    return np.array([text == "True" for text in texts])
