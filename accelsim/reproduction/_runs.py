"""One simulated point of a figure: a benchmark or trace, what is pruned of it, and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from accelsim.baselines import AttentionShape
from accelsim.errors import ConfigError
from accelsim.exploration import Request, replay_many
from accelsim.policies import Policy, StaticQuantization
from accelsim.workloads import Benchmark, Workload, read_benchmark, synthesize

VARIANTS = (
    "full",
    "dense",
    "dense-fp32",
    "tokens",
    "tokens-fp32",
    "heads",
    "heads-fp32",
    "pruned-static",
    "pruned-static-6",
    "all-heads",
    "all-values",
)
"""What of a benchmark's policy is on: all; nothing; tokens and values; also heads; also 10 bit, or
6; all but the pruning of heads; all but the pruning of values. With ``-fp32`` keys and values come
from DRAM in 32 bits, else in 12 where nothing is quantized."""
TRACES = ("minilm-128", "smollm2-64p-32d")
"""Shipped traces of real models."""
_FP32 = 32
_FP32_CONVERTER = ("stored_bits", (4, 6, 8, 10, 12, _FP32))
"""A converter that also takes single precision, where the ladder of SpAtten Fig. 20 starts."""


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
        dependencies: ``causal`` or ``streamed``; the machine's default if ``None``.
        input_tokens: length of the input; the benchmark's if 0.
    """

    benchmark: str
    variant: str = "full"
    every: int = 1
    accelerator: str = "spatten-paper"
    overrides: tuple[tuple[str, Any], ...] = ()
    dependencies: str | None = None
    input_tokens: int = 0


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
        area_mm2_by_module: silicon.
        baselines: ``platform/reading`` to its row.
        fc_seconds: of the latency, fully connected layers.
        fc_operations: multiplies and adds of them.
        output_error: relative, open loop; only for a trace.
        every: steps of the generation that one simulated step stands for.
    """

    seconds: float
    dram_bytes: int
    operations: int
    dense_operations: int
    dense_fp32_bytes: int
    energy_j_by_part: dict[str, float]
    energy_j_by_entry: dict[str, float]
    area_mm2_by_module: dict[str, float]
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    fc_seconds: float = 0.0
    fc_operations: int = 0
    output_error: float | None = None
    every: int = 1

    @property
    def access_energy_j(self) -> float:
        """Energy without DRAM background power, as SpAtten counts it (§V-A)."""
        return sum(self.energy_j_by_part.values()) - self.energy_j_by_part["dram_background"]

    @classmethod
    def of(cls, row: dict[str, Any], every: int, dense_fp32_bytes: int) -> Outcome:
        """Read the row of a run."""

        def section(name: str) -> dict[str, Any]:
            start = f"{name}."
            return {key.removeprefix(start): row[key] for key in row if key.startswith(start)}

        baselines: dict[str, dict[str, Any]] = {}
        for key, value in section("baselines").items():
            platform, _, column = key.rpartition(".")
            baselines.setdefault(platform, {})[column] = value
        fc = section("modules.fully_connected")
        # Its other stalls are the time in which attention has the machine.
        fc_cycles = fc.get("busy_cycles", 0) + fc.get("stall_cycles.awaiting_weights", 0)
        seconds = row["latency_s"]
        return cls(
            seconds=seconds,
            dram_bytes=row["dram_read_bytes"] + row["dram_write_bytes"],
            operations=2 * row["macs"],
            dense_operations=round(row["dense_equivalent_op_per_s"] * seconds),
            dense_fp32_bytes=dense_fp32_bytes,
            energy_j_by_part=section("energy_j_by_part"),
            energy_j_by_entry=section("energy_j_by_entry"),
            area_mm2_by_module=section("area_mm2_by_module"),
            baselines=baselines,
            fc_seconds=fc_cycles * seconds / row["latency_cycles"],
            fc_operations=2 * row.get("fc_macs", 0),
            output_error=row.get("accuracy.relative_output_error"),
            every=every,
        )


def variant_of(bench: Benchmark, variant: str) -> Benchmark:
    """Return ``bench`` with a part of its policy.

    Raises:
        ConfigError: no such variant.
    """
    policy = bench.policy
    variant = variant.removesuffix("-fp32")
    if variant == "full":
        return bench
    changed: dict[str, object] = {"refetch_fraction": 0.0}
    if variant == "dense":
        changed |= {"policy": Policy(), "layer_keep": ()}
    elif variant == "tokens":
        changed["policy"] = Policy(tokens=policy.tokens, values=policy.values)
    elif variant == "heads":
        changed["policy"] = Policy(tokens=policy.tokens, values=policy.values, heads=policy.heads)
    elif variant.startswith("pruned-static"):
        bits: Any = 6 if variant.endswith("-6") else 10
        static = StaticQuantization(kind="static", key_bits=bits, value_bits=bits)
        changed["policy"] = policy.model_copy(update={"quantization": static})
    elif variant == "all-heads":
        return bench.model_copy(update={"policy": policy.model_copy(update={"heads": None})})
    elif variant == "all-values":
        return bench.model_copy(update={"policy": policy.model_copy(update={"values": None})})
    else:
        raise ConfigError(f"unknown variant '{variant}' (known: {', '.join(VARIANTS)})")
    return bench.model_copy(update=changed)


def workload_of(job: Job) -> Workload:
    """Return what a job's machine is asked to do."""
    bench = variant_of(read_benchmark(job.benchmark), job.variant)
    if job.input_tokens:
        bench = bench.model_copy(update={"input_tokens": job.input_tokens})
    workload = synthesize(bench, job.benchmark, every=job.every)
    if not job.variant.endswith("-fp32"):
        return workload
    bits = np.full(workload.rows, _FP32, np.int16)
    columns = {**workload.columns, "key_bits": bits, "value_bits": bits}
    return replace(workload, columns=columns)


