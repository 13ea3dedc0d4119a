"""Accelerators by kind: a kind is a module of ``machines`` that defines ``ACCELERATOR``.

``kind: spatten-e2e`` in a YAML file is ``accelsim/hardware/machines/spatten_e2e.py``, so a new
accelerator is one new file plus one YAML and nothing else has to know it. One of another package
has an entry point of the group :data:`ENTRY_POINTS`, or is made known to one process with
:func:`register_accelerator`.
"""

from __future__ import annotations

import functools
import gc
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic

from accelsim import configs, plugins
from accelsim.errors import ConfigError, InvariantError, WorkloadError, did_you_mean
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.hardware.counters import DRAM, Counter, by_name

if TYPE_CHECKING:
    from accelsim.functional import PolicyRun
    from accelsim.hardware.activity import Activity
    from accelsim.hardware.simulation import Wire
    from accelsim.hardware.timeline import Recorder
    from accelsim.traces import AttentionTrace
    from accelsim.workloads import Workload

ENTRY_POINTS = "accelsim.accelerators"
"""Group of entry points: the name is the kind, the object an :class:`Accelerator`."""

ENGINES = ("event", "cycle")
"""Engines by name; ``event`` is the SimPy model, which every accelerator has; ``cycle`` is compiled
and follows the released hardware cycle by cycle."""


_ALLOCATIONS = 200_000
"""Objects after which a run looks for cyclic garbage; Python's default is 700."""

DEPENDENCIES = ("causal", "streamed")
"""``causal``: a layer waits for the layer before, a token for the token before; ``streamed``: rows
follow each other as fast as the machine takes them."""


@dataclass(frozen=True)
class Accelerator:
    """How accelsim reads, and runs, one kind of accelerator.

    Attributes:
        config: schema of its YAML files.
        simulate: (workload, config, memory, engine) to what the machine did; a machine of
            ``dependencies`` takes them as a fifth argument.
        decide: (trace, config) to decisions and their accuracy, for a machine that brings its own
            pruning rule; ``None`` where the user's policy decides.
        engines: engines that it runs on.
        dependencies: rules of order that it knows; a machine without knows ``streamed`` only.
        record: as ``simulate``, and tells a recorder what its modules do; ``None`` where there is
            no timeline.
        exact_reads: DRAM reads are what the decisions name, in whole bursts; checked on every
            result of a machine without ``decide``. Off where the hardware fetches by a grain of its
            own.
        wiring: (config, memory) to the arrows of its block diagram; ``None`` where none is known.
        serves: names of :data:`accelsim.workloads.SERVICES` whose time and work it charges. What a
            workload asks for beyond them stands in :attr:`Activity.not_served` and in the manifest
            of the result.
        in_series: (workload, config, memory) to what it does between the layers of attention, in
            series with what ``simulate`` tells and on the same memory; quick and exact, so that a
            sampled simulation runs it whole. ``None`` where attention is all.
        counters: what it counts beside the commands of its memory, by machine and block; energy
            tables are checked against them.
    """

    config: type[AcceleratorConfig]
    simulate: Callable[..., Activity]
    decide: Callable[[AttentionTrace, Any], PolicyRun] | None = None
    engines: tuple[str, ...] = ("event",)
    dependencies: tuple[str, ...] = ("streamed",)
    record: Callable[..., Activity] | None = None
    exact_reads: bool = True
    wiring: Callable[[Any, MemoryConfig], list[Wire]] | None = None
    serves: frozenset[str] = frozenset()
    in_series: Callable[..., Activity] | None = None
    counters: tuple[Counter, ...] = ()

    def __post_init__(self) -> None:
        from accelsim.workloads import SERVICES

        for name in sorted(self.serves - set(SERVICES)):
            raise ConfigError(
                f"accelerator of {self.config.__name__}: unknown service '{name}'"
                f"{did_you_mean(name, list(SERVICES))} (known: {', '.join(SERVICES)})"
            )
        _ = self.counters_by_name

    @property
    def declared(self) -> tuple[Counter, ...]:
        """All its counters, those of the memory first."""
        return DRAM + self.counters

    @cached_property
    def counters_by_name(self) -> dict[str, Counter]:
        """All its counters by name."""
        return by_name(self.declared)


_REGISTERED: dict[str, Accelerator] = {}
"""Accelerators from outside the package, by kind."""


