"""Names and overrides become configurations: the first half of a run, without any simulation."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from accelsim import configs
from accelsim.energy import EnergyTable, check_table
from accelsim.errors import AccelsimError, ConfigError, did_you_mean
from accelsim.hardware import accelerator_of
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.policies import Policy, split_policy
from accelsim.traces import trace_names, trace_path
from accelsim.workloads import Workload, benchmark_names, benchmark_path
from accelsim.workloads.shapes import ShapeSource, is_shape, read_shape

DEFAULT_ACCELERATOR = "spatten-paper"
DEFAULT_POLICY = "dense"
SECTIONS: dict[str, type[configs.Config]] = {
    "accelerator": AcceleratorConfig,
    "memory": MemoryConfig,
    "energy": EnergyTable,
    "policy": Policy,
}
"""First words of dotted keys, and the schema of what follows (an accelerator's is by ``kind``)."""

AUTO, OFF = "auto", "off"
"""Sampled simulation above a size, or never."""

TRACE_SUFFIXES = (".safetensors", ".safetensors.index.json")
_SUFFIXES = (*TRACE_SUFFIXES, ".csv", ".parquet")


@dataclass(frozen=True)
class Resolved:
    """A validated configuration with its canonical text.

    Attributes:
        config: the validated model.
        text: its JSON with sorted keys: equal texts are equal configurations.
    """

    config: configs.Config
    text: str

    @classmethod
    def of(cls, config: configs.Config) -> Resolved:
        """Attach the canonical text to a configuration."""
        return cls(config, json.dumps(config.model_dump(mode="json"), sort_keys=True))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Setup:
    """Everything that decides a result, except the contents of the source.

    Attributes:
        source: file of the trace or workload, a workload in memory, or the text that names a shape.
        engine: name of the timing engine.
        parts: section to configuration; ``policy`` only where the source is a trace or a shape and
            the accelerator has no pruning rule of its own.
        dependencies: ``causal`` or ``streamed``; the source's and the machine's default if not
            given.
        sample: ``auto``, ``off``, or the fraction of a sampled simulation.
    """

    source: Path | Workload
    engine: str
    parts: Mapping[str, Resolved]
    dependencies: str | None = None
    sample: str = AUTO

    @property
    def is_trace(self) -> bool:
        """Whether the source holds tensors, rather than a policy's decisions."""
        return isinstance(self.source, Path) and self.source.name.endswith(TRACE_SUFFIXES)

    @property
    def trace_file(self) -> Path:
        """The source, where :attr:`is_trace` holds."""
        assert isinstance(self.source, Path)
        return self.source

    @property
    def source_name(self) -> str:
        """What to call the source: its path, or the name of a workload in memory."""
        return self.source.name if isinstance(self.source, Workload) else str(self.source)

    @cached_property
    def shape(self) -> ShapeSource | None:
        """What the source asks for, if it is a shape."""
        if isinstance(self.source, Workload) or not is_shape(str(self.source)):
            return None
        return read_shape(str(self.source))


@dataclass
class Library:
    """Configuration files, each read and validated once while the library lives."""

    _files: dict[tuple[str, str], tuple[dict[str, Any], str]] = field(default_factory=dict)
    _loaded: dict[tuple[str, str, str], Resolved] = field(default_factory=dict)

    def load(
        self, section: str, name: str | configs.Config, family: str, overrides: Mapping[str, Any]
    ) -> Resolved:
        """Return one configuration: a preset, a YAML file, or one in memory.

        Raises:
            ConfigError: with file, key and expectation.
        """
        if isinstance(name, configs.Config):
            if not overrides:
                return Resolved.of(name)
            data = name.model_dump(mode="json")
            for dotted, value in overrides.items():
                configs.set_dotted(data, dotted, value)
            return Resolved.of(configs.validate(type(name), data, section))
        key = (section, name, json.dumps(overrides, sort_keys=True, default=str))
        known = self._loaded.get(key)
        if known is None:
            data, where = self._read(name, family)
            for dotted, value in overrides.items():
                configs.set_dotted(data, dotted, value)
            model = schema(section, data, where)
            known = Resolved.of(configs.validate(model, data, where))
            self._loaded[key] = known
        return known

    def _read(self, name: str, family: str) -> tuple[dict[str, Any], str]:
        if (name, family) not in self._files:
            self._files[name, family] = configs.resolve(name, family)
        data, where = self._files[name, family]
        return copy.deepcopy(data), where


def resolve(
    source: str | Path | Workload,
    accelerator: str | AcceleratorConfig,
    policy: str | None,
    engine: str,
    overrides: Mapping[str, Any],
    library: Library,
    dependencies: str | None = None,
    sample: str | float = AUTO,
) -> Setup:
    """Find, override and validate every configuration of one run.

    Raises:
        AccelsimError: no such source, or a configuration that is not valid.
    """
    found = source if isinstance(source, Workload) else existing_source(source)
    split = split_overrides(overrides)
    machine = library.load("accelerator", accelerator, "accelerators", split["accelerator"])
    config = machine.config
    assert isinstance(config, AcceleratorConfig)
    parts = {
        "accelerator": machine,
        "memory": library.load("memory", config.memory, "memories", split["memory"]),
        "energy": library.load("energy", config.energy, "energy", split["energy"]),
    }
    check_table(cast(EnergyTable, parts["energy"].config), config, config.energy)
    setup = Setup(found, engine, parts, dependencies, read_sample(sample))
    undecided = setup.is_trace or setup.shape is not None
    if undecided and accelerator_of(config.kind).decide is not None:
        if split["policy"] or policy not in (None, DEFAULT_POLICY):
            raise ConfigError(
                f"accelerator {_named(accelerator)}({config.kind}) prunes by its own rule; "
                "--policy and policy.* are for accelerators without one"
            )
    elif undecided:
        name, changes = split_policy(policy or DEFAULT_POLICY)
        changes |= split["policy"]
        parts["policy"] = library.load("policy", name, "policies", changes)
    elif policy is not None or split["policy"]:
        raise ConfigError(
            f"{setup.source_name}: a workload already holds a policy's decisions; --policy is for "
            "traces (see 'accelsim list traces') and shapes; 'accelsim replay' runs it as it is"
        )
    return setup


def _named(accelerator: str | AcceleratorConfig) -> str:
    return f"'{accelerator}' " if isinstance(accelerator, str) else ""


def read_sample(given: str | float) -> str:
    """Check what a simulation samples; a fraction in one spelling.

    Args:
        given: ``auto``, ``off``, a fraction or a percentage, as in 0.02 and 2%.

    Raises:
        ConfigError: anything else.
    """
    text = str(given).strip()
    if text in (AUTO, OFF):
        return text
    try:
        fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise ConfigError(
            f"sample: expected auto, off, or a part of the rows between 0 and 100 %, as in 2%; got "
            f"{configs.shown(text)}"
        )
    return f"{fraction:g}"


def schema(section: str, data: Mapping[str, Any], where: str) -> type[configs.Config]:
    """Return the model that checks ``data`` of a section."""
    if section != "accelerator":
        return SECTIONS[section]
    return accelerator_of(str(data.get("kind")), where).config


def existing_source(source: str | Path) -> Path:
    """Return the file of a source; of a shape, the text that names it.

    Raises:
        AccelsimError: there is none, or its name has no known suffix.
    """
    if is_shape(str(source)):
        shape = read_shape(str(source))
        shape.load()
        return Path(str(shape))
    path = Path(source)
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        # No result, table or picture could name it.
        raise AccelsimError(f"{path}: the name is not UTF-8; rename the file") from None
    # Unlike Path.exists, os.path.exists is false for a name that is too long for the system.
    exists = os.path.exists(path)
    if isinstance(source, str) and not path.suffix and not exists:
        return trace_path(source) if source in trace_names() else benchmark_path(source)
    if not exists:
        raise AccelsimError(f"{path}: no such file{_nearest_file(path)}")
    if path.is_dir():
        raise AccelsimError(f"{path}: is a folder; expected a .safetensors, .csv or .parquet file")
    benchmark = path.suffix == ".yaml" and path.stem in benchmark_names()
    if benchmark and os.path.samefile(path, benchmark_path(path.stem)):
        return path
    if not path.name.endswith(_SUFFIXES):
        raise AccelsimError(f"{path}: expected a .safetensors, .csv or .parquet file")
    return path


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, [p.name for p in path.parent.iterdir()])


def split_overrides(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort dotted keys by their section; a key without one belongs to the accelerator."""
    split: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in overrides.items():
        section, _, rest = key.partition(".")
        if section in SECTIONS and rest:
            split[section][rest] = value
        else:
            split["accelerator"][key] = value
    return split
