"""One point: a source, under a policy, on an accelerator, becomes a RunResult."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim import configs
from accelsim.errors import AccelsimError, ConfigError, did_you_mean
from accelsim.exploration._manifest import manifest
from accelsim.exploration._result import RunResult
from accelsim.workloads import (
    Workload,
    benchmark_path,
    load_benchmark,
    read_csv,
    read_parquet,
)

if TYPE_CHECKING:
    from accelsim.baselines import AttentionShape
    from accelsim.energy import EnergyReport
    from accelsim.hardware.activity import Activity
    from accelsim.traces import AttentionTrace

DEFAULT_ACCELERATOR = "spatten-paper"
DEFAULT_POLICY = "dense"
_SECTIONS = ("accelerator", "memory", "energy", "policy")
_TRACE_SUFFIXES = (".safetensors", ".safetensors.index.json")


def replay(
    source: str | Path,
    accelerator: str = DEFAULT_ACCELERATOR,
    policy: str | None = None,
    engine: str = "event",
    overrides: Mapping[str, Any] | None = None,
    baselines: Sequence[str] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> RunResult:
    """Run one source through one accelerator.

    Args:
        source: an attention trace (``.safetensors``) or a workload (``.csv``, ``.parquet``)
            or the name of a benchmark.
        accelerator: preset name or YAML file.
        policy: preset name or YAML file; only for traces (a workload holds decisions already).
            Dense if not given.
        engine: ``event`` or ``cycle``.
        overrides: dotted keys; the first word may be ``accelerator``, ``memory``, ``energy`` or
            ``policy``, and is ``accelerator`` if it is none of these.
        baselines: names of baseline presets; all if ``None``. ``measured`` times this machine.
        on_stage: told what is being done.

    Raises:
        AccelsimError: bad input, explained.
    """
    from accelsim.energy import EnergyTable, evaluate
    from accelsim.hardware import accelerator_of, load_accelerator, simulate
    from accelsim.hardware.config import MemoryConfig

    path = _existing(source)
    split = _split_overrides(overrides or {})
    machine = load_accelerator(accelerator, split["accelerator"])
    memory = configs.load(MemoryConfig, machine.memory, "memories", split["memory"])
    table = configs.load(EnergyTable, machine.energy, "energy", split["energy"])
    used: dict[str, configs.Config] = {"accelerator": machine, "memory": memory, "energy": table}

    on_stage("reading")
    accuracy, per_layer = None, []
    if path.name.endswith(_TRACE_SUFFIXES):
        from accelsim.functional import run_policy
        from accelsim.policies import Policy
        from accelsim.traces import load_trace

        decide = accelerator_of(machine.kind).decide
        if decide is not None and (split["policy"] or policy not in (None, DEFAULT_POLICY)):
            raise ConfigError(
                f"accelerator '{accelerator}' ({machine.kind}) prunes by its own rule; --policy "
                f"and policy.* are for accelerators without one"
            )
        trace = load_trace(path)
        on_stage("policy")
        if decide is not None:
            run = decide(trace, machine)
        else:
            chosen = configs.load(Policy, policy or DEFAULT_POLICY, "policies", split["policy"])
            used["policy"] = chosen
            run = run_policy(trace, chosen)
        workload, accuracy, per_layer = run.workload, run.accuracy, run.per_layer
        shape = _shape(trace)
    else:
        if policy is not None or split["policy"]:
            raise ConfigError(
                f"{path}: a workload already holds a policy's decisions; --policy is for traces"
            )
        workload = _read_workload(path)
        shape = _shape(workload)

    on_stage("simulation")
    activity = simulate(workload, machine, memory, engine=engine)
    on_stage("energy")
    energy = evaluate(activity, table, machine, memory)
    metrics = _metrics(workload, activity, shape)
    metrics["energy_j"] = energy.total_j
    metrics["energy_j_low"], metrics["energy_j_high"] = energy.low_j, energy.high_j
    if energy.area_mm2 is not None:
        metrics["area_mm2"] = energy.area_mm2
        metrics["area_mm2_low"], metrics["area_mm2_high"] = (
            energy.area_low_mm2,
            energy.area_high_mm2,
        )
    metrics["average_power_w"] = energy.total_j / activity.seconds
    return RunResult(
        metrics=metrics,
        dram_read_bytes_by_tensor=activity.dram_read_bytes,
        energy_j_by_part=energy.energy_j_by_part,
        accuracy=accuracy,
        modules={
            name: {"busy_cycles": m.busy_cycles, "stall_cycles": m.stall_cycles}
            for name, m in activity.modules.items()
        },
        baselines=_against(shape, baselines, activity.seconds, energy),
        manifest=manifest(path, used, engine),
        per_layer=per_layer,
        activity=activity,
        warnings=list(energy.warnings),
    )


def _read_workload(path: Path) -> Workload:
    if path.suffix == ".yaml":
        return load_benchmark(path.stem)
    return read_parquet(path) if path.suffix == ".parquet" else read_csv(path)


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if isinstance(source, str) and not path.suffix and not path.exists():
        return benchmark_path(source)
    if not path.exists():
        raise AccelsimError(f"{path}: no such file{_nearest_file(path)}")
    if path.is_dir():
        raise AccelsimError(f"{path}: is a folder; expected a .safetensors, .csv or .parquet file")
    if not path.name.endswith((*_TRACE_SUFFIXES, ".csv", ".parquet")):
        raise AccelsimError(f"{path}: expected a .safetensors, .csv or .parquet file")
    return path


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, [p.name for p in path.parent.iterdir()])


def _split_overrides(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    split: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for key, value in overrides.items():
        section, _, rest = key.partition(".")
        if section in _SECTIONS and rest:
            split[section][rest] = value
        else:
            split["accelerator"][key] = value
    return split


def _shape(source: AttentionTrace | Workload) -> AttentionShape:
    from accelsim.baselines import AttentionShape

    if isinstance(source, Workload):
        return AttentionShape.from_workload(source)
    return AttentionShape.from_trace(source)


def _metrics(
    workload: Workload, activity: Activity, shape: AttentionShape
) -> dict[str, float | int]:
    reads = sum(activity.dram_read_bytes.values())
    counters = activity.counters
    rows = [counters.get(name, 0) for name in ("row_hits", "row_misses", "row_conflicts")]
    metrics: dict[str, float | int] = {
        "latency_cycles": activity.cycles,
        "latency_s": activity.seconds,
        "dram_read_bytes": reads,
        "dram_write_bytes": activity.dram_write_bytes,
        "dram_read_bytes_per_s": reads / activity.seconds,
        "requests": workload.rows,
        "macs": counters.get("qk_macs", 0) + counters.get("pv_macs", 0),
        "dense_equivalent_op_per_s": shape.flops / activity.seconds,
    }
    if sum(rows):
        metrics["row_hit_rate"] = rows[0] / sum(rows)
    if not workload.extra:
        metrics["policy_read_bytes"] = sum(workload.policy_bytes().values())
    return metrics


def _against(
    shape: AttentionShape, names: Sequence[str] | None, seconds: float, energy: EnergyReport
) -> dict[str, dict[str, Any]]:
    """Ratios over the baselines; both sides with their DRAM, both without or both with idle power.

    ``energy_ratio`` is the dynamic power of a platform against a run without DRAM background;
    ``energy_ratio_with_idle`` is all power against all energy.
    """
    from accelsim.baselines import evaluate_baselines

    dynamic = energy.total_j - energy.energy_j_by_part["dram_background"]
    rows = {}
    for name, row in evaluate_baselines(shape, names).items():
        known = row["energy_j"] is not None
        rows[name] = {
            **row,
            "speedup": row["latency_s"] / seconds,
            "energy_ratio": row["energy_j"] / dynamic if known else None,
            "energy_ratio_with_idle": row["energy_with_idle_j"] / energy.total_j if known else None,
        }
    return rows
