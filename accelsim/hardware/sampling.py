"""Sampled simulation: some layers of some steps stand for all, and every total has an interval.

A *unit* is a layer of a step with the rows of all heads and sequences. Units are drawn from a
lattice with a random origin: systematic over the steps, by golden sections over the layers, so that
each unit is as likely as every other. Its points are dealt to eight samples, each run by itself. In
front of the units that are measured come those before them in the run, which open DRAM rows and
fill buffers, and behind them the next one, whose keys are fetched while they end; their time is not
counted. A run goes through its units one after another, so refreshes fall as they do in a long run,
and its vectors lie in DRAM where they lie in the whole.
Of a layer whose rows are so long that filling the pipeline is nothing beside them, only some heads
are run, systematically too.

Totals are ratio estimates: what was measured over what the units' rows ask for, which is known of
all rows. Intervals are Student's over the delete-one jackknife of the eight samples; as these are
neighbours on a lattice, what counts is how neighbours differ, in the order of their layers. What
all samples have in common they cannot tell; see :data:`UNSEEN` and :attr:`Sampled.ends`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.activity import Activity, ModuleActivity, QueueActivity
from accelsim.workloads import Workload, read_bits

SAMPLES = 8
"""Samples of a stage."""
LEVEL = 0.98
"""Of the interval."""
STUDENT = 3.365
"""Two-sided quantile of Student's t at :data:`LEVEL` with five degrees of freedom, which is what
the seven differences of neighbours are worth (2 x 7 x 7 / (3 x 8 - 4) = 4.9)."""
UNSEEN = 0.006
"""Half of the least width of an interval of time, relative. Samples that agree to the cycle, as
those of a prompt do, are not exact: orders of requests that differ by a cycle meet other DRAM rows
open, which moves totals by up to 0.6 % ("Differences below 1 %", docs/validation.md)."""
DEFAULT_FRACTION = 0.02
SMALLEST = 1 << 28
"""Size from which a run is sampled if nothing else is asked for; see :func:`size_of`. About two
minutes of the event engine."""

_MEASURED = 3
"""Units that are measured in a row, and at least twice those in front of them."""
_WARM_VECTORS = 4096
"""In front come units with twice as many vectors as both buffers hold: that far ahead keys are
fetched."""
_LEAD_VECTORS = 1 << 14
"""Vectors of the rows in front of all are fewer than so many, or than two units have: about the
time between two refreshes of HBM2. Runs that all began alike would all have as many refreshes in
their measured units, or as few."""
_SETTLE = 4
"""Units more in front of all, where a unit takes less than :data:`_SETTLE` times as long as it is
between two refreshes. Where it takes about as long, or half, refreshes come to fall on the same
place of every unit: on HBM3, layers of 3,820 cycles take the 3,900 from refresh to refresh, and
samples that began at any distance were 1.9 % too short."""
_RUN_VECTORS = 1 << 16
"""Least vectors of a run: tens of thousands of cycles, with several refreshes among them."""
_THIN_SCORES = 1 << 22
"""Scores and products that the heads of a unit keep: hundreds of thousands of cycles, against some
thousand that it takes to fill the pipeline."""
_GOLDEN = (math.sqrt(5) - 1) / 2

Ints = NDArray[np.int64]

_BY_CYCLES = frozenset(("dram_refreshes",))
_BY_QUERIES = frozenset(("query_register_bytes",))
_BY_SELECTION = frozenset(("topk_passes", "topk_comparisons", "topk_fifo_bytes"))
_BY_SCORES = frozenset(
    ("qk_macs", "pv_macs", "fc_macs", "exponentials", "divisions", "key_sram_read_bytes",
     "value_sram_read_bytes", "candidate_iterations", "score_comparisons", "sorted_key_reads")
)  # fmt: skip
"""Counters by what they go with; all others go with the bytes that are fetched."""


def size_of(workload: Workload) -> int:
    """How much there is to simulate: scores and products, those of a prompt 32 times cheaper, and
    4,096 for each row."""
    early, _ = workload.stages()
    scores = _scores(workload)
    cheap = int(scores[early].sum()) // 32
    return int(scores[~early].sum()) + cheap + 4096 * workload.rows


@dataclass(frozen=True)
class Sampled:
    """What a sampled simulation gave.

    Attributes:
        activity: estimate of the whole run.
        without: the same without one of the samples each, in the order of their layers.
        rows: of the workload.
        rows_simulated: of all runs together, warm-up among them.
        ends: first and last rows of the runs, over all that they hold. Reads of such a row do not
            meet those of a row before or after it, and so meet other DRAM rows open.
    """

    activity: Activity
    without: list[Activity]
    rows: int
    rows_simulated: int
    ends: float = 0.0

    def interval(self, of: Callable[[Activity], float]) -> tuple[float, float]:
        """Ends of the interval of a total.

        Args:
            of: the total, of an activity. What :data:`UNSEEN` of the cycles and ``ends`` of the
                DRAM activations change in it is added.
        """
        middle, others = of(self.activity), np.array([of(a) for a in self.without])
        count = len(others)
        if not count:
            return middle, middle
        differences = float((np.diff(others) ** 2).sum()) / 2
        spread = math.sqrt((count - 1) / count * differences)
        half = STUDENT * spread + abs(of(_dearer(self.activity, self.ends)) - middle)
        return middle - half, middle + half


def _dearer(activity: Activity, ends: float) -> Activity:
    """The same work in a little more time, and with more DRAM activations."""
    cycles, prefill = (round(c * (1 + UNSEEN)) for c in (activity.cycles, activity.prefill_cycles))
    counters = dict(activity.counters)
    if "dram_activations" in counters:
        counters["dram_activations"] = round(counters["dram_activations"] * (1 + ends))
    return replace(activity, cycles=cycles, prefill_cycles=prefill, counters=counters)


def sample(
    workload: Workload,
    simulation: Callable[[Workload], Activity],
    fraction: float,
    seed: int = 0,
    whole: Activity | None = None,
) -> Sampled | None:
    """Simulate a part of a workload, and estimate the rest.

    Args:
        workload: all rows.
        simulation: runs rows on a machine, attention only.
        fraction: of the units to simulate, warm-up among them; more where the samples need it.
        seed: of the draw.
        whole: what the machine does between the layers of attention, of all rows.

    Returns:
        ``None`` where a sample would hold half of the rows or more.
    """
    stages = _stages(workload)
    rng = np.random.default_rng(seed)
    plans = [_plan(workload, stage, fraction, rng) for stage in stages]
    rows = sum(len(part.rows) for plan in plans for part in plan)
    if 2 * rows >= workload.rows:
        return None
    runs = [[_run(workload, simulation, part) for part in plan] for plan in plans]
    every = [_Totals.of(workload, stage.rows) for stage in stages]

    def estimate(left_out: int | None) -> Activity:
        parts = []
        for plan, total in zip(runs, every, strict=True):
            some = [run for at, run in enumerate(plan) if len(plan) == 1 or at != left_out]
            parts.append(_scaled(some, total))
        found = _joined(workload, parts, [stage.early for stage in stages])
        return found if whole is None else found.in_series(whole)

    count = max(map(len, runs))
    without = [estimate(at) for at in range(count)] if count > 1 else []
    parts = [part for plan in plans for part in plan if not part.whole]
    ends = 2 * len(parts) / sum(len(part.rows) for part in parts)
    return Sampled(estimate(None), without, workload.rows, rows, ends)


@dataclass(frozen=True)
class _Stage:
    """The prompt, or what is decoded: its units in order.

    Attributes:
        early: it is the prompt, or an encoder.
        start: first row of each unit, and the end of the last.
        order: rows of the stage; ``start`` counts in it.
        layers: units of a step, as a rule.
    """

    early: bool
    start: Ints
    order: Ints
    layers: int

    @property
    def rows(self) -> Ints:
        """Its rows."""
        return self.order

    @property
    def units(self) -> int:
        """How many."""
        return len(self.start) - 1

    def rows_of(self, unit: int) -> Ints:
        """Rows of a unit."""
        return self.order[self.start[unit] : self.start[unit + 1]]


@dataclass(frozen=True)
class _Part:
    """Rows of one run.

    Attributes:
        rows: of the workload, in the order of the run.
        unit: of each row.
        measured: of each row, whether its unit is.
        whole: the run is all of its stage.
    """

    rows: Ints
    unit: Ints
    measured: NDArray[np.bool_]
    whole: bool = False


def _stages(workload: Workload) -> list[_Stage]:
    early, _ = workload.stages()
    found = []
    for is_early in (True, False):
        order = np.flatnonzero(early == is_early)
        if not len(order):
            continue
        step, layer = workload["step"][order], workload["layer"][order]
        change = np.flatnonzero((np.diff(step) != 0) | (np.diff(layer) != 0)) + 1
        start = np.concatenate(([0], change, [len(order)]))
        steps = len(np.unique(step))
        found.append(_Stage(is_early, start, order, max((len(start) - 1) // steps, 1)))
    return found


def _plan(
    workload: Workload, stage: _Stage, fraction: float, rng: np.random.Generator
) -> list[_Part]:
    """Rows of each run of a stage: one whole, or some samples."""
    scores = _scores(workload)
    vectors = (workload["keys"] + workload["values"]).astype(np.int64)
    a_unit = max(int(vectors[stage.rows].sum()) // stage.units, 1)
    warm = -(-_WARM_VECTORS // a_unit)
    several = max(_MEASURED, 2 * warm)
    each = warm + several + 1
    blocks = max(
        round(fraction * stage.units / SAMPLES / each), -(-_RUN_VECTORS // (each * a_unit))
    )
    origin = rng.random(2)
    # Samples of one block each follow in the order of its layer.
    layer = (origin[1] + np.arange(SAMPLES) * _GOLDEN) % 1
    parts = []
    for part in np.argsort(layer).tolist():
        points = np.arange(part, blocks * SAMPLES, SAMPLES)
        measured = _measured(stage, points, blocks * SAMPLES, several, origin)
        around = {u + by for u in measured for by in range(-warm, 2)}
        units = _from_anywhere(sorted(u for u in around if 0 <= u < stage.units), rng)
        rows = [_thinned(workload, stage.rows_of(u), scores, rng) for u in units]
        rows.insert(0, _lead(stage, units[0], scores, vectors, rng))
        sizes = [len(r) for r in rows]
        flags = [False, *(u in measured for u in units)]
        numbers = np.repeat([-1, *units], sizes)
        parts.append(_Part(np.concatenate(rows), numbers, np.repeat(flags, sizes)))
    if 2 * sum(len(part.rows) for part in parts) >= len(stage.rows):
        every = np.ones(len(stage.rows), np.bool_)
        unit = np.repeat(np.arange(stage.units), np.diff(stage.start))
        return [_Part(stage.rows, unit, every, whole=True)]
    return parts


def _from_anywhere(units: list[int], rng: np.random.Generator) -> list[int]:
    """The same stretches of units, from any of them on and round: the rows in front of all would
    else come from early steps, whose counts are not those of late ones."""
    begins = [at for at in range(len(units)) if not at or units[at] != units[at - 1] + 1]
    first = begins[int(rng.integers(len(begins)))]
    return units[first:] + units[:first]


def _lead(stage: _Stage, unit: int, scores: Ints, vectors: Ints, rng: np.random.Generator) -> Ints:
    """Some rows before a unit, so that the first refresh falls anywhere in what is measured."""
    before = stage.order[: stage.start[unit]]
    own = stage.rows_of(unit)
    if stage.early or scores[own].sum() > _THIN_SCORES:
        # Beside such a unit a refresh is nothing.
        return before[:0]
    size = int(vectors[own].sum())
    target = rng.random() * max(2 * size, _LEAD_VECTORS)
    if size < _SETTLE * _LEAD_VECTORS:
        target += _SETTLE * size
    count = int(np.searchsorted(np.cumsum(vectors[before[::-1]]), target))
    return before[len(before) - count :]


def _measured(
    stage: _Stage, points: Ints, of: int, several: int, origin: NDArray[np.float64]
) -> set[int]:
    """Units to measure: some points of a lattice over steps and layers with a random origin."""
    steps = -(-stage.units // stage.layers)
    step = ((origin[0] + points / of) % 1 * steps).astype(np.int64)
    layer = ((origin[1] + points * _GOLDEN) % 1 * stage.layers).astype(np.int64)
    first = step * stage.layers + layer
    return {int(unit) % stage.units for at in first for unit in range(at, at + several)}


def _thinned(workload: Workload, rows: Ints, scores: Ints, rng: np.random.Generator) -> Ints:
    """Some rows of a unit, where it has more than enough; all where it selects tokens."""
    total = int(scores[rows].sum())
    keep = -(-_THIN_SCORES * len(rows) // max(total, 1))
    if keep >= len(rows) or workload["select_size"][rows].any():
        return rows
    at = (rng.random() + np.arange(keep)) * len(rows) / keep
    return np.asarray(rows[at.astype(np.int64)])


def _scores(workload: Workload) -> Ints:
    scores: Ints = workload["query_keys"] + workload["query_values"]
    return scores


@dataclass
class _Totals:
    """What rows ask for: that to which counts are in proportion."""

    scores: float
    selection: float
    queries: float
    bits: dict[str, float]

    @classmethod
    def of(cls, workload: Workload, rows: Ints) -> _Totals:
        """Add up some rows."""
        columns = {name: column[rows] for name, column in workload.columns.items()}
        elements = [np.maximum(columns[f"{n}_elements"], 0).sum() for n in ("topk", "select")]
        read = read_bits(columns, workload.key_dims[rows], workload.fetched_value_dims[rows])
        bits = {n: float(b.sum()) for n, b in read.items()}
        scores = columns["query_keys"] + columns["query_values"] + columns["refetch_query_keys"]
        queries = float((columns["queries"] * workload.key_dims[rows]).sum())
        return cls(float(scores.sum()), float(sum(elements)), queries, bits)


@dataclass
class _Run:
    """One run: its counts, and what its rows asked for.

    Attributes:
        activity: of the run.
        asked: by all its rows.
        cycles: of its measured units.
        measured: what these asked for.
    """

    activity: Activity
    asked: _Totals
    cycles: int
    measured: _Totals


def _run(workload: Workload, simulation: Callable[[Workload], Activity], part: _Part) -> _Run:
    activity = simulation(workload.part(part.rows))
    asked = _Totals.of(workload, part.rows)
    ends = np.asarray(activity.completion_cycles, np.int64)
    if part.whole or not len(ends):
        return _Run(activity, asked, activity.cycles, asked)
    # A unit takes from the last output before it to its own last.
    last = np.append(np.flatnonzero(np.diff(part.unit)), len(part.unit) - 1)
    done = np.maximum.accumulate(ends)[last]
    took = np.diff(done, prepend=0)
    cycles = int(took[part.measured[last]].sum())
    return _Run(activity, asked, cycles, _Totals.of(workload, part.rows[part.measured]))


def _ratio(total: float, part: float) -> float:
    return total / part if part else 0.0


def _scaled(runs: Sequence[_Run], total: _Totals) -> Activity:
    """Estimate of a stage."""
    scores = sum(run.asked.scores for run in runs)
    by_scores = _ratio(total.scores, scores)
    by_selection = _ratio(total.selection, sum(run.asked.selection for run in runs))
    by_queries = _ratio(total.queries, sum(run.asked.queries for run in runs))
    moved = {name: sum(run.asked.bits[name] for run in runs) for name in total.bits}
    by_bytes = _ratio(sum(total.bits.values()), sum(moved.values()))
    measured = sum(run.measured.scores for run in runs)
    cycles = round(sum(run.cycles for run in runs) * _ratio(total.scores, measured))
    by_cycles = _ratio(cycles, sum(run.activity.cycles for run in runs))
    first = runs[0].activity
    found = Activity(cycles, first.frequency_hz, dependencies=first.dependencies)
    for name in _names(run.activity.counters for run in runs):
        by = by_bytes
        if name in _BY_CYCLES:
            by = by_cycles
        elif name in _BY_SELECTION:
            by = by_selection
        elif name in _BY_SCORES:
            by = by_scores
        elif name in _BY_QUERIES:
            by = by_queries
        found.counters[name] = round(by * sum(r.activity.counters.get(name, 0) for r in runs))
    again = sum(run.activity.counters.get("refetched_bytes", 0) for run in runs)
    # Keys are fetched again for their LSBs, if there are any.
    by_lsbs = _ratio(total.bits["key_lsb"], moved["key_lsb"]) or by_bytes
    if again:
        found.counters["refetched_bytes"] = round(by_lsbs * again)
    for name in _names(run.activity.dram_read_bytes for run in runs):
        read = sum(run.activity.dram_read_bytes.get(name, 0) for run in runs)
        by = by_queries if name == "query" else by_scores
        by = _ratio(total.bits[name], moved[name]) if name in moved else by
        twice = min(again, max(read - moved[name] / 8, 0)) if name == "key_msb" else 0
        found.dram_read_bytes[name] = round(by * (read - twice) + by_lsbs * twice)
    written = sum(run.activity.dram_write_bytes for run in runs)
    found.dram_write_bytes = round(by_scores * written)
    for name in _names(run.activity.modules for run in runs):
        found.modules[name] = _module(
            [run.activity.modules[name] for run in runs], by_cycles, cycles
        )
    for name in _names(run.activity.queues for run in runs):
        queues = [run.activity.queues[name] for run in runs]
        high = max(queue.high_water for queue in queues)
        found.queues[name] = QueueActivity(queues[0].depth, high, queues[0].unit)
    return found


def _names(mappings: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _module(parts: Sequence[ModuleActivity], by: float, cycles: int) -> ModuleActivity:
    """Time of a module, scaled; what rounding leaves over is idle."""
    stalls = {
        name: round(by * sum(part.stall_cycles.get(name, 0) for part in parts))
        for name in _names(part.stall_cycles for part in parts)
    }
    busy = min(round(by * sum(part.busy_cycles for part in parts)), cycles)
    stalls["idle"] = 0
    rest = cycles - busy - sum(stalls.values())
    stalls["idle"] = max(rest, 0)
    if rest < 0:
        longest = max(stalls, key=lambda name: stalls[name])
        stalls[longest] += rest
    operations, peak = parts[0].operations, parts[0].peak_operations_per_cycle
    if operations is not None:
        operations = math.floor(by * sum(part.operations or 0 for part in parts))
        operations = operations if peak is None else min(operations, math.floor(peak * busy))
    return ModuleActivity(busy, stalls, operations, peak)


def _joined(workload: Workload, parts: Sequence[Activity], early: Sequence[bool]) -> Activity:
    """One stage after another."""
    whole = parts[0]
    for part in parts[1:]:
        whole.cycles += part.cycles
        whole.dram_write_bytes += part.dram_write_bytes
        for into, more in (
            (whole.counters, part.counters),
            (whole.dram_read_bytes, part.dram_read_bytes),
        ):
            for name, amount in more.items():
                into[name] = into.get(name, 0) + amount
        for name, module in part.modules.items():
            mine = whole.modules[name]
            mine.busy_cycles += module.busy_cycles
            for reason, cycles in module.stall_cycles.items():
                mine.stall_cycles[reason] = mine.stall_cycles.get(reason, 0) + cycles
            if module.operations is not None:
                mine.operations = (mine.operations or 0) + module.operations
        for name, queue in part.queues.items():
            high = max(whole.queues[name].high_water, queue.high_water)
            whole.queues[name] = QueueActivity(queue.depth, high, queue.unit)
    prompt, steps = workload.stages()
    whole.decode_steps = steps
    whole.prefill_cycles = whole.cycles
    if len(parts) > 1:
        whole.prefill_cycles -= parts[1].cycles
    elif not early[0]:
        whole.prefill_cycles = 0
    # Stages are told by their last outputs; those of single rows are not known.
    ends = np.where(prompt, whole.prefill_cycles, whole.cycles)
    whole.completion_cycles = ends.tolist()
    return whole
