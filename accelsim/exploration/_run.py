"""One point: a source, under a policy, on an accelerator, becomes a RunResult."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelsim.configs import shown
from accelsim.errors import AccelsimError
from accelsim.exploration._arguments import checked
from accelsim.exploration._manifest import manifest
from accelsim.exploration._resolve import AUTO, DEFAULT_ACCELERATOR, OFF, Library, Setup, resolve
from accelsim.exploration._result import Comparison, RunResult
from accelsim.exploration._sources import Session
from accelsim.exploration.metrics import Run, measure
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.hardware.sampling import (
    DEFAULT_FRACTION,
    LEVEL,
    SMALLEST,
    Sampled,
    sample,
    size_of,
)
from accelsim.workloads import Workload
from accelsim.workloads.shapes import is_shape, read_shape

if TYPE_CHECKING:
    from accelsim.baselines import AttentionShape
    from accelsim.energy import EnergyReport
    from accelsim.hardware.activity import Activity, ModuleActivity
    from accelsim.hardware.timeline import Recorder
    from accelsim.traces import AttentionTrace


@checked
def replay(
    source: str | Path | Workload | AttentionTrace,
    accelerator: str | AcceleratorConfig = DEFAULT_ACCELERATOR,
    policy: str | None = None,
    engine: str = "event",
    overrides: Mapping[str, Any] | None = None,
    baselines: Sequence[str] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    record_dram: bool = False,
    timeline: tuple[int | None, int | None] | None = None,
    dependencies: str | None = None,
    streamed: bool = False,
    context: int | None = None,
    decode: int | None = None,
    batch: int | None = None,
    like: str | None = None,
    seed: int | None = None,
    sample: str | float = AUTO,
    stages: bool = False,
) -> RunResult:
    """Run one source through one accelerator.

    Args:
        source: an attention trace (``.safetensors``, or one in memory), a workload (``.csv``,
            ``.parquet``, or one in memory), the name of a benchmark, or a shape, ``shape:MODEL``.
        accelerator: preset name, YAML file or configuration.
        policy: preset name or YAML file; only for traces (a workload holds decisions already).
            Dense if not given.
        engine: ``event`` or ``cycle``.
        overrides: dotted keys; the first word may be ``accelerator``, ``memory``, ``energy`` or
            ``policy``, and is ``accelerator`` if it is none of these.
        baselines: names of baseline presets; all but guessed ones if ``None``. ``measured`` times
            this machine.
        on_stage: told what is being done.
        record_dram: also return the requests that each DRAM channel accepted, as files for
            Ramulator 2 (:attr:`RunResult.ramulator_files`); simulates twice.
        timeline: record what modules and DRAM channels do between these cycles (``None`` in
            either place: from the beginning, to the end); costs time and memory.
        dependencies: ``causal``, a layer waits for the layer before and a token for the token
            before, or ``streamed``; causal for traces, benchmarks and shapes, streamed for the rows
            of a CSV file and for machines that know no other order, if not given.
        streamed: run it streamed too, for ``metrics["streamed_cycles"]``.
        context, decode, batch, like, seed: keys of a shape
            (:class:`accelsim.workloads.shapes.ShapeSource`).
        sample: fraction of the rows that a sampled simulation runs, ``off``, or ``auto``: where
            running all takes minutes. The manifest says which, with the intervals.
        stages: also tell energy and power of prompt and decoding apart
            (``result.energy["stages"]``); simulates the prompt alone beside the whole run.

    Raises:
        AccelsimError: bad input, explained.
    """
    from accelsim.hardware.timeline import Recorder

    if record_dram and timeline is not None:
        raise AccelsimError("ask for the timeline and for the Ramulator files in two runs")
    recorder = None if timeline is None else Recorder(timeline)
    source = _with_keys(source, context=context, decode=decode, batch=batch, like=like, seed=seed)
    runner = Runner()
    with _as_file(source) as file:
        setup = runner.setup(file, accelerator, policy, engine, overrides, dependencies, sample)
        result = run(
            setup, runner.session, baselines, on_stage, record_dram, recorder, streamed, stages
        )
    return _named(result, source)


@checked
def compare(
    source: str | Path | AttentionTrace,
    policies: Sequence[str],
    accelerator: str | AcceleratorConfig = DEFAULT_ACCELERATOR,
    engine: str = "event",
    overrides: Mapping[str, Any] | None = None,
    baselines: Sequence[str] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    dependencies: str | None = None,
    context: int | None = None,
    decode: int | None = None,
    batch: int | None = None,
    like: str | None = None,
    seed: int | None = None,
    sample: str | float = AUTO,
) -> Comparison:
    """Run one trace or shape under several policies; see :func:`replay` for the other arguments.

    Args:
        source: an attention trace, its file, or ``shape:MODEL``.
        policies: preset names or YAML files; the first is what the others are compared with.
    """
    source = _with_keys(source, context=context, decode=decode, batch=batch, like=like, seed=seed)
    runner, results = Runner(), Comparison()
    with _as_file(source) as path:
        for policy in dict.fromkeys(policies):
            on_stage(policy)
            setup = runner.setup(path, accelerator, policy, engine, overrides, dependencies, sample)
            results[policy] = _named(run(setup, runner.session, baselines, on_stage), source)
    return results


def _with_keys(source: str | Path | Workload | AttentionTrace, **keys: int | str | None) -> Any:
    """Add the keys of a shape to the text that names it.

    Raises:
        AccelsimError: keys beside a source that is no shape.
    """
    given = {name: value for name, value in keys.items() if value is not None}
    if is_shape(source):
        return str(read_shape(str(source), given))
    if given:
        raise AccelsimError(
            f"{', '.join(given)}: for shapes only; expected a source as shape:llama-3-8b, got "
            f"{shown(str(source))}"
        )
    return source


class Runner:
    """Many runs in one process: reads each configuration, source and policy's decisions once.

    Attributes:
        library: configurations that were read.
        session: sources and decisions that were read or made.
    """

    def __init__(self) -> None:
        self.library, self.session = Library(), Session()

    def setup(
        self,
        source: str | Path | Workload,
        accelerator: str | AcceleratorConfig = DEFAULT_ACCELERATOR,
        policy: str | None = None,
        engine: str = "event",
        overrides: Mapping[str, Any] | None = None,
        dependencies: str | None = None,
        sample: str | float = AUTO,
    ) -> Setup:
        """Find and validate everything of a run, without running it; as for :func:`replay`.

        Raises:
            AccelsimError: bad input, explained.
        """
        return resolve(
            source, accelerator, policy, engine, overrides or {}, self.library, dependencies, sample
        )

    def replay(
        self, workload: Workload, accelerator: str | AcceleratorConfig, engine: str
    ) -> RunResult:
        """Run one workload, without baselines; see :func:`replay`."""
        return run(self.setup(workload, accelerator, engine=engine), self.session)


@contextmanager
def _as_file(
    source: str | Path | Workload | AttentionTrace,
) -> Iterator[str | Path | Workload]:
    """Give a trace in memory a file for as long as it runs: the format checks its numbers."""
    if isinstance(source, (str, Path, Workload)):
        yield source
        return
    from accelsim.traces import AttentionTrace, save_trace

    if not isinstance(source, AttentionTrace):
        raise AccelsimError(
            f"source: expected a file, the name of a benchmark, an AttentionTrace or a Workload; "
            f"got {type(source).__name__}"
        )
    with tempfile.TemporaryDirectory(prefix="accelsim-") as folder:
        path = Path(folder, "trace.safetensors")
        save_trace(source, path, np.float32)
        yield path


def _named(result: RunResult, source: str | Path | Workload | AttentionTrace) -> RunResult:
    """Say the trace's own name in place of that of its passing file."""
    if isinstance(source, (str, Path, Workload)):
        return result
    return replace(result, manifest=result.manifest | {"source": source.path})


