"""Activity times a table is energy."""

from __future__ import annotations

from dataclasses import dataclass

from accelsim.energy._table import EnergyTable, Static
from accelsim.hardware.activity import COUNTERS, Activity
from accelsim.hardware.config import AcceleratorConfig

# A precharge is part of the energy of its activation, a burst is charged by its bits, and the row
# outcomes only classify requests.
_CHARGED_ELSEWHERE = frozenset(
    ("dram_precharges", "dram_reads", "dram_writes", "row_hits", "row_misses", "row_conflicts")
)


@dataclass(frozen=True)
class EnergyReport:
    """Joules of one run.

    Attributes:
        energy_j_by_part: dram, sram, logic, leakage.
        energy_j_by_entry: per counter and static entry.
        warnings: assumptions the total rests on, and counted work that the table does not price.
        seconds: latency of the run.
        low_j: total with every entry at its low end, joules.
        high_j: total with every entry at its high end, joules.
    """

    energy_j_by_part: dict[str, float]
    energy_j_by_entry: dict[str, float]
    warnings: list[str]
    seconds: float
    low_j: float
    high_j: float

    @property
    def total_j(self) -> float:
        """Sum over the parts, joules."""
        return sum(self.energy_j_by_part.values())

    @property
    def average_power_w(self) -> float:
        """Total over latency, watts; 0 for a run of no cycles."""
        return self.total_j / self.seconds if self.seconds else 0.0


def evaluate(
    activity: Activity, table: EnergyTable, machine: AcceleratorConfig | None = None
) -> EnergyReport:
    """Multiply every counter by its energy, and every static power by the latency.

    Args:
        activity: what was counted.
        table: energies.
        machine: scales the static powers that grow with buffers or multipliers; without it they
            are those of the machine that the table was made for.
    """
    counts: dict[str, float] = dict(activity.counters)
    counts["dram_read_bits"] = 8 * sum(activity.dram_read_bytes.values())
    counts["dram_write_bits"] = 8 * activity.dram_write_bytes
    parts = dict.fromkeys(("dram", "sram", "logic", "leakage"), 0.0)
    entries: dict[str, float] = {}
    assumed: list[str] = []
    bounds = [0.0, 0.0]

    def add(
        name: str,
        part: str,
        joules_per_unit: float,
        values: tuple[float, float | None, float | None],
        is_assumed: bool,
    ) -> None:
        value, low, high = values
        joules = joules_per_unit * value
        parts[part] += joules
        entries[name] = entries.get(name, 0.0) + joules
        bounds[0] += joules_per_unit * (value if low is None else low)
        bounds[1] += joules_per_unit * (value if high is None else high)
        if is_assumed and joules:
            assumed.append(name)

    for entry in table.dynamic:
        scale = counts.get(entry.counter, 0) * 1e-12
        add(entry.counter, entry.part, scale, (entry.pj, entry.low, entry.high), entry.assumed)
    for static in table.static:
        scale = _relative_size(static, machine) * activity.seconds * 1e-3
        add(static.name, "leakage", scale, (static.mw, static.low, static.high), static.assumed)
    return EnergyReport(
        parts, entries, _warnings(assumed, table, counts), activity.seconds, bounds[0], bounds[1]
    )


def _relative_size(static: Static, machine: AcceleratorConfig | None) -> float:
    if machine is None or static.per == "machine":
        return 1.0
    multiplier = static.per == "multiplier"
    return (machine.multiplier_count if multiplier else machine.buffer_bytes) / static.sized_for


def _warnings(assumed: list[str], table: EnergyTable, counts: dict[str, float]) -> list[str]:
    warnings = []
    if assumed:
        names = ", ".join(dict.fromkeys(assumed))
        warnings.append(f"energy rests on assumptions of ours for: {names} (see the energy table)")
    priced = {entry.counter for entry in table.dynamic} | _CHARGED_ELSEWHERE
    free = [name for name in COUNTERS if counts.get(name) and name not in priced]
    if free:
        warnings.append(f"energy leaves out work without a table entry: {', '.join(free)}")
    return warnings
