"""Hardware: a workload becomes activity, on an accelerator and its memory."""

from accelsim.hardware._registry import (
    DEPENDENCIES,
    ENGINES,
    Accelerator,
    accelerator_kinds,
    accelerator_of,
    load_accelerator,
    register_accelerator,
    simulate,
)

__all__ = [
    "DEPENDENCIES",
    "ENGINES",
    "Accelerator",
    "accelerator_kinds",
    "accelerator_of",
    "load_accelerator",
    "register_accelerator",
    "simulate",
]
