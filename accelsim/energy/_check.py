"""Whether an energy table fits a machine: its counters, their units, and its sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from accelsim.energy._table import EnergyTable, ModuleArea, Static
from accelsim.errors import ConfigError, did_you_mean
from accelsim.hardware import accelerator_kinds, accelerator_of
from accelsim.hardware.config import AcceleratorConfig
from accelsim.hardware.counters import Counter


def check_table(table: EnergyTable, machine: AcceleratorConfig, name: str) -> None:
    """Check the entries of a table against what the machine declares.

    A table may serve several machines: an entry for a counter that only another kind has costs
    nothing here and is no error.

    Args:
        table: on-chip, or that of a memory.
        machine: whose counters and sizes count.
        name: of the table, for the error.

    Raises:
        ConfigError: a counter that no machine declares, a unit that is not the counter's, or a size
            that this machine does not have.
    """
    kind = machine.kind
    declared = accelerator_of(kind).counters_by_name
    for number, entry in enumerate(table.dynamic):
        counter = declared.get(entry.counter) or _elsewhere(entry.counter)
        if counter is None:
            raise ConfigError(
                f"energy table '{name}': key 'dynamic.{number}.counter': unknown counter "
                f"'{entry.counter}'{did_you_mean(entry.counter, declared)} (none that "
                f"'{kind}' or another kind declares: Accelerator.counters)"
            )
        free = entry.pj == 0 and entry.unit == "any"
        if not free and not _is(entry.unit, counter.unit):
            raise ConfigError(
                f"energy table '{name}': key 'dynamic.{number}.unit': '{entry.unit}', but "
                f"'{entry.counter}' counts in units of '{counter.unit}'; expected "
                f"'{counter.unit}', with a comma and more if need be"
            )
    sections: dict[str, tuple[Static | ModuleArea, ...]] = {
        "static": table.static,
        "area": table.area,
    }
    for section, entries in sections.items():
        for number, sized in enumerate(entries):
            if sized.per not in machine.sizes:
                raise ConfigError(
                    f"energy table '{name}': key '{section}.{number}.per': unknown size "
                    f"'{sized.per}'{did_you_mean(sized.per, machine.sizes)} "
                    f"('{kind}' declares: {', '.join(machine.sizes)})"
                )


def across_readings(readings: Iterable[str | None]) -> str:
    """What to say of energies and areas of more than one reading; empty if there is one."""
    found = list(dict.fromkeys(reading for reading in readings if reading))
    if len(found) < 2:
        return ""
    return (
        f"energies and areas are of different readings ({'; '.join(found)}): their ratios compare "
        "libraries as much as machines"
    )


def reading_of(config: Any) -> str | None:
    """Reading of an energy table as a manifest or store holds it; ``None`` for one that an older
    version wrote and this one does not read."""
    try:
        return EnergyTable.model_validate(config).reading_name
    except ValidationError:
        return None


def _is(text: str, unit: str) -> bool:
    """Whether a text begins with the word of a unit."""
    rest = text.casefold().removeprefix(unit.casefold())
    return rest != text.casefold() and not rest[:1].isalnum()


def _elsewhere(name: str) -> Counter | None:
    """A counter that some other kind of machine declares."""
    for kind in accelerator_kinds():
        found = accelerator_of(kind).counters_by_name.get(name)
        if found is not None:
            return found
    return None
