"""Ablation: what each field that differs between two configurations is worth.

The fields are found by comparing the two validated configurations, so an ablation works for any
two machines of one kind and never has to be told what they differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelsim import configs
from accelsim.energy import EnergyTable, across_readings
from accelsim.errors import AccelsimError, ConfigError, SimulationError, WorkloadError, did_you_mean
from accelsim.exploration._arguments import checked
from accelsim.exploration._manifest import manifest
from accelsim.exploration._resolve import Library, Setup, resolve
from accelsim.exploration._run import run
from accelsim.exploration._sources import Session
from accelsim.exploration.metrics import METRICS

SCHEMA = "accelsim.ablation/1"
UNITS = {
    "latency_cycles": "core cycles",
    "latency_s": METRICS["latency_s"].unit,
    "speedup": "FROM's latency_s / this latency_s",
    "dram_read_bytes": METRICS["dram_read_bytes"].unit,
    "energy_j": METRICS["energy_j"].unit,
}
"""Unit of every number of a point."""
_WORDS = ("description", "source")
"""Text about a configuration; no machine changes with it."""


@dataclass(frozen=True)
class Difference:
    """A field in which two configurations differ.

    Attributes:
        key: dotted, as for ``--set``.
        before: its value in FROM.
        after: its value in TO.
    """

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class AblationPoint:
    """One machine between FROM and TO.

    Attributes:
        changed: fields that have TO's value; the others have FROM's.
        latency_cycles: core cycles, ``None`` where the hardware refuses the combination.
        latency_s: the same in seconds; the core clock may be one of the fields.
        speedup: FROM's ``latency_s`` over this one.
        dram_read_bytes: bytes read from DRAM.
        energy_j: joules.
        refused: why the hardware refuses, or ``None``.
    """

    changed: tuple[str, ...]
    latency_cycles: int | None = None
    latency_s: float | None = None
    speedup: float | None = None
    dram_read_bytes: int | None = None
    energy_j: float | None = None
    refused: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the point as plain JSON values."""
        return {
            "changed": list(self.changed),
            **{name: getattr(self, name) for name in UNITS},
            "refused": self.refused,
        }


