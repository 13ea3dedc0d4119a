"""Hardware: a workload becomes activity, on an accelerator and its memory."""

from accelsim.hardware._registry import (
    DEPENDENCIES,
    ENGINES,
    Accelerator,
    accelerator_kinds,
    accelerator_of,
    in_series,
    load_accelerator,
    register_accelerator,
    simulate,
)
from accelsim.hardware.counters import Counter, Size

__all__ = [
    "DEPENDENCIES",
    "ENGINES",
    "Accelerator",
    "Counter",
    "Size",
    "accelerator_kinds",
    "accelerator_of",
    "in_series",
    "load_accelerator",
    "register_accelerator",
    "simulate",
]
