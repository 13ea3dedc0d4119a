"""Reference of every key that a YAML file may have, from the configuration classes."""

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import annotated_types
from documents import attributes
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.pycode import ModuleAnalyzer

from accelsim import configs
from accelsim.baselines import Platform
from accelsim.configs import Config, Unit
from accelsim.energy import EnergyTable
from accelsim.exploration._search import SearchConfig
from accelsim.exploration.sweep_file import SweepConfig
from accelsim.hardware import accelerator_kinds, accelerator_of
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import Policy
from accelsim.workloads import Benchmark, benchmark_names, benchmark_path
from accelsim.workloads.models import ModelShape

BENCHMARKS = "benchmarks"
TITLES = {
    "accelerators": "Accelerators",
    "memories": "Memories",
    "energy": "Energy tables",
    "policies": "Policies",
    "baselines": "Platforms to compare with",
    "models": "Model shapes",
    "sweeps": "Sweeps and searches",
    BENCHMARKS: "Benchmarks",
}


def roots() -> dict[str, list[type[Config]]]:
    """Classes that a whole file of a family is read with."""
    return {
        "accelerators": [accelerator_of(kind).config for kind in accelerator_kinds()],
        "memories": [MemoryConfig],
        "energy": [EnergyTable],
        "policies": [Policy],
        "baselines": [Platform],
        "models": [ModelShape],
        "sweeps": [SweepConfig, SearchConfig],
        BENCHMARKS: [Benchmark],
    }


def pages() -> dict[str, str]:
    """Text of each page by its name below ``reference/``, as reStructuredText."""
    texts = {f"yaml/{family}.rst": page(family, classes) for family, classes in roots().items()}
    listed = "\n".join(f"   {family}" for family in TITLES)
    texts["yaml/index.rst"] = (
        heading("YAML files", "=")
        + "Every key of every kind of file, with its type, bounds, unit and default, from the "
        "class that reads it. The presets of a family, with their sources, are at the end of its "
        "page; ``accelsim presets show NAME --sources`` prints each number with its own. "
        "Any file may say ``extends: PRESET``.\n\n.. toctree::\n   :maxdepth: 1\n\n" + listed + "\n"
    )
    return texts


def page(family: str, classes: list[type[Config]]) -> str:
    """Return the page of one family: its root classes, what they hold, its presets."""
    known = order(classes)
    parts = [heading(TITLES[family], "=")]
    for cls in known:
        parts.append(f".. _yaml-{family}-{slug(cls)}:\n\n")
        parts.append(heading(name_of(cls), "-"))
        parts.append(f"{purpose(cls)}\n\n")
        parts.append(f"Read by ``{cls.__module__}.{cls.__qualname__}``.\n\n")
        for name, field in cls.model_fields.items():
            parts.append(entry(family, cls, name, field, known))
    parts.append(heading("Presets", "-"))
    for name, text, source in presets(family):
        parts.append(f"``{name}``\n   {plain(text)}\n\n")
        parts.append(f"   *Source:* {plain(source)}\n\n" if source else "")
    return "".join(parts)


def order(classes: list[type[Config]]) -> list[type[Config]]:
    """Return the classes and all that their fields name, each once, outer before inner."""
    found: list[type[Config]] = []
    waiting = list(classes)
    while waiting:
        cls = waiting.pop(0)
        if cls not in found:
            found.append(cls)
            for field in cls.model_fields.values():
                waiting += [
                    kind for named in configs.models_in(field.annotation) for kind in kinds(named)
                ]
    return found


def kinds(cls: type[Config]) -> list[type[Config]]:
    """Classes that a value of this one may have, those of other packages left out."""
    return [kind for kind in cls.every_kind() if kind.__module__.startswith("accelsim.")]


def entry(
    family: str, cls: type[Config], name: str, field: FieldInfo, known: list[type[Config]]
) -> str:
    """Return one key: what it takes, what it is without, what it means."""
    takes = words(family, field.annotation, field.metadata, known)
    default = "required" if field.is_required() else f"default {default_of(field)}"
    meaning = "\n".join(f"   {line}" for line in text_of(cls, name).splitlines())
    return f"``{field.alias or name}``\n   {takes}; {default}.\n\n{meaning}\n\n"


