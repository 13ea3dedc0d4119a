"""Finding, reading and checking the YAML under ``hw_configs/``.

Every configuration file of accelsim goes through :func:`load`, so a wrong key or type always gives
the same message: file, key, what was expected, nearest match.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from accelsim.errors import ConfigError, did_you_mean

FAMILIES = ("accelerators", "memories", "energy", "baselines", "policies", "models", "sweeps")
"""Folders of ``hw_configs/``; a preset is a file in one of them."""

_MAX_FLOW_DEPTH = 100
_MAX_SHOWN = 120
"""Characters of a key that an error quotes."""


class Config(pydantic.BaseModel):
    """Base of all configuration models: unknown keys are errors, values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def config_root() -> Path:
    """Return the folder that holds the presets.

    ``ACCELSIM_CONFIGS`` if set, else the copy inside the installed package, else the checkout's.
    """
    override = os.environ.get("ACCELSIM_CONFIGS")
    if override:
        return Path(override)
    packaged = Path(__file__).parent / "_data" / "hw_configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "hw_configs"


def preset_names(family: str) -> list[str]:
    """Names of the presets of ``family``, sorted."""
    return sorted(path.stem for path in (config_root() / family).glob("*.yaml"))


def find(name_or_path: str, family: str) -> Path:
    """Return the file of a preset name or of a path to a YAML file.

    Raises:
        ConfigError: neither a preset of the family nor an existing file.
    """
    if name_or_path.endswith((".yaml", ".yml")) or os.sep in name_or_path:
        path = Path(name_or_path)
        if not os.path.isfile(path):
            raise ConfigError(f"{name_or_path}: no such file")
        return path
    path = config_root() / family / f"{name_or_path}.yaml"
    if not os.path.isfile(path):  # false, unlike Path.is_file, for a name too long for the system
        known = preset_names(family)
        raise ConfigError(
            f"unknown {family} preset '{name_or_path}'{did_you_mean(name_or_path, known)} "
            f"(known: {', '.join(known)})"
        )
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping, safely."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML ({detail})") from None
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
        raise ConfigError(
            "; ".join(_explain(model, where, e) for e in error.errors()[:3])
        ) from None


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE`` of ``--set``; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected KEY=VALUE")
    try:
        parsed = yaml.load(value, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {text}: '{value}' is not a YAML value") from None
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


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and deep nesting, and reads ``1e9`` as a number."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - PyYAML's name
        # PyYAML looks at every open bracket for each token: thousands would take minutes.
        if self.flow_level >= _MAX_FLOW_DEPTH:
            raise yaml.scanner.ScannerError(
                None, None, f"brackets nested more than {_MAX_FLOW_DEPTH} deep", self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)):
                raise yaml.constructor.ConstructorError(
                    None, None, "keys must be plain words", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_float(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    return float(node.value)


# YAML 1.1 reads 1e9 as text because it has no dot; users of hardware files mean a number.
_StrictLoader.add_constructor("!accelsim-float", _read_float)
_StrictLoader.add_implicit_resolver(
    "!accelsim-float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _resolve(path: Path, family: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"{path}: 'extends' goes round in a circle")
    data = read_yaml(path)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: key 'extends': expected the name of a preset")
    return _merge(_resolve(find(parent, family), family, (*seen, path)), data)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(model: type[pydantic.BaseModel], where: str, error: Any) -> str:
    location: Sequence[int | str] = error["loc"]
    key = _short(".".join(str(part) for part in location))
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"{where}: unknown key '{key}'{did_you_mean(str(location[-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: key '{key}' is missing"
    shown = repr(error.get("input"))
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    prefix = "" if error["type"] == "value_error" else "expected "
    place = f"key '{key}': " if key else ""
    given = f", got {shown}" if key and error["type"] != "value_error" else ""
    return f"{where}: {place}{prefix}{message}{given}"


def _short(text: str) -> str:
    """One printable line of at most :data:`_MAX_SHOWN` characters."""
    line = text if text.isprintable() else ascii(text)
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."


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