@dataclass(frozen=True, repr=False)
class Ablation:
    """What an ablation found.

    Attributes:
        before: name of the configuration FROM.
        after: name of the configuration TO.
        fields: what differs, in the order of ``cumulative``.
        base: FROM as it is.
        alone: per field, FROM with that one field of TO.
        cumulative: per field, FROM with that field and all before it; the last one is TO.
        without: per field, TO with that one field of FROM.
        manifest: of FROM's run: versions, hashes of configurations and source, the command.
        note: on energies of two readings of SRAM and arithmetic; empty where there is one.
    """

    before: str
    after: str
    fields: tuple[Difference, ...]
    base: AblationPoint
    alone: tuple[AblationPoint, ...]
    cumulative: tuple[AblationPoint, ...]
    without: tuple[AblationPoint, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __repr__(self) -> str:
        """One line: what was compared, and how many fields differ."""
        return f"Ablation({self.before} -> {self.after}: {len(self.fields)} fields)"

    def to_dict(self) -> dict[str, Any]:
        """Return the ``accelsim.ablation/1`` document."""
        return {
            "schema": SCHEMA,
            "from": self.before,
            "to": self.after,
            "units": UNITS,
            "base": self.base.to_dict(),
            "fields": [
                {
                    "key": difference.key,
                    "from": difference.before,
                    "to": difference.after,
                    "alone": self.alone[i].to_dict(),
                    "cumulative": self.cumulative[i].to_dict(),
                    "without": self.without[i].to_dict(),
                }
                for i, difference in enumerate(self.fields)
            ],
            "notes": [self.note] if self.note else [],
            "manifest": self.manifest,
        }


def differences(before: configs.Config, after: configs.Config) -> list[Difference]:
    """Return the fields that differ, nested ones with dotted keys, in the order of the schema."""
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    return [
        Difference(key, old.get(key), new.get(key))
        for key in dict.fromkeys((*old, *new))
        if key not in _WORDS and old.get(key) != new.get(key)
    ]


@checked
def ablate(
    before: str,
    after: str,
    source: str | Path,
    policy: str | None = None,
    engine: str = "event",
    overrides: Mapping[str, Any] | None = None,
    order: Sequence[str] = (),
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Ablation:
    """Toggle every field that differs between two accelerators, on one source.

    Args:
        before: FROM, preset name or YAML file.
        after: TO, of the same kind.
        source: trace, workload or benchmark, as for :func:`accelsim.replay`.
        policy: preset name or YAML file; only for traces.
        engine: ``event`` or ``cycle``.
        overrides: dotted keys that hold for every point.
        order: fields that come first in the cumulative series; the others follow in the order of
            the schema.
        on_stage: told which point is being run.

    Raises:
        AccelsimError: bad input; or the hardware refuses FROM itself, so that there is nothing to
            compare with.
    """
    bench = _Bench(source, policy, engine, dict(overrides or {}), Library(), Session(), on_stage)
    first, last = bench.setup(before, ()), bench.setup(after, ())
    old, new = (setup.parts["accelerator"].config for setup in (first, last))
    if type(old) is not type(new):
        raise ConfigError(
            f"'{before}' and '{after}' are of different kinds "
            f"({_kind(old)} and {_kind(new)}); an ablation needs two configurations of one kind"
        )
    fields = _in_order(differences(old, new), order, before, after)
    base = bench.point(before, (), (), None)
    if base.refused is not None:
        raise AccelsimError(f"'{before}', which the others are compared with: {base.refused}")
    assert base.latency_s is not None
    forward = {d.key: d.after for d in fields}
    keys = tuple(forward)
    return Ablation(
        before,
        after,
        tuple(fields),
        base,
        tuple(bench.point(before, ((d.key, d.after),), (d.key,), base) for d in fields),
        tuple(
            bench.point(before, tuple(forward.items())[: i + 1], keys[: i + 1], base)
            for i in range(len(fields))
        ),
        tuple(
            bench.point(
                after, ((d.key, d.before),), tuple(key for key in keys if key != d.key), base
            )
            for d in fields
        ),
        manifest(first, bench.session.source_sha256(first.source)),
        across_readings(_reading(setup) for setup in (first, last)),
    )


@dataclass
class _Bench:
    """What all points of one ablation share."""

    source: str | Path
    policy: str | None
    engine: str
    overrides: dict[str, Any]
    library: Library
    session: Session
    on_stage: Callable[[str], None]

    def setup(self, accelerator: str, changes: Sequence[tuple[str, Any]]) -> Setup:
        """Resolve one machine; the changes come after the overrides."""
        changed = {f"accelerator.{key}": value for key, value in changes}
        overrides = self.overrides | changed
        return resolve(self.source, accelerator, self.policy, self.engine, overrides, self.library)

    def point(
        self,
        accelerator: str,
        changes: Sequence[tuple[str, Any]],
        changed: tuple[str, ...],
        base: AblationPoint | None,
    ) -> AblationPoint:
        """Run one machine, or say why the hardware refuses it."""
        self.on_stage(", ".join(changed) or accelerator)
        try:
            setup = self.setup(accelerator, changes)
            metrics = run(setup, self.session).metrics
        except (ConfigError, WorkloadError, SimulationError) as error:
            # The file is fine; it is the combination that is refused.
            file = configs.find(accelerator, "accelerators")
            return AblationPoint(changed, refused=str(error).removeprefix(f"{file}: "))
        seconds = float(metrics["latency_s"])
        reference = seconds if base is None or base.latency_s is None else base.latency_s
        return AblationPoint(
            changed,
            int(metrics["latency_cycles"]),
            seconds,
            reference / seconds,
            int(metrics["dram_read_bytes"]),
            float(metrics["energy_j"]),
        )


def _reading(setup: Setup) -> str:
    table = setup.parts["energy"].config
    assert isinstance(table, EnergyTable)
    return table.reading_name


def _in_order(
    fields: list[Difference], order: Sequence[str], before: str, after: str
) -> list[Difference]:
    known = [d.key for d in fields]
    for key in order:
        if key not in known:
            raise ConfigError(
                f"--order: '{key}' does not differ between '{before}' and '{after}'"
                f"{did_you_mean(key, known)} (they differ in: {', '.join(known) or 'nothing'})"
            )
    wanted = list(dict.fromkeys((*order, *known)))
    return sorted(fields, key=lambda difference: wanted.index(difference.key))


def _kind(config: configs.Config) -> str:
    return str(getattr(config, "kind", type(config).__name__))


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Put a nested mapping on one level with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
