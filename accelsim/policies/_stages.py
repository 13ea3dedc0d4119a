"""What a policy does differently while it reads a prompt, and while it generates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from accelsim.configs import Config
from accelsim.policies._registry import read_selection
from accelsim.policies._selection import SelectionPart, Stage
from accelsim.policies.heads import CascadeHeads
from accelsim.policies.kivi import KiviQuantization
from accelsim.policies.quantization import ProgressiveQuantization, StaticQuantization
from accelsim.policies.tokens import CascadeTokens
from accelsim.policies.values import LocalValues

STAGES: tuple[Stage, ...] = ("prefill", "decode")

Quantization = Annotated[
    StaticQuantization | ProgressiveQuantization | KiviQuantization,
    pydantic.Field(discriminator="kind"),
]

Selection = Annotated[
    SelectionPart, pydantic.BeforeValidator(read_selection), pydantic.SerializeAsAny()
]
"""A token selection, read with the settings of its ``kind``; see :mod:`._registry`."""


class StageParts(Config):
    """The parts of a policy that are different in one stage; a part not given is the common one.

    In a policy file a part is merged key by key over the common part, so that
    ``decode: {quantization: {threshold: 0.2}}`` changes one number. A part of another ``kind``
    replaces the common one; of a quantization, the fields that both kinds have carry over. ``none``
    (or ``null``) switches a part off in the stage; quantization that is off is 12-bit static.

    Attributes:
        tokens: cascade token pruning.
        selection: another rule that selects tokens.
        heads: cascade head pruning.
        values: local value pruning.
        quantization: widths that are read.
    """

    tokens: CascadeTokens | None = None
    selection: Selection | None = None
    heads: CascadeHeads | None = None
    values: LocalValues | None = None
    quantization: Quantization | None = None

    @pydantic.model_serializer(mode="wrap")
    def _only_given(self, inner: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not given, as ``null`` means off; keep what tells the kinds apart."""
        data = inner(self)
        given: dict[str, Any] = {}
        for name in type(self).model_fields:
            if name in self.model_fields_set:
                part = getattr(self, name)
                kind = {"kind": part.kind} if hasattr(part, "kind") else {}
                given[name] = "none" if part is None else kind | data[name]
        return given


PARTS = tuple(StageParts.model_fields)
"""Fields of a policy that a stage can change."""


def resolve_stages(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's mapping with ``none`` read as off and each stage's parts filled in."""
    full = {name: _off(value) if name in PARTS else value for name, value in data.items()}
    q = full.get("quantization", {})
    if q is None:
        del full["quantization"]
    elif isinstance(q, Mapping) and q:
        full["quantization"] = {"kind": "static", **q}
    for stage in STAGES:
        given = full.get(stage)
        changes = given.model_dump() if isinstance(given, StageParts) else given
        if isinstance(changes, Mapping):
            full[stage] = {
                name: _overridden(name, full.get(name), _off(change))
                for name, change in changes.items()
            }
    return full


def _off(value: Any) -> Any:
    return None if isinstance(value, str) and value == "none" else value


def _overridden(name: str, common: Any, change: Any) -> Any:
    """Merge one part of a stage over the common part."""
    if not isinstance(change, Mapping):
        return change
    if isinstance(common, pydantic.BaseModel):
        common = common.model_dump(exclude_unset=True)
    base = dict(common) if isinstance(common, Mapping) else {}
    if name == "quantization":
        base = {"kind": "static", **base}
    kind = change.get("kind", base.get("kind"))
    if kind != base.get("kind"):
        shared = _FIELDS.get(kind, frozenset()) if name == "quantization" else frozenset()
        base = {key: value for key, value in base.items() if key in shared}
    return _merged(base, change)


_FIELDS: dict[Any, frozenset[str]] = {
    "static": frozenset(StaticQuantization.model_fields),
    "progressive": frozenset(ProgressiveQuantization.model_fields),
}
"""Kind of quantization to its fields; ``kivi`` counts widths and groups in its own way."""


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged
