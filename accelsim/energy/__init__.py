"""Energy: counted activity times sourced tables, with an interval; and area by module."""

from accelsim.energy._check import across_readings, check_table
from accelsim.energy._evaluate import ACCESSES, PARTS, EnergyReport, evaluate
from accelsim.energy._library import (
    READINGS,
    area_factor,
    energy_factor,
    operation_area_mm2,
    operation_leak_mw,
    operation_pj,
    sram,
)
from accelsim.energy._table import Dynamic, EnergyTable, ModuleArea, Static, Term

__all__ = [
    "ACCESSES",
    "PARTS",
    "READINGS",
    "Dynamic",
    "EnergyReport",
    "EnergyTable",
    "ModuleArea",
    "Static",
    "Term",
    "across_readings",
    "area_factor",
    "check_table",
    "energy_factor",
    "evaluate",
    "operation_area_mm2",
    "operation_leak_mw",
    "operation_pj",
    "sram",
]
