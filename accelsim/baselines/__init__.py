"""Baselines: the same dense attention on GPUs and CPUs, measured or modelled."""

from accelsim.baselines._kernels import Calls, Device, Kernel
from accelsim.baselines._platform import (
    MEASURED,
    Platform,
    Reading,
    default_baselines,
    evaluate_baselines,
    fully_connected_s,
    kernels_of,
)
from accelsim.baselines._shape import AttentionShape, Call

__all__ = [
    "MEASURED",
    "AttentionShape",
    "Call",
    "Calls",
    "Device",
    "Kernel",
    "Platform",
    "Reading",
    "default_baselines",
    "evaluate_baselines",
    "fully_connected_s",
    "kernels_of",
]
