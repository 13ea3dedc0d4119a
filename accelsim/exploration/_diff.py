"""What changed between two results: configuration, versions, numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from accelsim.energy import EnergyTable, across_readings
from accelsim.errors import AccelsimError
from accelsim.exploration._arguments import checked
from accelsim.exploration._store import is_store, read_rows
from accelsim.files import read_text

SCHEMA = "accelsim.diff/1"
_NOT_NUMBERS = ("key", "error", "worker", "elapsed_s", "finished_at_unix_s", "status", "feasible")


@checked
def diff(a: str | Path, b: str | Path) -> dict[str, Any]:
    """Compare two result files, or two points of stores (``STORE@KEY``, first letters suffice).

    Returns:
        The ``accelsim.diff/1`` document: ``configuration``, ``versions`` and ``numbers``, each a
        dotted key to ``{"a", "b"}``; numbers also carry ``ratio`` (b / a). Equal values are left
        out, and a value that one side does not have is ``None``. ``notes`` says what a reader
        should know: energies of two readings compare libraries as much as machines.

    Raises:
        AccelsimError: no such result or point.
    """
    left, right = _load(str(a)), _load(str(b))
    document: dict[str, Any] = {"schema": SCHEMA, "a": str(a), "b": str(b)}
    for section in ("configuration", "versions", "numbers"):
        document[section] = _changes(left[section], right[section])
    note = across_readings(side["readings"].get("energy") for side in (left, right))
    document["notes"] = [note] if note else []
    return document


def _reading(config: Any) -> dict[str, Any]:
    """Reading of an energy table as a manifest holds it; none of one that an older version wrote
    and this one does not read."""
    try:
        return {"energy": EnergyTable.model_validate(config).reading_name}
    except ValidationError:
        return {}


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys((*a, *b)):
        old, new = a.get(key), b.get(key)
        if old == new:
            continue
        changes[key] = {"a": old, "b": new}
        if _is_number(old) and _is_number(new) and old:
            changes[key]["ratio"] = new / old
    return changes


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _load(name: str) -> dict[str, dict[str, Any]]:
    store, at, key = name.rpartition("@")
    if at and is_store(store):
        return _from_row(_point(store, key))
    if is_store(name):
        rows = read_rows(name)
        if len(rows) == 1:
            return _from_row(rows[0])
        raise AccelsimError(
            f"{name}: holds {len(rows)} points; name one as {name}@KEY with the start of its key"
        )
    return _from_result(name)


def _point(store: str, key: str) -> dict[str, Any]:
    found = [row for row in read_rows(store) if row["key"].startswith(key)]
    if len(found) != 1:
        raise AccelsimError(f"{store}: {len(found)} points have a key that starts with '{key}'")
    return found[0]


def _from_row(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    configuration: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith("config."):
            _flatten(name.removeprefix("config."), json.loads(value), configuration)
    return {
        "readings": _reading(json.loads(row.get("config.energy") or "null")),
        "configuration": configuration
        | {"source": row.get("source_sha256"), "engine": row.get("timing_engine")},
        "versions": {"accelsim": row.get("accelsim_version"), "code": row.get("code_sha256")},
        "numbers": {
            name: value
            for name, value in row.items()
            if name not in _NOT_NUMBERS and _is_number(value) and name not in configuration
        },
    }


def _from_result(name: str) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(read_text(name))
    except (ValueError, RecursionError):
        raise AccelsimError(f"{name}: is not JSON; expected a result of 'accelsim replay'") from (
            None
        )
    schema = document.get("schema") if isinstance(document, dict) else None
    manifest = document.get("manifest") if schema == "accelsim.result/1" else None
    if not isinstance(manifest, dict):
        raise AccelsimError(f"{name}: expected a document of schema 'accelsim.result/1'")
    configuration: dict[str, Any] = {}
    _flatten("", manifest.get("configs", {}), configuration)
    configuration |= {
        "source": manifest.get("source_sha256"),
        "engine": manifest.get("engine"),
    }
    numbers: dict[str, Any] = {}
    _flatten("", document.get("metrics", {}), numbers)
    for section in ("dram_read_bytes_by_tensor", "energy_j_by_part", "accuracy", "modules"):
        _flatten(section, document.get(section) or {}, numbers)
    versions = {**manifest.get("versions", {}), "code": manifest.get("code_sha256")}
    readings = _reading(manifest.get("configs", {}).get("energy"))
    return {
        "configuration": configuration,
        "versions": versions,
        "numbers": numbers,
        "readings": readings,
    }


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        children = enumerate(value)
    else:
        into[prefix] = value
    for name, item in children:
        _flatten(f"{prefix}.{name}" if prefix else str(name), item, into)
