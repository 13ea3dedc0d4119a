"""Finding, reading and checking the YAML under ``hw_configs/``.

Every configuration file of accelsim goes through :func:`load`, so a wrong key or type always gives
the same message: file, key, what was expected, nearest match.
"""

from __future__ import annotations

import functools
import os
import reprlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import pydantic_core

from accelsim import yaml_reader
from accelsim.errors import ConfigError, did_you_mean, shorten
from accelsim.files import read_text, shipped

FAMILIES = ("accelerators", "memories", "energy", "baselines", "policies", "models", "sweeps")
"""Folders of ``hw_configs/``; a preset is a file in one of them."""

_MAX_SHOWN = 80
"""Characters of a key that an error quotes."""
_MAX_NAMES = 12
"""Names that an error lists."""
_REFERENCES = {
    "accelerators": ("memory", "energy", "model"),
    "sweeps": ("accelerator", "policy", "memory", "energy", "source"),
}
"""Keys of a family whose values are presets or files; so is what they end a dotted key with."""


class Config(pydantic.BaseModel):
    """Base of all configuration models: unknown keys are errors, values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _scalars_have_one_meaning(cls, data: Any) -> Any:
        """Refuse ``true`` and texts where numbers are expected, and 1 where ``true`` is."""
        if isinstance(data, Mapping):
            errors = []
            for name, field in cls.model_fields.items():
                key = name if name in data or field.alias is None else field.alias
                if key in data:
                    errors += _scalar_errors(key, data[key], _kinds_of(cls, name))
            if errors:
                raise pydantic_core.ValidationError.from_exception_data(cls.__name__, errors)
        return data

    @classmethod
    def every_kind(cls) -> list[type[Config]]:
        """Models that a value of this one may have; more than one where its ``kind`` decides."""
        return [cls]


@dataclass(frozen=True)
class Unit:
    """Of a number, beside its bounds in ``Annotated``; errors name it."""

    name: str


C = TypeVar("C", bound=Config)


def config_root() -> Path:
    """Return the folder that holds the presets.

    ``ACCELSIM_CONFIGS`` if set, else what comes with accelsim.
    """
    override = os.environ.get("ACCELSIM_CONFIGS")
    if override:
        return Path(override)
    return shipped("hw_configs")


def preset_names(family: str) -> list[str]:
    """Names of the presets of ``family``, sorted."""
    return sorted(path.stem for path in (config_root() / family).glob("*.yaml"))


def is_path(name_or_path: str) -> bool:
    """Whether a text names a YAML file and not a preset."""
    return name_or_path.endswith((".yaml", ".yml")) or os.sep in name_or_path


def find(name_or_path: str, family: str) -> Path:
    """Return the file of a preset name or of a path to a YAML file.

    Raises:
        ConfigError: neither a preset of the family nor an existing file.
    """
    if is_path(name_or_path):
        path = Path(name_or_path)
        if not os.path.isfile(path):
            raise ConfigError(f"{name_or_path}: no such file")
        return path
    several = [name for name in name_or_path.split(",") if name]
    if len(several) > 1 and all(name in preset_names(family) for name in several):
        raise ConfigError(
            f"'{shorten(name_or_path, _MAX_SHOWN)}' is {len(several)} presets; expected one: "
            f"repeat the option, as in --policy {several[0]} --policy {several[1]}"
        )
    path = config_root() / family / f"{name_or_path}.yaml"
    if not os.path.isfile(path):  # false, unlike Path.is_file, for a name too long for the system
        known = preset_names(family)
        shown = shorten(name_or_path, _MAX_SHOWN)
        # Every name where they fit on the line; else where to find them.
        names = (
            ", ".join(known) if len(known) <= _MAX_NAMES else f"'accelsim presets list {family}'"
        )
        raise ConfigError(
            f"unknown {family} preset '{shown}'{did_you_mean(name_or_path, known)} ({names})"
        )
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping, safely."""
    text = read_text(path, ConfigError, yaml_reader.MAX_CHARACTERS + 1)
    try:
        data = yaml_reader.read(text)
    except yaml_reader.YamlError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values")
    return data


