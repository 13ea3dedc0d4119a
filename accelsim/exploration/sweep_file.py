"""Schema of a sweep file: what stays, what varies, what is allowed, what matters."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from accelsim import configs
from accelsim.configs import Config, Unit
from accelsim.errors import AccelsimError, ConfigError, did_you_mean, shorten
from accelsim.exploration._expressions import Expression
from accelsim.exploration._manifest import code_sha256
from accelsim.exploration._resolve import (
    AUTO,
    DEFAULT_ACCELERATOR,
    SECTIONS,
    TRACE_SUFFIXES,
    Library,
    existing_source,
    resolve,
    schema,
)
from accelsim.exploration._sources import Session
from accelsim.exploration._space import (
    MAX_NUMBER,
    Axis,
    Sampling,
    Settings,
    check_numbers,
    points,
)
from accelsim.exploration.closed_loop import PREFIX as INSIDE
from accelsim.exploration.closed_loop import ClosedLoopConfig, packed
from accelsim.exploration.metrics import ACCURACY, CLOSED_LOOP, DETAILS, METRICS, Goal, goal
from accelsim.exploration.point import Point
from accelsim.hardware import accelerator_of
from accelsim.workloads.shapes import ShapeSource, is_shape, read_shape

NAMES = ("accelerator", "memory", "energy", "policy", "source", "engine", "dependencies")
"""Keys whose values are names of presets or files."""
_FAMILIES = {
    "accelerator": "accelerators",
    "memory": "memories",
    "energy": "energy",
    "policy": "policies",
}
"""Keys of :data:`NAMES` that stand for a configuration file, and the family of it."""

S = TypeVar("S", bound=Config)

_METRICS = ("latency_s", "energy_j")


def _goals(names: Iterable[str]) -> dict[str, Goal]:
    return {name: goal(name) for name in names}


class SpaceConfig(Config):
    """What sweeps and searches share: what stays, what varies, what is allowed, what matters."""

    description: str = ""
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Traces or workloads: every point runs on each. Like all files that this one names, looked for
    beside it, then from the current folder."""
    accelerator: str = DEFAULT_ACCELERATOR
    policy: str | None = None
    engine: str = "event"
    dependencies: str | None = None
    sample: str | Annotated[float, Field(gt=0, le=1), Unit("of the rows")] = AUTO
    """``auto``, ``off`` or a fraction of the rows (docs/contexts.md)."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key to value, for every point."""
    axes: tuple[Axis, ...]
    derived: dict[str, str] = Field(default_factory=dict)
    """Dotted key to an expression over axes and ``set``, computed at every point."""
    constraints: tuple[str, ...] = ()
    """Expressions that must hold. Those over keys alone drop a point before it runs; those over
    metrics mark it as infeasible."""
    metrics: dict[str, Goal] = Field(default_factory=lambda: _goals(_METRICS))
    """What to minimize, maximize or report; the first two kinds make the Pareto set. A list of
    names takes each to where it is better, and reports what has no better side."""
    baselines: tuple[str, ...] = ()
    """Platforms to compare every point with."""
    closed_loop: ClosedLoopConfig | None = None
    """Scores the policy of every point inside a model as well: metrics ``closed_loop.*``."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
            return _goals(value)
        return value

    @model_validator(mode="after")
    def _set_holds_numbers(self) -> Self:
        for key, value in self.set.items():
            check_numbers(f"'{key}'", value)
        return self


class SweepConfig(SpaceConfig):
    """A sweep."""

    kind: Literal["sweep"] = "sweep"
    sampling: Sampling = Sampling()


class Plan:
    """A sweep file, checked, with its points.

    Args:
        config: the file's contents.
        where: path of the file, for errors and to find sources beside it.
        sources: used instead of the file's sources, if given.

    Raises:
        AccelsimError: a source, key or expression that is not valid.
    """

    def __init__(self, config: SpaceConfig, where: str, sources: tuple[str, ...] = ()) -> None:
        self.config, self.where = config, where
        self.name = Path(where).stem
        self.library, self.session = Library(), Session()
        self.sources = [_locate(text, where) for text in sources or config.sources]
        self._files: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
        self._check_names()
        self.derived = {
            key: Expression(text, f"{where}: key 'derived.{key}'")
            for key, text in config.derived.items()
        }
        self.constraints = [
            Expression(text, f"{where}: key 'constraints'") for text in config.constraints
        ]
        keys = [key for axis in config.axes for key in axis.keys]
        for section in _FAMILIES:
            for name in self._named(section):
                self._file(section, name)
        schemas = self._schemas()
        for key in (*keys, *config.set, *config.derived):
            self._check_key(key, schemas)
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ConfigError(f"{where}: key 'axes': '{twice[0]}' is in two axes")
        self._check_derived(keys)
        self._check_known([*keys, *config.set, *config.derived], schemas)
        self._closed_loop = ""
        if config.closed_loop is not None:
            self._closed_loop = packed(
                config.closed_loop, self._found, self.session.source_sha256, where
            )
        self.axes = [*keys, *(["source"] if len(self.sources) > 1 else [])]

    def settings(self, sampling: Sampling) -> Iterator[Settings]:
        """Yield the settings of every point whose constraints over keys hold, each once."""
        seen = set()
        for source in self.sources:
            for chosen in points(self.config.axes, sampling, self.where):
                complete = self.complete({"source": source, **chosen})
                text = repr(complete)  # keys have one order in all of a plan's points
                if text not in seen:
                    seen.add(text)
                    yield complete

    def complete(self, chosen: Settings) -> Settings:
        """Add what the file fixes and derives to the values of the axes."""
        complete = {**self.config.set, **chosen}
        for key, expression in self.derived.items():
            value = expression.evaluate(self.lookup(complete, {}))
            if key in NAMES and not isinstance(value, str):
                raise ConfigError(
                    f"{self.where}: key 'derived.{key}': '{key}' takes names, got {value}"
                )
            if not isinstance(value, str) and (value is None or abs(value) > MAX_NUMBER):
                shown = "no value" if value is None else f"{value:g}"
                raise ConfigError(
                    f"{self.where}: key 'derived.{key}': expected a number up to {MAX_NUMBER:g}, "
                    f"got {shown}"
                )
            whole = isinstance(value, float) and value == int(value)
            complete[key] = int(value) if whole else value
        return complete

    def resolve(self, settings: Settings) -> Point:
        """Turn settings into a point.

        Raises:
            AccelsimError: a combination that no configuration accepts.
        """
        prefix = "source."
        keys = {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
        overrides = {
            key: value
            for key, value in settings.items()
            if key not in NAMES and not key.startswith(prefix)
        }
        for name in ("memory", "energy"):
            if name in settings:
                overrides[f"accelerator.{name}"] = settings[name]
        policy = settings.get("policy", self.config.policy)
        source = settings["source"]
        setup = resolve(
            str(read_shape(source, keys)) if keys else source,
            str(settings.get("accelerator", self.config.accelerator)),
            None if policy is None else str(policy),
            str(settings.get("engine", self.config.engine)),
            overrides,
            self.library,
            settings.get("dependencies", self.config.dependencies),
            self.config.sample,
        )
        digest = self.session.source_sha256(setup.source)
        return Point.of(setup, digest, self.config.baselines, self._closed_loop)

    def allowed(self, settings: Settings) -> bool:
        """Whether the constraints that need no result hold."""
        names = set(settings)
        ready = [c for c in self.constraints if c.names <= names]
        return all(c.evaluate(self.lookup(settings, {})) for c in ready)

    def feasible(self, row: Mapping[str, Any]) -> bool:
        """Whether every constraint holds for a finished row."""
        return all(bool(c.evaluate(self.lookup(row, row))) for c in self.constraints)

    def finish(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Add the verdict of the constraints to a row that ran, and metrics that are keys.

        Raises:
            ConfigError: a metric that depends on the machine and does not exist, with the nearest
                name, or is no number.
        """
        row = dict(row)
        find = self.lookup(row, row)
        wanted = dict.fromkeys(self.config.metrics, "metrics")
        wanted |= {name: "constraints" for c in self.constraints for name in c.names}
        for name, key in wanted.items():
            value = find(name)
            first = name.partition(".")[0]
            known = [n for n in row if n.partition(".")[0] == first]
            if value is None and (first in DETAILS or (first == "accuracy" and known)):
                hint = did_you_mean(name, known)
                raise ConfigError(f"{self.where}: key '{key}': no metric or key '{name}'{hint}")
            if key == "metrics" and isinstance(value, (str, bool, dict, list)):
                raise ConfigError(f"{self.where}: key 'metrics': '{name}' is not a number")
            if key == "metrics" and value is not None:
                row[name] = value
        row["feasible"] = self.feasible(row)
        return row

    def check_measured(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Refuse goals and constraints over what no finished row has: they would decide nothing.

        Raises:
            ConfigError: names the metric.
        """
        finished = [row for row in rows if row["status"] == "ok"]
        wanted = {name: "metrics" for name, goal in self.config.metrics.items() if goal != "report"}
        wanted |= {name: "constraints" for c in self.constraints for name in c.names}
        for name, key in wanted.items():
            if finished and all(self.lookup(row, row)(name) is None for row in finished):
                raise ConfigError(
                    f"{self.where}: key '{key}': no point has '{name}'; expected one that the "
                    "machine, its memory and its tables measure"
                )

    def lookup(self, settings: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """Return a function from a name to its value: axis, metric, or resolved configuration."""

        def find(name: str) -> Any:
            if name in settings:
                return settings[name]
            section, _, rest = name.partition(".")
            text = row.get(f"config.{section}")
            if not rest or text is None:
                return None
            value = json.loads(text)
            for part in rest.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            return value

        return find

    def invalid_key(self, settings: Settings, message: str) -> str:
        """Name a point that has no valid configuration, by its settings and what is wrong."""
        text = repr(sorted(settings.items(), key=lambda item: item[0]))
        return hashlib.sha256(f"invalid {text} {message}".encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Everything that decides what a study is about: a change of any of it is another study.

        Returns:
            Name of each part, for people, to its contents.
        """
        own = self.config.model_dump(mode="json")
        metrics = {name: goal for name, goal in self.config.metrics.items() if goal != "report"}
        kept = (
            "axes", "set", "derived", "constraints", "engine", "dependencies", "sample",
            "baselines",
        )  # fmt: skip
        parts = {name: own[name] for name in kept} | {"metrics": metrics}
        return {**parts, "closed_loop": self._closed_loop, **self.contents()}

    def contents(self) -> dict[str, str]:
        """Digests of everything beyond the file's own text that decides a result.

        Returns:
            ``source NAME``, ``accelerator NAME`` …, and ``code``, to SHA-256.
        """
        found = {"code": code_sha256()}
        for number, source in enumerate(self._every_source()):
            try:
                path = existing_source(source)
            except AccelsimError as error:
                raise ConfigError(f"{self.where}: key 'axes': {error}") from None
            found[f"source {number}"] = self.session.source_sha256(path)
        for section in _FAMILIES:
            for name in self._named(section):
                text = json.dumps(self._file(section, name)[0], sort_keys=True)
                found[f"{section} {name}"] = hashlib.sha256(text.encode()).hexdigest()
        return found

    def _file(self, section: str, name: str) -> tuple[dict[str, Any], str]:
        """Return a configuration that the sweep names, and its path.

        Raises:
            ConfigError: names the sweep file too.
        """
        if (section, name) not in self._files:
            try:
                self._files[section, name] = configs.resolve(name, _FAMILIES[section])
            except ConfigError as error:
                raise ConfigError(f"{self.where}: key '{section}': {error}") from None
        return self._files[section, name]

    def _named(self, section: str) -> list[str]:
        """Presets and files that any point may use in one of :data:`NAMES`."""
        values: list[Any] = [getattr(self.config, section, None)]
        for axis in self.config.axes:
            for member in axis.zip or (axis,):
                if member.key in (section, f"accelerator.{section}"):
                    values += member.values or ()
        values += [self.config.set.get(key) for key in (section, f"accelerator.{section}")]
        if section in ("memory", "energy"):
            for data, where in self._machines:
                default = schema("accelerator", data, where).model_fields[section].default
                values.append(data.get(section, default))
        return list(dict.fromkeys(value for value in values if isinstance(value, str)))

    @cached_property
    def _machines(self) -> list[tuple[dict[str, Any], str]]:
        return [self._file("accelerator", name) for name in self._named("accelerator")]

    def _schemas(self) -> dict[str, list[type[Config]]]:
        """Models that the dotted keys of a section may belong to."""
        models: dict[str, list[type[Config]]] = {name: [m] for name, m in SECTIONS.items()}
        models["accelerator"] = [schema("accelerator", *machine) for machine in self._machines]
        return models

    def _check_names(self) -> None:
        """Check that values of :data:`NAMES` are texts."""
        if "source" in self.config.set:
            raise ConfigError(f"{self.where}: key 'set.source': give it as 'sources'")
        pairs = [("set", key, value) for key, value in self.config.set.items()]
        for axis in self.config.axes:
            for member in axis.zip or (axis,):
                if member.key in NAMES and member.values is None:
                    raise ConfigError(f"{self.where}: key 'axes': '{member.key}' takes 'values'")
                pairs += [("axes", member.key or "", value) for value in member.values or ()]
        for place, key, value in pairs:
            optional = key in ("policy", "dependencies") and value is None
            if key in NAMES and not isinstance(value, str) and not optional:
                raise ConfigError(
                    f"{self.where}: key '{place}': '{key}' takes names, got "
                    f"{shorten(repr(value), 60)}"
                )

    def _check_key(self, key: str, schemas: Mapping[str, list[type[Config]]]) -> None:
        if key in NAMES:
            return
        section, _, rest = key.partition(".")
        if section == "source" and rest:
            other = next((s for s in self._every_source() if not is_shape(s)), None)
            if other is not None:
                raise ConfigError(
                    f"{self.where}: key '{shorten(key, 60)}': for shapes; '{shorten(other, 60)}' "
                    "is none"
                )
            _check_field([ShapeSource], rest, key, self.where)
            return
        if section not in SECTIONS or not rest:
            hint = did_you_mean(section, SECTIONS) or did_you_mean(key, NAMES)
            raise ConfigError(
                f"{self.where}: unknown key '{shorten(key, 60)}'{hint} (expected one of "
                f"{', '.join(NAMES)}, or a dotted key of {', '.join(SECTIONS)})"
            )
        _check_field(schemas[section], rest, key, self.where)

    def _check_derived(self, keys: list[str]) -> None:
        """Check that every name of ``derived`` has a value before the point runs."""
        known = [*keys, *self.config.set, "source"]
        for key, expression in self.derived.items():
            for name in sorted(expression.names - set(known)):
                raise ConfigError(
                    f"{self.where}: key 'derived.{key}': '{name}' is neither an axis nor in 'set' "
                    f"nor derived before{did_you_mean(name, known)}"
                )
            known.append(key)

    def _check_known(self, keys: list[str], schemas: Mapping[str, list[type[Config]]]) -> None:
        """Check names of metrics and constraints, as far as they do not depend on the machine.

        Raises:
            ConfigError: with the nearest name.
        """
        traces = any(source.endswith(TRACE_SUFFIXES) for source in self._every_source())
        # What is there only on request (``streamed_cycles``) is not there in a sweep.
        measured = [name for name, metric in METRICS.items() if not metric.always]
        inside = [] if self.config.closed_loop is None else list(CLOSED_LOOP)
        names = [*measured, *ACCURACY, *inside, *keys, *NAMES]
        wanted = dict.fromkeys(self.config.metrics, "metrics")
        wanted |= {name: "constraints" for c in self.constraints for name in c.names}
        kinds = [accelerator_of(str(data["kind"])) for data, _ in self._machines]
        foreign = any(k.decide and not k.decide.__module__.startswith("accelsim.") for k in kinds)
        for name, key in wanted.items():
            first, _, rest = name.partition(".")
            if first == "accuracy" and not traces:
                raise ConfigError(
                    f"{self.where}: key '{key}': '{name}': a workload has no accuracy; expected a "
                    "trace as source"
                )
            if first == INSIDE and not inside:
                raise ConfigError(
                    f"{self.where}: key '{key}': '{name}' is measured inside a model; expected a "
                    f"section '{INSIDE}' that names it"
                )
            if name in names and not (key == "metrics" and name in NAMES):
                continue
            if rest and (first in DETAILS or (first == "accuracy" and foreign)):
                continue  # they are checked on the first result
            if first in SECTIONS and rest:
                _check_field(schemas[first], rest, name, self.where)
                continue
            raise ConfigError(
                f"{self.where}: key '{key}': no metric or key '{shorten(name, 60)}'"
                f"{did_you_mean(name, names)}"
            )

    def _found(self, name: str) -> str:
        """Path of a text that the file names, beside it or from here."""
        for folder in (Path(self.where).parent, Path()):
            if (folder / name).exists():
                return str(folder / name)
        raise ConfigError(f"{self.where}: key '{INSIDE}': {name}: no such file")

    def _every_source(self) -> list[str]:
        return [*self.sources, *self._named("source")]


def _check_field(models: list[type[Config]], rest: str, key: str, where: str) -> None:
    for part in rest.split("."):
        fields = {name: f for m in models for name, f in m.model_fields.items()}
        if part not in fields:
            raise ConfigError(
                f"{where}: unknown key '{shorten(key, 60)}'{did_you_mean(part, fields)}"
            )
        found = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [
            kind
            for annotation in found
            for model in configs.models_in(annotation)
            for kind in (model.every_kind() if issubclass(model, Config) else [model])
        ]
        if not models:
            return


def load_file(model: type[S], name_or_path: str) -> tuple[S, str]:
    """Read a sweep or search preset or YAML file; also return its path.

    Raises:
        ConfigError: with file, key, what was expected and the nearest match.
    """
    data, where = configs.resolve(name_or_path, "sweeps")
    # A sweep may leave its kind out, and a search may not.
    kind = data.get("kind", "sweep")
    wanted = get_args(model.model_fields["kind"].annotation)[0]
    if kind in ("sweep", "search") and kind != wanted:
        raise ConfigError(
            f"{where}: is a {kind}; run it with 'accelsim {kind}' (a {wanted} has kind: {wanted})"
        )
    return configs.validate(model, data, where), where


def _locate(source: str, where: str) -> str:
    """Find a source from here, beside the file, or in the checkout that holds the presets."""
    for folder in (Path(), Path(where).parent, configs.config_root().parent):
        if os.path.isfile(folder / source):
            return str(existing_source(folder / source))
    try:
        return str(existing_source(source))
    except AccelsimError as error:
        raise ConfigError(f"{where}: key 'sources': {error}") from None
