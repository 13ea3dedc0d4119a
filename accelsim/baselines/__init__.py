"""Baselines: the same dense attention on GPUs and CPUs, modelled or measured."""

from accelsim.baselines._platform import (
    MEASURED,
    Platform,
    Reading,
    evaluate_baselines,
    fully_connected_s,
)
from accelsim.baselines._shape import AttentionShape, Call

__all__ = [
    "MEASURED",
    "AttentionShape",
    "Call",
    "Platform",
    "Reading",
    "evaluate_baselines",
    "fully_connected_s",
]