def load(
    model: type[C], name_or_path: str, family: str, overrides: Mapping[str, Any] | None = None
) -> C:
    """Read, override and validate one configuration.

    A file may say ``extends: PRESET`` to start from another one of its family; nested mappings are
    merged key by key.

    Args:
        model: the schema.
        name_or_path: preset name or path of a YAML file.
        family: one of :data:`FAMILIES`.
        overrides: dotted key to value, as from ``--set``.

    Raises:
        ConfigError: with file, key and expectation.
    """
    data, where = resolve(name_or_path, family)
    for key, value in (overrides or {}).items():
        set_dotted(data, key, value)
    return validate(model, data, where)


def resolve(name_or_path: str, family: str) -> tuple[dict[str, Any], str]:
    """Return one file's mapping after ``extends``, not yet validated, and the path it came from."""
    path = find(name_or_path, family)
    return _resolve(path, family, ()), str(path)


def validate(model: type[C], data: Mapping[str, Any], where: str) -> C:
    """Check ``data`` against ``model``; ``where`` names the file in the error."""
    try:
        return model.model_validate(dict(data))
    except pydantic.ValidationError as error:
        # What is wrong comes before what is missing.
        found = sorted(error.errors(), key=lambda e: e["type"] == "missing")
        raise ConfigError("; ".join(_explain(model, where, e) for e in found[:3])) from None


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """Split ``KEY=VALUE`` of ``--set``, or of another option; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{option} {shorten(text, _MAX_SHOWN)}: expected KEY=VALUE")
    try:
        parsed = yaml_reader.read(value)
    except yaml_reader.YamlError as error:
        shown = f"{option} {shorten(key, _MAX_SHOWN)}={shorten(value, _MAX_SHOWN)}"
        raise ConfigError(f"{shown}: not a YAML value ({error})") from None
    return key.strip(), parsed


def set_dotted(data: dict[str, Any], key: str, value: Any) -> None:
    """Set ``data['a']['b'] = value`` for the key ``a.b``, creating mappings on the way."""
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: '{parent}' is a value, not a section")
        node = child
    node[last] = value


def _resolve(path: Path, family: str, seen: tuple[str, ...]) -> dict[str, Any]:
    real = os.path.realpath(path)
    if real in seen:
        raise ConfigError(f"{path}: 'extends' goes round in a circle")
    data = _beside(read_yaml(path), path.parent, family)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: key 'extends': expected the name of a preset")
    try:
        found = find(parent, family)
    except ConfigError as error:
        raise ConfigError(f"{path}: key 'extends': {error}") from None
    return _merge(_resolve(found, family, (*seen, real)), data)


def _beside(data: dict[str, Any], folder: Path, family: str) -> dict[str, Any]:
    """Replace names of files that are beside ``folder``'s configuration by their paths.

    Anything else stays as it is: it is a preset, or a file in the current folder.
    """

    def located(value: Any, *, source: bool = False) -> Any:
        if isinstance(value, list):
            return [located(item, source=source) for item in value]
        if isinstance(value, str) and value and (source or is_path(value)):
            return str(folder / value) if os.path.isfile(folder / value) else value
        return value

    def walk(key: Any, value: Any) -> Any:
        last = key.rpartition(".")[2] if isinstance(key, str) else ""
        refers = last in _REFERENCES.get(family, ())
        return located(value, source=key == "source") if refers else value

    result = {key: walk(key, value) for key, value in data.items()}
    if family == "policies":
        result = _decisions_beside(result, folder)
    if "extends" in data:
        result["extends"] = located(data["extends"])
    if family != "sweeps":
        return result
    for key in ("sources", "baselines"):
        if key in data:
            result[key] = located(data[key], source=key == "sources")
    if isinstance(data.get("set"), dict):
        result["set"] = {key: walk(key, value) for key, value in data["set"].items()}
    if isinstance(data.get("axes"), list):
        result["axes"] = [_axis_beside(axis, walk) for axis in data["axes"]]
    return result


def _decisions_beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Name a file of recorded decisions that lies beside the policy by its path."""
    changed = {
        key: _decisions_beside(value, folder) if isinstance(value, dict) else value
        for key, value in data.items()
    }
    name = data.get("decisions")
    if isinstance(name, str) and name and os.path.isfile(folder / name):
        changed["decisions"] = str(folder / name)
    return changed


