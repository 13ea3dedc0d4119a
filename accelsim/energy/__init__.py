"""Energy: counted activity times sourced tables."""

from accelsim.energy._evaluate import EnergyReport, evaluate
from accelsim.energy._table import Dynamic, EnergyTable, Static

__all__ = ["Dynamic", "EnergyReport", "EnergyTable", "Static", "evaluate"]