def run(
    setup: Setup,
    session: Session,
    baselines: Sequence[str] | None = (),
    on_stage: Callable[[str], None] = lambda stage: None,
    record_dram: bool = False,
    recorder: Recorder | None = None,
    streamed: bool = False,
    stages: bool = False,
) -> RunResult:
    """Run what :func:`resolve` prepared.

    Raises:
        AccelsimError: bad input, explained.
    """
    from accelsim.energy import EnergyTable, evaluate
    from accelsim.hardware import in_series, simulate
    from accelsim.hardware.memories.ramulator import check_exportable

    machine, memory = setup.parts["accelerator"].config, setup.parts["memory"].config
    table = setup.parts["energy"].config
    assert isinstance(machine, AcceleratorConfig)
    assert isinstance(memory, MemoryConfig)
    assert isinstance(table, EnergyTable)
    if record_dram:
        check_exportable(memory)
    prepared = session.prepare(setup, on_stage)
    shape = prepared.shape
    on_stage("simulation")
    simulation = partial(
        simulate,
        accelerator=machine,
        memory=memory,
        engine=setup.engine,
        recorder=recorder,
        dependencies=setup.dependencies,
    )
    workload = prepared.workload
    files: dict[str, str] = {}
    fraction = _fraction(setup.sample, workload, record_dram or recorder is not None)
    between = partial(in_series, accelerator=machine, memory=memory)
    part = partial(_sample, simulation, between, fraction)
    sampled = part(workload)
    if sampled is not None:
        activity = sampled.activity
    elif record_dram:
        activity, files = _recorded(partial(simulation, workload), machine, memory)
    else:
        activity = simulation(workload)
    on_stage("energy")
    energy = evaluate(activity, table, machine, memory)
    streamed_cycles = None
    if streamed:
        on_stage("streamed")
        streamed_cycles = activity.cycles
        if activity.dependencies != "streamed":
            freely = partial(simulation, dependencies="streamed")
            estimate = _sample(freely, between, fraction, workload)
            streamed_cycles = (estimate.activity if estimate else freely(workload)).cycles
    priced = partial(evaluate, table=table, machine=machine, memory=memory)
    by_stage = None
    if stages:
        on_stage("prompt")
        by_stage = _by_stage(workload, activity, simulation, part, priced)
    said, warnings = None, list(prepared.warnings)
    if sampled is not None:
        said = _said(sampled, priced)
        warnings.insert(
            0,
            f"sampled: {sampled.rows_simulated:,} of {sampled.rows:,} rows were simulated; "
            "intervals stand in the manifest ('--sample off' runs all)",
        )
    return RunResult(
        metrics=measure(Run(prepared.workload, activity, shape, energy, streamed_cycles)),
        dram_read_bytes_by_tensor=activity.dram_read_bytes,
        energy_j_by_part=energy.energy_j_by_part,
        energy_j_by_entry=energy.energy_j_by_entry,
        area_mm2_by_module=energy.area_mm2_by_module,
        energy=energy.to_dict() | {"stages": by_stage},
        accuracy=prepared.accuracy,
        modules={name: _module(module) for name, module in activity.modules.items()},
        queues={
            name: {"depth": q.depth, "high_water": q.high_water, "unit": q.unit}
            for name, q in activity.queues.items()
        },
        baselines=_against(shape, baselines, activity.seconds, energy),
        manifest=manifest(
            setup,
            session.source_sha256(setup.source),
            activity.dependencies,
            activity.not_served,
        )
        | prepared.manifest
        | {"sampled": said},
        per_layer=prepared.per_layer,
        activity=activity,
        warnings=[*warnings, *energy.warnings],
        policy_read_bytes_by_head=prepared.read_bytes_by_head,
        ramulator_files=files,
        timeline=None if recorder is None else recorder.timeline,
    )


