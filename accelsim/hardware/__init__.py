"""Hardware: a workload becomes activity, in one of two engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelsim.errors import ConfigError

if TYPE_CHECKING:
    from accelsim.hardware.activity import Activity
    from accelsim.hardware.config import MemoryConfig, SpattenConfig
    from accelsim.workloads import Workload

ENGINES = ("event",)
"""Engines by name; ``event`` is the SimPy model."""


def simulate(
    workload: Workload, accelerator: SpattenConfig, memory: MemoryConfig, engine: str = "event"
) -> Activity:
    """Run a workload on an accelerator.

    Raises:
        ConfigError: no such engine.
        WorkloadError: rows that the machine refuses.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine '{engine}' (known: {', '.join(ENGINES)})")
    from accelsim.hardware.spatten.accelerator import simulate as run

    return run(workload, accelerator, memory)
