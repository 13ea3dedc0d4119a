"""Activity times a table is energy, with an interval from the ranges of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import configs
from accelsim.energy._check import check_table
from accelsim.energy._table import EnergyTable
from accelsim.hardware import accelerator_of
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import AcceleratorConfig, MemoryConfig
from accelsim.hardware.counters import DRAM, Counter, by_name

PARTS = ("dram", "dram_background", "sram", "logic", "leakage")
"""Parts of the energy: DRAM accesses, DRAM background power, on-chip memories, logic, leakage."""
ACCESSES = ("dram", "sram", "logic")
"""Parts that work alone costs, as SpAtten counts (HPCA 2021, §V-A); the others are power that is
drawn as long as the run lasts."""
_SAMPLES = 4096
_SEED = 20210225
_QUANTILES = (0.05, 0.95)
_OF_MEMORY = by_name(DRAM)


@dataclass(frozen=True)
class EnergyReport:
    """Joules of one run, and the silicon of the machine.

    There are two totals: ``accesses``, what work costs (:data:`ACCESSES`), and ``everything``, with
    DRAM background and leakage. Each has its range; what neither holds is named.

    Attributes:
        energy_j_by_part: the parts of :data:`PARTS`.
        energy_j_by_entry: per counter and static entry.
        warnings: assumptions the totals rest on, and counted work that the table does not price.
        seconds: latency of the run.
        low_j: 5 % quantile of everything over the ranges of the tables, joules.
        high_j: 95 % quantile of the same.
        area_mm2_by_module: silicon by module; empty where the table has no areas.
        area_low_mm2: 5 % quantile of the area.
        area_high_mm2: 95 % quantile of the area.
        accesses_low_j, accesses_high_j: quantiles of the accesses, joules.
        reading: of SRAM and arithmetic, see :attr:`EnergyTable.reading_name`.
        left_out: what is in neither total.
    """

    energy_j_by_part: dict[str, float]
    energy_j_by_entry: dict[str, float]
    warnings: list[str]
    seconds: float
    low_j: float
    high_j: float
    area_mm2_by_module: dict[str, float]
    area_low_mm2: float
    area_high_mm2: float
    accesses_low_j: float
    accesses_high_j: float
    reading: str
    left_out: tuple[str, ...]

    @property
    def total_j(self) -> float:
        """Everything: the sum over the parts, joules."""
        return sum(self.energy_j_by_part.values())

    @property
    def accesses_j(self) -> float:
        """The sum over the parts that work alone costs, joules."""
        return sum(self.energy_j_by_part[part] for part in ACCESSES)

    @property
    def average_power_w(self) -> float:
        """Everything over latency, watts; 0 for a run of no cycles."""
        return self._power(self.total_j)

    @property
    def power_w_by_part(self) -> dict[str, float]:
        """Energy of each part over latency, watts."""
        return {part: self._power(joules) for part, joules in self.energy_j_by_part.items()}

    @property
    def area_mm2(self) -> float | None:
        """Sum over the modules, mm²; ``None`` where the table has no areas."""
        return sum(self.area_mm2_by_module.values()) if self.area_mm2_by_module else None

    def stage(self) -> dict[str, Any]:
        """Return what is told of one stage of a run: its time, both totals, power."""
        return {
            "latency_s": self.seconds,
            "energy_accesses_j": self.accesses_j,
            "energy_j": self.total_j,
            "average_power_w": self.average_power_w,
            "power_w_by_part": self.power_w_by_part,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return reading, totals, what is left out, and power as plain JSON values."""
        totals = {
            "accesses": (self.accesses_j, self.accesses_low_j, self.accesses_high_j),
            "everything": (self.total_j, self.low_j, self.high_j),
        }
        return {
            "reading": self.reading,
            "totals": {
                name: {
                    "energy_j": joules,
                    "energy_j_low": low,
                    "energy_j_high": high,
                    "average_power_w": self._power(joules),
                }
                for name, (joules, low, high) in totals.items()
            },
            "left_out": list(self.left_out),
            "power_w_by_part": self.power_w_by_part,
        }

    def _power(self, joules: float) -> float:
        return joules / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Line:
    """One entry of a run: its part, its group, and what it gives at the ends of its range."""

    name: str
    part: str
    group: str
    low: float
    value: float
    high: float


