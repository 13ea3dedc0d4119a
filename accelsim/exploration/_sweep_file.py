"""Schema of a sweep file: what stays, what varies, what is allowed, what matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, field_validator

from accelsim import configs
from accelsim.configs import Config
from accelsim.errors import AccelsimError, ConfigError, did_you_mean
from accelsim.exploration._expressions import Expression
from accelsim.exploration._point import Point
from accelsim.exploration._session import Session
from accelsim.exploration._setup import (
    DEFAULT_ACCELERATOR,
    SECTIONS,
    Library,
    existing_source,
    resolve,
    schema,
)
from accelsim.exploration._space import Axis, Sampling, Settings, points
from accelsim.exploration.metrics import goal

NAMES = ("accelerator", "memory", "energy", "policy", "source", "engine", "dependencies")
"""Keys whose values are names of presets or files."""

S = TypeVar("S", bound=Config)
Goal = Literal["minimize", "maximize", "report"]

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

    @field_validator("metrics", mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
            return _goals(value)
        return value


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
        self.derived = {
            key: Expression(text, f"{where}: key 'derived.{key}'")
            for key, text in config.derived.items()
        }
        self.constraints = [
            Expression(text, f"{where}: key 'constraints'") for text in config.constraints
        ]
        keys = [key for axis in config.axes for key in axis.keys]
        for key in (*keys, *config.set, *config.derived):
            self._check_key(key)
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ConfigError(f"{where}: key 'axes': '{twice[0]}' is in two axes")
        self.axes = [*keys, *(["source"] if len(self.sources) > 1 else [])]

    def settings(self, sampling: Sampling) -> Iterator[Settings]:
        """Yield the settings of every point whose constraints over keys hold, each once."""
        seen = set()
        for source in self.sources:
            for chosen in points(self.config.axes, sampling, self.where):
                complete = self.complete({"source": source, **chosen})
                text = repr(sorted(complete.items(), key=lambda item: item[0]))
                if text not in seen:
                    seen.add(text)
                    yield complete

    def complete(self, chosen: Settings) -> Settings:
        """Add what the file fixes and derives to the values of the axes."""
        complete = {**self.config.set, **chosen}
        for key, expression in self.derived.items():
            value = expression.evaluate(self.lookup(complete, {}))
            whole = isinstance(value, float) and value == int(value)
            complete[key] = int(value) if whole else value
        return complete

    def resolve(self, settings: Settings) -> Point:
        """Turn settings into a point.

        Raises:
            AccelsimError: a combination that no configuration accepts.
        """
        overrides = {key: value for key, value in settings.items() if key not in NAMES}
        for name in ("memory", "energy"):
            if name in settings:
                overrides[f"accelerator.{name}"] = settings[name]
        policy = settings.get("policy", self.config.policy)
        setup = resolve(
            settings["source"],
            str(settings.get("accelerator", self.config.accelerator)),
            None if policy is None else str(policy),
            str(settings.get("engine", self.config.engine)),
            overrides,
            self.library,
            settings.get("dependencies", self.config.dependencies),
        )
        digest = self.session.source_sha256(setup.source)
        return Point.of(setup, digest, self.config.baselines)

    def allowed(self, settings: Settings) -> bool:
        """Whether the constraints that need no result hold."""
        names = set(settings)
        ready = [c for c in self.constraints if c.names <= names]
        return all(c.evaluate(self.lookup(settings, {})) for c in ready)

    def feasible(self, row: Mapping[str, Any]) -> bool:
        """Whether every constraint holds for a finished row."""
        return all(bool(c.evaluate(self.lookup(row, row))) for c in self.constraints)

    def check_metrics(self, row: Mapping[str, Any]) -> None:
        """Check, on the first result, that every metric and name of a constraint exists.

        Raises:
            ConfigError: with the nearest name.
        """
        wanted = dict.fromkeys(self.config.metrics, "metrics")
        wanted |= {name: "constraints" for c in self.constraints for name in c.names}
        for name, key in wanted.items():
            known = name in row or self.lookup(row, row)(name) is not None
            if not known and not name.startswith("accuracy."):
                hint = did_you_mean(name, [n for n in row if not n.startswith("config.")])
                raise ConfigError(f"{self.where}: key '{key}': no metric or key '{name}'{hint}")

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

    def invalid_key(self, settings: Settings) -> str:
        """Name a point that has no valid configuration."""
        text = repr(sorted(settings.items(), key=lambda item: item[0]))
        return hashlib.sha256(f"invalid {text}".encode()).hexdigest()

    def _check_key(self, key: str) -> None:
        if key in NAMES:
            return
        section, _, rest = key.partition(".")
        if section not in SECTIONS or not rest:
            hint = did_you_mean(section, SECTIONS) or did_you_mean(key, NAMES)
            raise ConfigError(
                f"{self.where}: unknown key '{key}'{hint} (expected one of {', '.join(NAMES)}, or "
                f"a dotted key of {', '.join(SECTIONS)})"
            )
        model: type[Config] = SECTIONS[section]
        if section == "accelerator":
            data, where = configs.resolve(self.config.accelerator, "accelerators")
            model = schema(section, data, where)
        _check_field(model, rest, key, self.where)


def _check_field(model: type[Config], rest: str, key: str, where: str) -> None:
    models = [model]
    for part in rest.split("."):
        fields = {name: f for m in models for name, f in m.model_fields.items()}
        if part not in fields:
            raise ConfigError(f"{where}: unknown key '{key}'{did_you_mean(part, fields)}")
        found = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [m for annotation in found for m in configs.models_in(annotation)]
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
        if (folder / source).is_file():
            return str(existing_source(folder / source))
    try:
        return str(existing_source(source))
    except AccelsimError as error:
        raise ConfigError(f"{where}: key 'sources': {error}") from None
