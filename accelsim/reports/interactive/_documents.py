"""Reading what a report is about: nothing in a file is trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from accelsim.errors import AccelsimError
from accelsim.files import read_text

Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0)]


class _Document(BaseModel):
    """Fields that a report does not show are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Module(_Document):
    """One block's time."""

    busy_cycles: Number
    stall_cycles: dict[str, Number] = {}


class HeadTraffic(_Document):
    """Bytes that the decisions name for one layer and KV head."""

    layer: Whole
    head: Whole
    key_msb: Number
    key_lsb: Number
    value: Number


class Result(_Document):
    """The ``accelsim.result/1`` document."""

    metrics: dict[str, Number | None]
    dram_read_bytes_by_tensor: dict[str, Number]
    energy_j_by_part: dict[str, Number]
    accuracy: dict[str, Number | str | None] | None = None
    modules: dict[str, Module] = {}
    baselines: dict[str, dict[str, bool | Number | str | dict[str, str] | None]] = {}
    per_layer: list[dict[str, Number | None]] = []
    policy_read_bytes_by_head: list[HeadTraffic] = []
    warnings: list[str] = []
    manifest: dict[str, Any] = {}

    def metric(self, name: str) -> float:
        """Return a metric, 0 where the document has none."""
        return self.metrics.get(name) or 0.0


def read_results(path: Path) -> dict[str, Result]:
    """Read a result or a comparison; return name to result.

    Raises:
        AccelsimError: the file cannot be read or is neither.
    """
    try:
        document = json.loads(read_text(path), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise AccelsimError(
            f"{path}: is not JSON; expected a result of 'accelsim replay' or 'accelsim compare'"
        ) from None
    return results_of(document, str(path))


def results_of(document: Any, where: str) -> dict[str, Result]:
    """Check a parsed result or comparison; return name to result.

    Args:
        document: JSON values.
        where: the file, for errors.

    Raises:
        AccelsimError: it is neither.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == "accelsim.result/1":
        return {_name(document): _validated(document, where)}
    if schema == "accelsim.compare/1" and isinstance(document.get("results"), dict):
        results = document["results"]
        if results:
            return {
                str(name): _validated(result, f"{where}: results.{name}")
                for name, result in results.items()
            }
    raise AccelsimError(
        f"{where}: expected a document of schema 'accelsim.result/1' or 'accelsim.compare/1' "
        "with results"
    )


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _name(document: dict[str, Any]) -> str:
    manifest = document.get("manifest")
    source = manifest.get("source") if isinstance(manifest, dict) else None
    return Path(source).stem if isinstance(source, str) and source else "result"


def _validated(document: Any, where: str) -> Result:
    try:
        return Result.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "document"
        raise AccelsimError(f"{where}: key '{key}': {first['msg'].lower()}") from None
