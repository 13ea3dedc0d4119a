"""One simulated point of a figure: a benchmark or trace, what is pruned of it, and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from accelsim.errors import ConfigError
from accelsim.policies import Policy, StaticQuantization
from accelsim.workloads import Benchmark, read_benchmark, synthesize

VARIANTS = ("full", "dense", "tokens", "heads", "pruned-static", "all-heads", "all-values")
"""What of a benchmark's policy is on: all; nothing; tokens and values; also heads; also 10 bit; all
but the pruning of heads; all but the pruning of values."""
TRACES = ("minilm-128", "smollm2-64p-32d")
"""Shipped traces of real models."""


@dataclass(frozen=True)
class Job:
    """A point to simulate.

    Attributes:
        benchmark: name of a benchmark, or of one of :data:`TRACES`.
        variant: one of :data:`VARIANTS`; of a trace, the name of a policy, or "" for an accelerator
            that prunes by its own rule.
        every: of a generation, only each ``every``-th step.
        accelerator: preset.
        overrides: dotted key and value, as from ``--set``.
    """

    benchmark: str
    variant: str = "full"
    every: int = 1
    accelerator: str = "spatten-paper"
    overrides: tuple[tuple[str, str | float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a point gave.

    Attributes:
        seconds: latency.
        dram_bytes: read and written.
        operations: multiplies and adds of the matrix units, two a MAC.
        dense_operations: those of the unpruned attention.
        dense_fp32_bytes: queries, keys, values and outputs of it, once each in FP32.
        energy_j_by_part: joules.
        energy_j_by_entry: joules by counter.
        energy_range_j: 5 and 95 % quantile.
        area_mm2_by_module: silicon; empty for a trace.
        baselines: ``platform/reading`` to its row.
        fc_seconds: of the latency, fully connected layers.
        fc_operations: multiplies and adds of them.
        output_error: relative, open loop; only for a trace.
    """

    seconds: float
    dram_bytes: int
    operations: int
    dense_operations: int
    dense_fp32_bytes: int
    energy_j_by_part: dict[str, float]
    energy_j_by_entry: dict[str, float]
    energy_range_j: tuple[float, float]
    area_mm2_by_module: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    fc_seconds: float = 0.0
    fc_operations: int = 0
    output_error: float | None = None

    @property
    def access_energy_j(self) -> float:
        """Energy without DRAM background power, as SpAtten counts it (§V-A)."""
        return sum(self.energy_j_by_part.values()) - self.energy_j_by_part["dram_background"]


def variant_of(bench: Benchmark, variant: str) -> Benchmark:
    """Return ``bench`` with a part of its policy.

    Raises:
        ConfigError: no such variant.
    """
    policy = bench.policy
    if variant == "full":
        return bench
    changed: dict[str, object] = {"refetch_fraction": 0.0}
    if variant == "dense":
        changed |= {"policy": Policy(), "layer_keep": ()}
    elif variant == "tokens":
        changed["policy"] = Policy(tokens=policy.tokens, values=policy.values)
    elif variant == "heads":
        changed["policy"] = Policy(tokens=policy.tokens, values=policy.values, heads=policy.heads)
    elif variant == "pruned-static":
        static = StaticQuantization(kind="static", key_bits=10, value_bits=10)
        changed["policy"] = policy.model_copy(update={"quantization": static})
    elif variant == "all-heads":
        return bench.model_copy(update={"policy": policy.model_copy(update={"heads": None})})
    elif variant == "all-values":
        return bench.model_copy(update={"policy": policy.model_copy(update={"values": None})})
    else:
        raise ConfigError(f"unknown variant '{variant}' (known: {', '.join(VARIANTS)})")
    return bench.model_copy(update=changed)


def run(job: Job) -> Outcome:
    """Simulate one point."""
    return _run_trace(job) if job.benchmark in TRACES else _run_benchmark(job)


def _run_trace(job: Job) -> Outcome:
    from accelsim.exploration import replay

    result = replay(
        job.benchmark,
        job.accelerator,
        job.variant or None,
        overrides=dict(job.overrides),
        baselines=[],
    )
    metrics, accuracy = result.metrics, result.accuracy
    assert accuracy is not None
    dense = metrics["dense_equivalent_op_per_s"] * metrics["latency_s"]
    return Outcome(
        seconds=metrics["latency_s"],
        dram_bytes=int(metrics["dram_read_bytes"] + metrics["dram_write_bytes"]),
        operations=2 * int(metrics["macs"]),
        dense_operations=round(dense),
        dense_fp32_bytes=0,
        energy_j_by_part=result.energy_j_by_part,
        energy_j_by_entry={},
        energy_range_j=(metrics["energy_j_low"], metrics["energy_j_high"]),
        area_mm2_by_module={},
        output_error=accuracy["relative_output_error"],
    )


def _run_benchmark(job: Job) -> Outcome:
    from accelsim import configs
    from accelsim.baselines import AttentionShape, evaluate_baselines
    from accelsim.energy import EnergyTable, evaluate
    from accelsim.hardware import load_accelerator, simulate
    from accelsim.hardware.config import MemoryConfig

    bench = variant_of(read_benchmark(job.benchmark), job.variant)
    workload = synthesize(bench, job.benchmark, every=job.every)
    machine = load_accelerator(job.accelerator, dict(job.overrides))
    memory = configs.load(MemoryConfig, machine.memory, "memories")
    activity = simulate(workload, machine, memory)
    table = configs.load(EnergyTable, machine.energy, "energy")
    energy = evaluate(activity, table, machine, memory)
    shape = AttentionShape.from_workload(workload)
    counters = activity.counters
    fc = activity.modules.get("fully_connected")
    # Its other stalls are the time in which attention has the machine.
    fc_cycles = fc.busy_cycles + fc.stall_cycles.get("awaiting_weights", 0) if fc else 0
    return Outcome(
        seconds=activity.seconds,
        dram_bytes=sum(activity.dram_read_bytes.values()) + activity.dram_write_bytes,
        operations=2 * (counters.get("qk_macs", 0) + counters.get("pv_macs", 0)),
        dense_operations=shape.flops,
        dense_fp32_bytes=shape.bytes_moved(4),
        energy_j_by_part=energy.energy_j_by_part,
        energy_j_by_entry=energy.energy_j_by_entry,
        energy_range_j=(energy.low_j, energy.high_j),
        area_mm2_by_module=energy.area_mm2_by_module,
        baselines=evaluate_baselines(shape, list(bench.published)),
        fc_seconds=fc_cycles / machine.frequency_hz,
        fc_operations=2 * counters.get("fc_macs", 0),
    )


def _is_large(job: Job) -> bool:
    return "medium" in job.benchmark or "large" in job.benchmark


def run_all(jobs: Iterable[Job], workers: int, on_done: Callable[[], None]) -> dict[Job, Outcome]:
    """Simulate every distinct point, in ``workers`` processes; calls ``on_done`` after each."""
    from concurrent.futures import ProcessPoolExecutor, as_completed

    unique = list(dict.fromkeys(jobs))
    # The longest first, so that no process is left with one at the end.
    unique.sort(key=lambda job: (job.every, job.benchmark not in TRACES, not _is_large(job)))
    outcomes: dict[Job, Outcome] = {}
    if workers <= 1 or len(unique) == 1:
        for job in unique:
            outcomes[job] = run(job)
            on_done()
        return outcomes
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(run, job): job for job in unique}
        for future in as_completed(futures):
            outcomes[futures[future]] = future.result()
            on_done()
    return outcomes