def words(family: str, annotation: Any, metadata: list[Any], known: list[type[Config]]) -> str:
    """Say what an annotation takes, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return words(family, arguments[0], [*arguments[1:], *metadata], known)
    if origin in (typing.Union, types.UnionType):
        shown = [words(family, a, metadata, known) for a in arguments if a is not type(None)]
        if type(None) in arguments:
            shown.append("``null``")
        return " or ".join(dict.fromkeys(shown))
    if origin is Literal:
        shown = [f"``{yaml(value)}``" for value in arguments]
        return shown[0] if len(shown) == 1 else "one of " + ", ".join(shown)
    if origin in (tuple, list):
        inner = [words(family, a, [], known) for a in arguments if a is not Ellipsis]
        if arguments and arguments[-1] is Ellipsis:
            return f"list of: {inner[0]}" + limits(metadata)
        return f"list of {len(inner)}: " + ", ".join(inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        of, to = (words(family, a, [], known) for a in arguments)
        return f"mapping of {of} to: {to}"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        links = [f":ref:`yaml-{family}-{slug(kind)}`" for kind in kinds(annotation)]
        return ("mapping " if len(links) == 1 else "mapping, one of ") + ", ".join(links)
    names = {int: "whole number", float: "number", bool: "``true`` or ``false``", str: "text"}
    return names.get(annotation, "any value") + limits(metadata)


def limits(metadata: list[Any]) -> str:
    """Return the bounds and the unit of a number, or the least length of a list."""
    low = high = None
    unit = ""
    for item in flat(metadata):
        if isinstance(item, annotated_types.Ge):
            low = f"from {number(item.ge)}"
        elif isinstance(item, annotated_types.Gt):
            low = f"above {number(item.gt)}"
        elif isinstance(item, annotated_types.Le):
            high = f"to {number(item.le)}"
        elif isinstance(item, annotated_types.Lt):
            high = f"below {number(item.lt)}"
        elif isinstance(item, annotated_types.MinLen) and item.min_length == 1:
            low = "not empty"
        elif isinstance(item, Unit):
            unit = item.name
    bounds = " ".join(part for part in (low, high, unit) if part)
    return f", {bounds}" if bounds else ""


def flat(metadata: list[Any]) -> Iterator[Any]:
    """Yield what stands beside a type in ``Annotated``, with pydantic's ``Field`` unpacked."""
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else [item]


def number(value: Any) -> str:
    """Write a number as a reader does: 1,048,576 but 1e18."""
    if isinstance(value, int) and abs(value) < 1e9:
        return f"{value:,}"
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")


def default_of(field: FieldInfo) -> str:
    """Return a default as it would stand in YAML."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "none"
    if isinstance(value, Config):
        changed = value.model_dump(exclude_defaults=True)
        kind = getattr(value, "kind", None)
        told = {**({} if kind is None else {"kind": kind}), **changed}
        return f"``{yaml(told)}``" if told else "that of its own keys"
    return f"``{yaml(value)}``"


def yaml(value: Any) -> str:
    """Write a value on one line of YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(yaml(item) for item in value) + "]"
    if isinstance(value, float):
        return number(value)
    return '""' if value == "" else str(value)


def text_of(cls: type[Config], name: str) -> str:
    """Return what the source says of a field, in the class or the nearest one above it."""
    for base in cls.__mro__:
        if base is Config or not issubclass(base, Config):
            continue
        documented = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
        found = documented.get((base.__qualname__, name))
        if found:
            return "\n".join(found).strip()
        listed = attributes(base).get(name)
        if listed:
            return listed
    return ""


def purpose(cls: type[Config]) -> str:
    """Return a docstring without its list of attributes."""
    return inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[0].strip()


def name_of(cls: type[Config]) -> str:
    """Return the heading of a class: its kind where the file names one, else its name."""
    field = cls.model_fields.get("kind")
    values = () if field is None else get_args(field.annotation)
    return f"{cls.__name__}: kind {values[0]}" if len(values) == 1 else cls.__name__


def slug(cls: type[Config]) -> str:
    """Return the name of a class as a link target; two rooms may have one of the same name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cls.__module__}.{cls.__qualname__}".lower())


def presets(family: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, description and source of what ships of a family."""
    names = benchmark_names() if family == BENCHMARKS else configs.preset_names(family)
    for name in names:
        path = (
            benchmark_path(name)
            if family == BENCHMARKS
            else configs.config_root() / family / f"{name}.yaml"
        )
        data = configs.read_yaml(path)
        yield name, str(data.get("description", "")), str(data.get("source", ""))


def plain(text: str) -> str:
    """Escape what reStructuredText would read as markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", " ".join(text.split()))


def heading(text: str, line: str) -> str:
    """Return a heading of reStructuredText."""
    return f"{text}\n{line * len(text)}\n\n"
