"""Metrics: what a run is measured by, one row each.

A new metric is one :class:`Metric` in :data:`METRICS`. Its key then stands in the JSON of a
result, its line in the terminal's table and the static report; sweeps, searches, constraints and
interactive reports take its name, unit and direction from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from accelsim.baselines import AttentionShape
    from accelsim.energy import EnergyReport
    from accelsim.hardware.activity import Activity
    from accelsim.workloads import Workload

Number = float | int
Better = Literal["lower", "higher", "neither"]
Goal = Literal["minimize", "maximize", "report"]


@dataclass(frozen=True)
class Run:
    """What a metric is computed from.

    Attributes:
        workload: rows that ran.
        activity: cycles and counters of the machine.
        shape: work of dense attention over the same tokens.
        energy: joules and silicon.
        streamed_cycles: latency without dependencies; ``None`` where it was not asked for.
    """

    workload: Workload
    activity: Activity
    shape: AttentionShape
    energy: EnergyReport
    streamed_cycles: int | None = None

    @cached_property
    def stages(self) -> tuple[int, int, int]:
        """Cycles of the prompt and of decoding, and decoded tokens."""
        import numpy as np

        activity = self.activity
        prefill, steps = self.workload.stages()
        # A machine that tells no completions tells no end of the prompt either.
        told = np.asarray(activity.completion_cycles or np.zeros(self.workload.rows))
        prompt = min(int(told.max(where=prefill, initial=0)), activity.cycles)
        decode = activity.cycles - prompt if steps else 0
        return activity.cycles - decode, decode, steps

    @property
    def read_bytes(self) -> int:
        """Bytes read from DRAM."""
        return sum(self.activity.dram_read_bytes.values())

    def counter(self, name: str) -> int:
        """A counter of the machine; 0 where it has none of that name."""
        return self.activity.counters.get(name, 0)


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Attributes:
        name: key in results, sweeps and searches; ends in its unit where it has one.
        unit: of the number; empty for counts, ``fraction`` for parts of one.
        label: in tables for people; empty for what only programs read.
        section: of these tables: ``time``, ``dram``, ``energy`` or ``area``.
        better: which way is better; the goal where a sweep or search names none.
        of: computes it; ``None`` where the run has none, and the key is then left out.
        always: the key is there, with ``null``, even then.
    """

    name: str
    unit: str
    label: str
    section: str
    better: Better
    of: Callable[[Run], Number | None]
    always: bool = False


def _decode_cycles_per_token(run: Run) -> float:
    _, decode, steps = run.stages
    return decode / steps if steps else 0.0


def _row_hit_rate(run: Run) -> float | None:
    hits = run.counter("row_hits")
    looked = hits + run.counter("row_misses") + run.counter("row_conflicts")
    return hits / looked if looked else None


def _policy_read_bytes(run: Run) -> int | None:
    return None if run.workload.extra else sum(run.workload.policy_bytes().values())