def _fraction(asked: str, workload: Workload, whole: bool) -> float | None:
    """Part of the rows to simulate; ``None`` for all.

    Args:
        asked: as of :class:`Setup`.
        workload: rows.
        whole: something is recorded, of all rows.

    Raises:
        AccelsimError: a sample is asked for, of a run that is recorded.
    """
    if asked == OFF or (asked == AUTO and (whole or size_of(workload) < SMALLEST)):
        return None
    if whole:
        raise AccelsimError(
            f"sample: {float(asked):.3g} of the rows leaves nothing whole to record; expected off"
        )
    return DEFAULT_FRACTION if asked == AUTO else float(asked)


def _sample(
    simulation: Callable[..., Activity],
    between: Callable[[Workload], Activity | None],
    fraction: float | None,
    workload: Workload,
) -> Sampled | None:
    """Run a sample of a workload, where one was asked for and is fewer than all rows."""
    if fraction is None:
        return None
    attention = partial(simulation, attention_only=True)
    return sample(workload, attention, fraction, whole=between(workload))


def _by_stage(
    workload: Workload,
    whole: Activity,
    simulation: Callable[[Workload], Activity],
    sampled: Callable[[Workload], Sampled | None],
    priced: Callable[[Activity], EnergyReport],
) -> dict[str, dict[str, Any]]:
    """Energy and power of prompt and decoding, of those that the run has.

    In a causal run decoding begins after the last output of the prompt, so that the prompt alone
    does what it does in the whole run, and decoding the rest.

    Args:
        workload, whole: what ran, and its activity.
        simulation: of a workload.
        sampled: the same of some of its rows, where that is asked for.
        priced: energy of an activity.

    Raises:
        AccelsimError: the run was streamed.
    """
    prompt, steps = workload.stages()
    if not steps or not prompt.any():
        return {"decode" if steps else "prefill": priced(whole).stage()}
    if whole.dependencies != "causal":
        raise AccelsimError(
            "stages: prompt and decoding overlap in a streamed run; expected dependencies 'causal'"
        )
    alone = workload.part(np.flatnonzero(prompt))
    estimate = sampled(alone)
    first = simulation(alone) if estimate is None else estimate.activity
    return {
        "prefill": priced(first).stage(),
        "decode": priced(whole.after(first)).stage(),
    }


