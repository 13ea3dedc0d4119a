"""Selections by kind: a kind is a module of ``selections``, or comes with another package.

``selection: {kind: h2o}`` in a YAML file is ``accelsim/policies/selections/h2o.py``, so a new rule
is one new file plus one YAML and nothing else has to know it. A package of its own names its rules
as entry points of the group :data:`ENTRY_POINTS`; one that lives in a notebook is made known to its
process with :func:`register_selection`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from importlib.metadata import EntryPoint
from typing import Any, get_args

from accelsim import plugins
from accelsim.configs import validate
from accelsim.errors import ConfigError, did_you_mean
from accelsim.policies._selection import SelectionPart

ENTRY_POINTS = "accelsim.policies"
"""Group of entry points: the name is the kind, the object a subclass of :class:`SelectionPart`."""

_REGISTERED: dict[str, type[SelectionPart]] = {}
"""Selections that this process was told, by kind."""


def register_selection(part: type[SelectionPart]) -> None:
    """Make a selection known to this process; a later one of the same kind replaces it.

    Args:
        part: its settings; the only value of its field ``kind`` is its name.

    Raises:
        ConfigError: a part without a single ``kind``, or one with the name of a rule of accelsim.
    """
    kind = _kind_of(part)
    if kind is None:
        raise ConfigError(f"{part.__name__}: expected a field kind: Literal['its-name']")
    if kind in _modules():
        raise ConfigError(f"selection '{kind}' is one of accelsim's; choose another name")
    _REGISTERED[kind] = part


def selection_kinds() -> list[str]:
    """Names that ``kind`` of a selection may have, sorted."""
    return sorted({*_modules(), *_REGISTERED, *plugins.offered(ENTRY_POINTS)})


def every_selection() -> list[type[SelectionPart]]:
    """Settings of all kinds that can be imported."""
    parts = []
    for kind in selection_kinds():
        with contextlib.suppress(ValueError):
            parts.append(selection_of(kind))
    return parts


def selection_of(kind: str) -> type[SelectionPart]:
    """Return the settings of a kind, importing its module.

    Raises:
        ValueError: no such kind, or a package whose entry point is not one.
    """
    if kind in _modules():
        module = importlib.import_module(f"accelsim.policies.selections.{kind}")
        parts = [p for p in vars(module).values() if _kind_of(p) == kind]
        if not parts:
            raise ValueError(
                f"selections/{kind}.py: expected a subclass of SelectionPart with "
                f"kind: Literal['{kind}']"
            )
        found: type[SelectionPart] = parts[0]
        return found
    if kind in _REGISTERED:
        return _REGISTERED[kind]
    if kind in plugins.offered(ENTRY_POINTS):
        return _loaded(plugins.offered(ENTRY_POINTS)[kind])
    known = selection_kinds()
    raise ValueError(
        f"unknown selection '{kind}'{did_you_mean(kind, known)} (known: {', '.join(known)})"
    )


def read_selection(value: Any) -> Any:
    """Validate the mapping of a selection with the settings of its ``kind``; for pydantic.

    Raises:
        ValueError: no kind, an unknown one, or settings that it does not take.
    """
    if isinstance(value, SelectionPart):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"expected a mapping with 'kind', one of {', '.join(selection_kinds())}")
    part = selection_of(kind)
    try:
        return validate(part, value, f"selection '{kind}'")
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _kind_of(part: Any) -> str | None:
    """The one value of the field ``kind`` of a selection's settings."""
    if not (isinstance(part, type) and issubclass(part, SelectionPart)):
        return None
    field = part.model_fields.get("kind")
    names = () if field is None else get_args(field.annotation)
    return str(names[0]) if len(names) == 1 else None


def _loaded(entry: EntryPoint) -> type[SelectionPart]:
    part = plugins.load(entry)
    if _kind_of(part) != entry.name:
        raise ValueError(
            f"{plugins.told(entry)}: {entry.value} is no subclass of SelectionPart with "
            f"kind: Literal['{entry.name}']"
        )
    found: type[SelectionPart] = part
    return found


@functools.cache
def _modules() -> list[str]:
    package = importlib.import_module("accelsim.policies.selections")
    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