def evaluate(
    activity: Activity,
    table: EnergyTable,
    machine: AcceleratorConfig | None = None,
    memory: MemoryConfig | None = None,
) -> EnergyReport:
    """Multiply every counter by its energy, and every static power by the latency.

    The intervals: each group of entries draws one place in its range (the printed value is the
    median), 4096 times from a fixed seed; the 5 % and 95 % quantiles of each total.

    Args:
        activity: what was counted.
        table: energies; if it prices DRAM, ``memory`` adds nothing.
        machine: scales what grows with buffers, multipliers or channels; without it each
            such entry stands for the ``sized_for`` units that it is printed for.
        memory: its ``technology`` names the DRAM table ``hw_configs/energy/dram-<technology>``.

    Raises:
        ConfigError: no DRAM table for the memory's technology, or entries that do not fit what the
            machine declares.
    """
    tables = [table]
    if memory is not None and not any(entry.part == "dram" for entry in table.dynamic):
        tables.append(_dram_table(_dram(memory), configs.config_root()))
    counts: dict[str, float] = dict(activity.counters)
    counts["dram_read_bits"] = 8 * sum(activity.dram_read_bytes.values())
    counts["dram_write_bits"] = 8 * activity.dram_write_bytes
    counts["dram_io_bits"] = counts["dram_read_bits"] + counts["dram_write_bits"]
    sizes = {} if machine is None else {n: size.amount for n, size in machine.sizes.items()}
    declared = _OF_MEMORY
    if machine is not None:
        declared = accelerator_of(machine.kind).counters_by_name
        for each in tables:
            name = machine.energy if each is table or memory is None else _dram(memory)
            check_table(each, machine, name)
    lines: list[_Line] = []
    assumed: list[str] = []
    for each in tables:
        _price(each, counts, sizes, activity.seconds, lines, assumed)
    parts = dict.fromkeys(PARTS, 0.0)
    entries: dict[str, float] = {}
    for line in lines:
        parts[line.part] += line.value
        entries[line.name] = entries.get(line.name, 0.0) + line.value
    areas = _areas(table, sizes)
    work = [line for line in lines if line.part in ACCESSES]
    power = [line for line in lines if line.part not in ACCESSES]
    totals = sum(parts[part] for part in ACCESSES), sum(parts.values())
    (accesses_low, accesses_high), (low_j, high_j) = intervals(work, power, printed=totals)
    ((low_mm2, high_mm2),) = intervals(areas, printed=[sum(line.value for line in areas)])
    return EnergyReport(
        parts,
        entries,
        _warnings(assumed, tables, activity, declared),
        activity.seconds,
        low_j,
        high_j,
        {line.name: line.value for line in areas},
        low_mm2,
        high_mm2,
        accesses_low,
        accesses_high,
        table.reading_name,
        tuple(dict.fromkeys(name for each in tables for name in each.left_out)),
    )


def _dram(memory: MemoryConfig) -> str:
    return f"dram-{memory.technology}"


@lru_cache(maxsize=32)
def _dram_table(name: str, root: Path) -> EnergyTable:
    """Read a DRAM table once for many runs; ``root`` tells folders of presets apart."""
    return configs.load(EnergyTable, name, "energy")