def run(job: Job) -> Outcome:
    """Simulate one point in this process."""
    return run_all([job], 1, lambda: None)[job]


def run_all(jobs: Iterable[Job], workers: int, on_done: Callable[[], None]) -> dict[Job, Outcome]:
    """Simulate every distinct point, in ``workers`` processes; calls ``on_done`` after each."""
    unique = list(dict.fromkeys(jobs))
    # The longest first, so that no process is left with one at the end; but a short one before
    # all, since the first compiles what the others then find.
    unique.sort(key=_length, reverse=True)
    unique = [*unique[-1:], *unique[:-1]]
    fp32_bytes: dict[Job, int] = {}

    def requests() -> Iterator[Request]:
        for job in unique:
            overrides = dict(job.overrides)
            if job.benchmark in TRACES:
                fp32_bytes[job] = 0
                yield Request(
                    job.benchmark,
                    job.accelerator,
                    job.variant or None,
                    overrides=overrides,
                    dependencies=job.dependencies,
                )
                continue
            workload = workload_of(job)
            if job.variant.endswith("-fp32"):
                overrides |= dict([_FP32_CONVERTER])
            fp32_bytes[job] = AttentionShape.from_workload(workload).bytes_moved(4)
            yield Request(
                workload,
                job.accelerator,
                overrides=overrides,
                baselines=tuple(read_benchmark(job.benchmark).published),
                dependencies=job.dependencies,
            )

    executor = "local" if workers <= 1 or len(unique) == 1 else "processes"
    rows = replay_many(requests(), executor, workers, on_done)
    return {
        job: Outcome.of(row, job.every, fp32_bytes[job])
        for job, row in zip(unique, rows, strict=True)
    }


def _length(job: Job) -> tuple[float, bool, int]:
    """What says how long a job takes: steps, size of the model, length."""
    if job.benchmark in TRACES:
        return 1.0, False, 0
    bench = read_benchmark(job.benchmark)
    return (bench.generated_tokens + 1) / job.every, bench.layers > 12, bench.input_tokens