def _axis_beside(axis: Any, walk: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(axis, dict):
        return axis
    changed = dict(axis)
    if "values" in axis:
        changed["values"] = walk(axis.get("key"), axis["values"])
    if isinstance(axis.get("zip"), list):
        changed["zip"] = [_axis_beside(member, walk) for member in axis["zip"]]
    return changed


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(model: type[pydantic.BaseModel], where: str, error: Any) -> str:
    location: Sequence[int | str] = error["loc"]
    key = shorten(".".join(str(part) for part in location), _MAX_SHOWN)
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"{where}: unknown key '{key}'{did_you_mean(str(location[-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: key '{key}' is missing"
    value = shown(error.get("input"))
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.replace("a valid tuple", "a list")
    if error["type"] in _BOUNDS:
        message += _unit_at(model, location)
    prefix = "" if error["type"] == "value_error" else "expected "
    place = f"key '{key}': " if key else ""
    given = f", got {value}" if key and error["type"] != "value_error" else ""
    return f"{where}: {place}{prefix}{message}{given}"


def shown(value: Any) -> str:
    """Return a value as YAML writes it, short whatever it holds."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return shorten(_REPR.repr(value), 60)
    except ValueError:
        return "a number too long to print"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 60


_BOUNDS = ("less_than_equal", "less_than", "greater_than_equal", "greater_than")


def _unit_at(model: type[pydantic.BaseModel], location: Sequence[int | str]) -> str:
    """Unit of the field that an error is about, behind a space; empty if it has none."""
    models: list[type[Any]] = [model]
    unit = ""
    for part in location:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            parts = [x for f in fields for x in (*f.metadata, *_parts_of(f.annotation))]
            unit = next((f" {x.name}" for x in parts if isinstance(x, Unit)), "")
            models = [m for f in fields for m in models_in(f.annotation)]
    return unit


def _parts_of(annotation: Any) -> Iterator[Any]:
    """An annotation, and what it is made of; of a mapping, only the values count."""
    yield annotation
    arguments = typing.get_args(annotation)
    if isinstance(typing.get_origin(annotation), type) and issubclass(
        typing.get_origin(annotation), Mapping
    ):
        arguments = arguments[1:]
    for argument in arguments:
        yield from _parts_of(argument)


@functools.cache
def _kinds_of(model: type[pydantic.BaseModel], name: str) -> frozenset[type] | None:
    """Types that scalars of a field may have; ``None`` if there is nothing to check."""
    parts = list(_parts_of(model.model_fields[name].annotation))
    if Any in parts or models_in(model.model_fields[name].annotation):
        return None
    kinds = {p if isinstance(p, type) else type(p) for p in parts} & {bool, int, float, str}
    return frozenset(kinds) if kinds & {bool, int, float} else None


def _scalar_errors(
    key: str, value: Any, kinds: frozenset[type] | None
) -> list[pydantic_core.InitErrorDetails]:
    if kinds is None:
        return []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [error for item in value for error in _scalar_errors(key, item, kinds)]
    numbers = kinds & {int, float}
    if type(value) not in (bool, str, int, float):
        return []
    if type(value) in kinds or (numbers and type(value) in (int, float)):
        return []
    expected = "true or false"
    if numbers:
        expected = "a valid number" if float in kinds else "a valid integer"
    problem = pydantic_core.PydanticCustomError("scalar", expected)  # type: ignore[arg-type]
    return [pydantic_core.InitErrorDetails(type=problem, loc=(key,), input=value)]


def _keys_at(model: type[pydantic.BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the (sub-)model at ``location``, for the nearest-match hint."""
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", None)
        if fields is None or part not in fields:
            continue
        current = next((a for a in models_in(fields[part].annotation)), None)
        if current is None:
            return []
    return list(current.model_fields)


def models_in(annotation: Any) -> list[type[Any]]:
    """Return the models that an annotation names, through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in models_in(arg)]