def register_accelerator(kind: str, accelerator: Accelerator) -> None:
    """Make an accelerator known to this process under a kind; a later one replaces it.

    Raises:
        ConfigError: a kind of the package itself.
    """
    if kind.replace("-", "_") in _modules():
        raise ConfigError(f"accelerator kind '{kind}' is one of accelsim's; choose another name")
    _REGISTERED[kind] = accelerator


class _Kind(configs.Config):
    """The one key that says which schema the others follow."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    kind: str


def accelerator_kinds() -> list[str]:
    """Names that ``kind`` may have, sorted."""
    names = [name for name in _modules() if hasattr(_module(name), "ACCELERATOR")]
    own = {name.replace("_", "-") for name in names}
    return sorted(own | set(_REGISTERED) | set(plugins.offered(ENTRY_POINTS)))


def accelerator_of(kind: str, where: str = "accelerator") -> Accelerator:
    """Return the accelerator of a kind.

    Args:
        kind: as in YAML.
        where: the file that names it, for the error.

    Raises:
        ConfigError: no such kind, or a package whose entry point is not one.
    """
    name = kind.replace("-", "_")
    found = _REGISTERED.get(kind)
    if found is None and name in _modules():
        found = getattr(_module(name), "ACCELERATOR", None)
    elif found is None and kind in plugins.offered(ENTRY_POINTS):
        found = _loaded(plugins.offered(ENTRY_POINTS)[kind], where)
    if not isinstance(found, Accelerator):
        known = accelerator_kinds()
        raise ConfigError(
            f"{where}: key 'kind': unknown accelerator '{kind}'{did_you_mean(kind, known)} "
            f"(known: {', '.join(known)})"
        )
    return found


def load_accelerator(
    name_or_path: str, overrides: Mapping[str, Any] | None = None
) -> AcceleratorConfig:
    """Read an accelerator's YAML with the schema of its ``kind``.

    Args:
        name_or_path: preset name or path of a YAML file.
        overrides: dotted key to value, as from ``--set``.

    Raises:
        ConfigError: with file, key and expectation.
    """
    kind = configs.load(_Kind, name_or_path, "accelerators", overrides).kind
    where = str(configs.find(name_or_path, "accelerators"))
    model = accelerator_of(kind, where).config
    return configs.load(model, name_or_path, "accelerators", overrides)


def simulate(
    workload: Workload,
    accelerator: AcceleratorConfig,
    memory: MemoryConfig,
    engine: str = "event",
    recorder: Recorder | None = None,
    dependencies: str | None = None,
    attention_only: bool = False,
) -> Activity:
    """Run a workload on an accelerator, and check what must hold of every run.

    Args:
        workload: requests.
        accelerator: the machine.
        memory: of each of its channels.
        engine: ``event`` or ``cycle``.
        recorder: takes a timeline of the run, if given.
        dependencies: one of :data:`DEPENDENCIES`; the default of the workload and the machine if
            not given.
        attention_only: leave out what :func:`in_series` tells.

    Raises:
        ConfigError: no such engine, one that this accelerator does not run on, an accelerator
            without a timeline, or dependencies that it does not know.
        WorkloadError: rows that the machine refuses.
        InvariantError: a result that cannot be; names the module.
    """
    if engine not in ENGINES:
        raise ConfigError(
            f"unknown engine '{engine}'{did_you_mean(engine, ENGINES)} "
            f"(known: {', '.join(ENGINES)})"
        )
    machine = accelerator_of(accelerator.kind)
    if engine not in machine.engines:
        raise ConfigError(
            f"engine '{engine}' does not run '{accelerator.kind}' "
            f"(engines of it: {', '.join(machine.engines)})"
        )
    _check_vectors(accelerator, workload)
    dependencies = _dependencies(machine, accelerator.kind, workload, dependencies)
    order = (dependencies,) if len(machine.dependencies) > 1 else ()
    if recorder is not None and machine.record is None:
        known = [kind for kind in accelerator_kinds() if accelerator_of(kind).record is not None]
        raise ConfigError(
            f"accelerator kind '{accelerator.kind}' records no timeline (kinds that do: "
            f"{', '.join(known)})"
        )
    more = None if attention_only else in_series(workload, accelerator, memory)
    with _few_collections():
        if recorder is None or machine.record is None:
            activity = machine.simulate(workload, accelerator, memory, engine, *order)
        else:
            activity = machine.record(workload, accelerator, memory, engine, *order, recorder)
    if more is not None:
        activity = activity.in_series(more)
    activity.dependencies = dependencies
    activity.not_served = {
        name: amount for name, amount in workload.asks().items() if name not in machine.serves
    }
    _count_posted(activity, memory)
    _check(machine, activity, workload)
    return activity


def in_series(
    workload: Workload, accelerator: AcceleratorConfig, memory: MemoryConfig
) -> Activity | None:
    """What an accelerator does between the layers of attention; ``None`` where that is nothing.

    Raises:
        AccelsimError: the workload or the configuration does not tell.
    """
    between = accelerator_of(accelerator.kind).in_series
    return None if between is None else between(workload, accelerator, memory)


def _check_vectors(accelerator: AcceleratorConfig, workload: Workload) -> None:
    """Refuse vectors that the machine's datapath does not take (``supports`` of its YAML)."""
    can = accelerator.supports
    widths = {(workload.head_dim, workload.value_width, workload.latent)}
    if not workload.one_width:
        rows = np.unique(workload["layer"]).tolist()
        widths = {workload.layers[layer].widths for layer in rows}
    what = "" if workload.one_width or "layer_widths" in can else "layers of different widths"
    for key, value, latent in sorted(widths):
        if latent and "latent" not in can:
            what = what or f"values that lie in keys of {key} elements (a latent)"
        elif not latent and value != key and not (value < key and "value_dim" in can):
            what = what or f"values of {value} elements beside keys of {key}"
    if what:
        told = ", ".join(can) or "neither value_dim, layer_widths nor latent"
        raise WorkloadError(
            f"workload '{workload.name}' has {what}, which an accelerator of kind "
            f"'{accelerator.kind}' does not take (supports: {told})"
        )


