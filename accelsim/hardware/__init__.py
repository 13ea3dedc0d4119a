"""Hardware: a workload becomes activity, on an accelerator and its memory."""

from accelsim.hardware._registry import (
    ENGINES,
    Accelerator,
    accelerator_kinds,
    accelerator_of,
    load_accelerator,
    register_accelerator,
    simulate,
)

__all__ = [
    "ENGINES",
    "Accelerator",
    "accelerator_kinds",
    "accelerator_of",
    "load_accelerator",
    "register_accelerator",
    "simulate",
]