def _said(sampled: Sampled, priced: Callable[[Activity], EnergyReport]) -> dict[str, Any]:
    """What a manifest says of a sampled simulation."""
    totals: dict[str, Callable[[Activity], float]] = {
        "latency_cycles": lambda a: a.cycles,
        "latency_s": lambda a: a.seconds,
        "prefill_latency_cycles": lambda a: a.prefill_cycles,
        "decode_latency_cycles": lambda a: a.cycles - a.prefill_cycles,
        "dram_read_bytes": lambda a: sum(a.dram_read_bytes.values()),
        "dram_write_bytes": lambda a: a.dram_write_bytes,
        "energy_j": lambda a: priced(a).total_j,
    }
    ends = {name: sampled.interval(of) for name, of in totals.items()}
    return {
        "rows": sampled.rows,
        "rows_simulated": sampled.rows_simulated,
        "level": LEVEL,
        "intervals": {name: {"low": low, "high": high} for name, (low, high) in ends.items()},
    }


def _recorded(
    simulation: Callable[[], Activity], machine: AcceleratorConfig, memory: MemoryConfig
) -> tuple[Activity, dict[str, str]]:
    """Run a simulation and write down what its DRAM channels were asked for."""
    from accelsim.hardware.memories import record_requests
    from accelsim.hardware.memories.ramulator import ramulator_files

    activity, requests = record_requests(simulation)
    return activity, ramulator_files(memory, machine.frequency_hz, requests)


def _module(module: ModuleActivity) -> dict[str, Any]:
    """Time of a block, and its work where it counts any."""
    found: dict[str, Any] = {
        "busy_cycles": module.busy_cycles,
        "stall_cycles": module.stall_cycles,
    }
    if module.operations is not None:
        found["operations"] = module.operations
        found["peak_operations_per_cycle"] = module.peak_operations_per_cycle
    return found


def _against(
    shape: AttentionShape, names: Sequence[str] | None, seconds: float, energy: EnergyReport
) -> dict[str, dict[str, Any]]:
    """Ratios over the baselines; both sides with their DRAM, both without or both with idle power.

    ``energy_ratio`` is the dynamic power of a platform against the accesses of a run;
    ``energy_ratio_with_idle`` is all power against all energy. ``_low`` and ``_high`` are the 5 and
    95 % ends of a measured kernel, ``None`` where no interval is known.
    """
    from accelsim.baselines import evaluate_baselines

    dynamic = energy.accesses_j
    rows = {}
    for name, row in evaluate_baselines(shape, names).items():
        known = row["energy_j"] is not None
        ends = {
            f"{ratio}_{end}": None
            if f"{of}_{end}{unit}" not in row or not by
            else row[f"{of}_{end}{unit}"] / by
            for ratio, of, unit, by in (
                ("speedup", "latency", "_s", seconds),
                ("energy_ratio", "energy", "_j", dynamic),
            )
            for end in ("low", "high")
        }
        rows[name] = {
            **row,
            "speedup": row["latency_s"] / seconds,
            "energy_ratio": row["energy_j"] / dynamic if known and dynamic else None,
            "energy_ratio_with_idle": row["energy_with_idle_j"] / energy.total_j if known else None,
            **ends,
        }
    return rows