def _price(
    table: EnergyTable,
    counts: dict[str, float],
    sizes: dict[str, float],
    seconds: float,
    lines: list[_Line],
    assumed: list[str],
) -> None:
    for entry, ends in zip(table.dynamic, table.dynamic_ranges, strict=True):
        scale = counts.get(entry.counter, 0) * 1e-12
        low, value, high = (scale * pj for pj in ends)
        group = entry.group or entry.counter
        lines.append(_Line(entry.counter, entry.part, group, low, value, high))
        if entry.assumed and value:
            assumed.append(entry.counter)
    for static, ends in zip(table.static, table.static_ranges, strict=True):
        scale = sizes.get(static.per, static.sized_for) / static.sized_for * seconds * 1e-3
        low, value, high = (scale * mw for mw in ends)
        lines.append(_Line(static.name, static.part, static.group or static.name, low, value, high))
        if static.assumed and value:
            assumed.append(static.name)


def _areas(table: EnergyTable, sizes: dict[str, float]) -> list[_Line]:
    lines = []
    for entry, ends in zip(table.area, table.area_ranges, strict=True):
        scale = sizes.get(entry.per, entry.sized_for) / entry.sized_for
        low, value, high = (scale * mm2 for mm2 in ends)
        lines.append(_Line(entry.name, "area", entry.group or entry.name, low, value, high))
    merged: dict[str, list[_Line]] = {}
    for line in lines:
        merged.setdefault(line.name, []).append(line)
    return [
        _Line(
            name,
            "area",
            group[0].group,
            *(sum(getattr(line, end) for line in group) for end in ("low", "value", "high")),
        )
        for name, group in merged.items()
    ]


def intervals(*parts: list[_Line], printed: Sequence[float]) -> list[tuple[float, float]]:
    """Return the 5 % and 95 % quantiles of a sum over the ranges of its entries, part by part.

    Each is that of the sum of its part and all before it, in the same draws, so that a larger sum
    has the larger ends. It is widened to the printed sum, should many of the values be an end of
    their range.

    Args:
        parts: entries.
        printed: sum of the values of a part and all before it, as it is printed.
    """
    groups = dict.fromkeys(line.group for part in parts for line in part)
    places = {group: index for index, group in enumerate(groups)}
    # How far the entries of a group reach below and above what is printed.
    reach, found = np.zeros((2, len(places))), []
    for part, value in zip(parts, printed, strict=True):
        for line in part:
            reach[0, places[line.group]] += line.value - line.low
            reach[1, places[line.group]] += line.high - line.value
        total = value + np.tensordot(reach, _drawn(len(places)), 2)
        low, high = np.quantile(total, _QUANTILES)
        found.append((min(float(low), value), max(float(high), value)))
    return found


@lru_cache(maxsize=8)
def _drawn(groups: int) -> NDArray[np.float64]:
    """Where in its range each group is, in each sample: [2, groups, samples].

    The first of the two is the part of the lower reach, in [-1, 0], the second that of the upper,
    in [0, 1]; one of them is 0. Half of the mass is on either side of the printed value, which is
    so the median, and falls linearly to the end of the range there.
    """
    return _parts_of_reach(np.random.default_rng(_SEED).random((_SAMPLES, groups)).T)


def _parts_of_reach(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse distribution function of a range: which part of each reach a place in it is."""
    below = np.sqrt(2 * np.minimum(place, 0.5)) - 1
    above = 1 - np.sqrt(2 * np.minimum(1 - place, 0.5))
    return np.ascontiguousarray([below, above])


def _warnings(
    assumed: list[str], tables: list[EnergyTable], activity: Activity, declared: dict[str, Counter]
) -> list[str]:
    warnings = []
    if assumed:
        names = ", ".join(dict.fromkeys(assumed))
        warnings.append(f"energy rests on assumptions of ours for: {names} (see the energy table)")
    priced = {entry.counter for table in tables for entry in table.dynamic}
    priced |= {counter.name for counter in declared.values() if not counter.charged}
    free = [name for name, amount in activity.counters.items() if amount and name not in priced]
    if free:
        warnings.append(f"energy leaves out work without a table entry: {', '.join(free)}")
    return warnings
