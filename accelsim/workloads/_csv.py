"""SpAtten's released 17-column workload files: read into a Workload, written back unchanged.

The schema is that of the CSV files in the authors' release (one row = one head of one layer of one
decoding step). A row that is a name and nothing else names the training configuration; it is no
request, and is kept only so that an export gives the file back.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import WorkloadError, did_you_mean
from accelsim.files import read_text, whole_file
from accelsim.workloads._table import MAX_HEAD_DIM, Workload

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

_MAX_COUNT = 1 << 24
_MAX_ID = (1 << 31) - 1
_MAX_BITS = 64
_INTEGERS = {
    "iteration_id": (0, _MAX_ID),
    "layer_id": (0, _MAX_ID),
    "head_id": (0, _MAX_ID),
    "sentence_length_L": (1, _MAX_COUNT),
    "key_fetch_num": (1, _MAX_COUNT),
    "quant_key_bit": (-1, _MAX_BITS),
    "quant_query_bit": (-1, _MAX_BITS),
    "auto_requant_incre": (-1, _MAX_BITS),
    "value_fetch_num": (1, _MAX_COUNT),
    "quant_value_bit": (-1, _MAX_BITS),
    "topk": (-1, _MAX_COUNT),
}
"""Columns of integers, with the least and the largest; -1 is "not used"."""
_FLAGS = ("if_requant", "if_accumulate_importance", "if_rescale_previous_importance", "if_topk")
_AT_MOST = (("key_fetch_num", "sentence_length_L"), ("value_fetch_num", "key_fetch_num"))
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
_WHOLE = re.compile(r"[0-9]{1,12}(\.0*)?")
"""How the release writes the size of a vector: 64.0."""
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
        if _names_configuration(fields):
            trailer.append(fields)
            continue
        step = _integer(path, number, "iteration_id", fields[0])
        if iteration is None or step == iteration:
            rows.append((number, fields))
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
        WorkloadError: rows with several queries, and values of another width than keys, have no
            place in this schema.
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
        if workload.value_width != workload.head_dim or workload.latent or not workload.one_width:
            raise WorkloadError(
                f"workload '{workload.name}': the 17-column schema holds values as wide as keys; "
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
    lines = [number for number, _ in rows]
    numbers = {
        name: np.array(
            [_integer(path, n, name, text) for n, text in zip(lines, columns[name], strict=True)]
        )
        for name in _INTEGERS
    }
    flags = {name: _flags(path, name, columns[name], lines) for name in _FLAGS}
    for line, text in zip(lines, columns["auto_requant_thres"], strict=True):
        try:
            float(text)
        except ValueError:
            raise _wrong(path, line, "auto_requant_thres", "a number", text) from None
    head_dim = _head_dim(path, columns["embedding_length_D"], lines)
    for name, limit in _AT_MOST:
        wrong = np.flatnonzero(numbers[name] > numbers[limit])
        if wrong.size:
            row = wrong[0]
            expected = f"at most the {limit} of {numbers[limit][row]}"
            raise _wrong(path, lines[row], name, expected, columns[name][row])
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
            "refetch_lsb": flags["if_requant"],
        },
        head_dim=head_dim,
        name=path.stem,
        extra={name: np.array(values, dtype=object) for name, values in columns.items()},
    )
    return workload.with_trailer(tuple(tuple(fields) for fields in trailer))


def _names_configuration(fields: list[str]) -> bool:
    """Whether a row is the name of a configuration, or blank: no other field, and no number."""
    if any(field.strip() for field in fields[1:]):
        return False
    try:
        float(fields[0])
    except ValueError:
        return not fields[0].strip() or any(character.isalpha() for character in fields[0])
    return False


def _integer(path: Path, line: int, name: str, text: str) -> int:
    low, high = _INTEGERS[name]
    plain = text.strip()
    if not _INTEGER.fullmatch(plain) or not low <= int(plain) <= high:
        raise _wrong(path, line, name, f"an integer from {low} to {high}", text)
    return int(plain)


def _head_dim(path: Path, texts: list[str], lines: list[int]) -> int:
    found = None
    for text, line in zip(texts, lines, strict=True):
        plain = text.strip()
        size = int(plain.partition(".")[0]) if _WHOLE.fullmatch(plain) else 0
        if not 1 <= size <= MAX_HEAD_DIM:
            expected = f"a whole number from 1 to {MAX_HEAD_DIM}"
            raise _wrong(path, line, "embedding_length_D", expected, text)
        if found not in (None, size):
            raise _wrong(path, line, "embedding_length_D", f"{found}, as before", text)
        found = size
    return found or 0


def _flags(path: Path, name: str, texts: list[str], lines: list[int]) -> NDArray[np.bool_]:
    for text, line in zip(texts, lines, strict=True):
        if text not in ("True", "False"):
            raise _wrong(path, line, name, "True or False", text)
    return np.array([text == "True" for text in texts])


def _wrong(path: Path, line: int, name: str, expected: str, text: str) -> WorkloadError:
    shown = text if len(text) <= 40 else text[:20] + "…" + text[-15:]
    return WorkloadError(f"{path}: line {line}: {name} = {shown}; expected {expected}")