def _count_posted(activity: Activity, memory: MemoryConfig) -> None:
    """Activations of bytes that no engine sends through the banks: writes, and spilled reads.

    They lie side by side, so each row is opened once (assumption; the least there can be).
    """
    posted = activity.dram_write_bytes + activity.dram_read_bytes.get("spill", 0)
    if memory.kind == "banked":
        activity.count("dram_posted_activations", -(-posted // memory.row_bytes))


@contextmanager
def _few_collections() -> Iterator[None]:
    """Look for cyclic garbage less often: a run makes little, and the looks took 12 % of it."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], _ALLOCATIONS), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _check(machine: Accelerator, activity: Activity, workload: Workload) -> None:
    from accelsim.hardware.invariants import check, check_bytes

    check(activity, workload)
    for name in sorted(set(activity.counters) - set(by_name(machine.declared))):
        raise InvariantError(
            f"workload '{workload.name}': counter '{name}' is not declared"
            f"{did_you_mean(name, [c.name for c in machine.declared])}; see Accelerator.counters"
        )
    if machine.exact_reads and machine.decide is None:
        check_bytes(activity, workload)


def _dependencies(
    machine: Accelerator, kind: str, workload: Workload, dependencies: str | None
) -> str:
    """The order of a run: as asked for, else what the workload is and the machine knows."""
    known = machine.dependencies
    if dependencies is None:
        dependencies = workload.dependencies if workload.dependencies in known else known[0]
    if dependencies not in DEPENDENCIES:
        raise ConfigError(
            f"unknown dependencies '{dependencies}'{did_you_mean(dependencies, DEPENDENCIES)} "
            f"(known: {', '.join(DEPENDENCIES)})"
        )
    if dependencies not in known:
        raise ConfigError(
            f"accelerator kind '{kind}' runs {', '.join(known)} only; dependencies "
            f"'{dependencies}' need one that knows layers and tokens"
        )
    return dependencies


@functools.cache
def _modules() -> list[str]:
    package = importlib.import_module("accelsim.hardware.machines")
    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


def _loaded(entry: EntryPoint, where: str) -> Accelerator:
    try:
        found = plugins.load(entry)
    except ValueError as error:
        raise ConfigError(f"{where}: key 'kind': {error}") from error
    if not isinstance(found, Accelerator):
        raise ConfigError(
            f"{where}: key 'kind': {plugins.told(entry)}: {entry.value} is of type "
            f"{type(found).__name__}; expected an Accelerator"
        )
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"accelsim.hardware.machines.{name}")