def _decode_policy_read_bytes(run: Run) -> int | None:
    prompt, steps = run.workload.stages()
    if run.workload.extra or not steps:
        return None
    return sum(int(bits[~prompt].sum()) // 8 for bits in run.workload.read_bits().values())


def _where_area(of: Callable[[EnergyReport], float | None]) -> Callable[[Run], float | None]:
    return lambda run: None if run.energy.area_mm2 is None else of(run.energy)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "latency_cycles", "cycles", "latency", "time", "lower", lambda run: run.activity.cycles
        ),
        Metric("latency_s", "s", "", "time", "lower", lambda run: run.activity.seconds),
        Metric(
            "prefill_latency_cycles",
            "cycles",
            "prompt",
            "time",
            "lower",
            lambda run: run.stages[0],
        ),
        Metric(
            "decode_latency_cycles",
            "cycles",
            "decoding",
            "time",
            "lower",
            lambda run: run.stages[1],
        ),
        Metric(
            "decode_cycles_per_token",
            "cycles",
            "a decoded token",
            "time",
            "lower",
            _decode_cycles_per_token,
        ),
        Metric(
            "streamed_cycles",
            "cycles",
            "without dependencies",
            "time",
            "lower",
            lambda run: run.streamed_cycles,
            always=True,
        ),
        Metric("dram_read_bytes", "B", "all reads", "dram", "lower", lambda run: run.read_bytes),
        Metric(
            "dram_write_bytes",
            "B",
            "writes",
            "dram",
            "lower",
            lambda run: run.activity.dram_write_bytes,
        ),
        Metric(
            "dram_read_bytes_per_s",
            "B/s",
            "read bandwidth",
            "dram",
            "higher",
            lambda run: run.read_bytes / run.activity.seconds,
        ),
        Metric("requests", "", "", "time", "neither", lambda run: run.workload.rows),
        Metric(
            "macs",
            "",
            "",
            "time",
            "neither",
            lambda run: run.counter("qk_macs") + run.counter("pv_macs"),
        ),
        Metric(
            "fc_macs", "", "", "time", "neither", lambda run: run.activity.counters.get("fc_macs")
        ),
        Metric(
            "dense_equivalent_op_per_s",
            "op/s",
            "dense-equivalent rate",
            "time",
            "higher",
            lambda run: run.shape.flops / run.activity.seconds,
        ),
        Metric("row_hit_rate", "fraction", "row hits", "dram", "higher", _row_hit_rate),
        Metric("policy_read_bytes", "B", "", "dram", "lower", _policy_read_bytes),
        Metric("decode_policy_read_bytes", "B", "", "dram", "lower", _decode_policy_read_bytes),
        Metric("energy_j", "J", "everything", "energy", "lower", lambda run: run.energy.total_j),
        Metric("energy_j_low", "J", "", "energy", "neither", lambda run: run.energy.low_j),
        Metric("energy_j_high", "J", "", "energy", "neither", lambda run: run.energy.high_j),
        Metric(
            "energy_accesses_j",
            "J",
            "accesses",
            "energy",
            "lower",
            lambda run: run.energy.accesses_j,
        ),
        Metric(
            "energy_accesses_j_low",
            "J",
            "",
            "energy",
            "neither",
            lambda run: run.energy.accesses_low_j,
        ),
        Metric(
            "energy_accesses_j_high",
            "J",
            "",
            "energy",
            "neither",
            lambda run: run.energy.accesses_high_j,
        ),
        Metric("area_mm2", "mm²", "", "area", "lower", lambda run: run.energy.area_mm2),
        Metric(
            "area_mm2_low", "mm²", "", "area", "neither", _where_area(lambda it: it.area_low_mm2)
        ),
        Metric(
            "area_mm2_high", "mm²", "", "area", "neither", _where_area(lambda it: it.area_high_mm2)
        ),
        Metric(
            "average_power_w",
            "W",
            "average power",
            "energy",
            "lower",
            lambda run: run.energy.total_j / run.activity.seconds,
        ),
    )
}
"""All metrics, in the order of results."""

ACCURACY = (
    "accuracy.relative_output_error",
    "accuracy.mean_cosine",
    "accuracy.mean_kl",
    "accuracy.kept_mass",
    "accuracy.kept_value_mass",
    "accuracy.lsb_refetch_fraction",
    "accuracy.kept_token_fraction",
    "accuracy.kept_value_fraction",
    "accuracy.kept_head_fraction",
    "accuracy.kept_query_fraction",
    "accuracy.saturated_fraction",
)
"""Figures of a trace under a policy; the last one of A3 only. A workload has none."""

CLOSED_LOOP: dict[str, Goal] = {
    "closed_loop.loss": "minimize",
    "closed_loop.loss_low": "report",
    "closed_loop.loss_high": "minimize",
    "closed_loop.score": "report",
    "closed_loop.dense_score": "report",
    "closed_loop.reduction": "maximize",
}
"""Figures of a policy inside a model, where a sweep asks for them: loss relative to 12-bit dense
attention (of perplexity, correlation or task score, a fraction) with its 95 % interval, the score
itself and that of dense attention, and how many times less DRAM traffic inside the model."""

DETAILS = (
    "dram_read_bytes_by_tensor",
    "energy_j_by_part",
    "energy_j_by_entry",
    "area_mm2_by_module",
    "modules",
    "queues",
    "baselines",
)
"""First words of names that depend on the machine, its memory and its energy table."""


def measure(run: Run) -> dict[str, Number | None]:
    """Return the metrics of a run."""
    values = ((metric, metric.of(run)) for metric in METRICS.values())
    return {metric.name: value for metric, value in values if value is not None or metric.always}


def goal(name: str) -> Goal:
    """Return what a search does with a metric for which it is not told."""
    if name in CLOSED_LOOP:
        return CLOSED_LOOP[name]
    metric = METRICS.get(name)
    if metric is None or metric.better == "neither":
        return "report"
    return "minimize" if metric.better == "lower" else "maximize"
