"""SpAtten as released, kind ``spatten-rtl``; its model is in ``accelsim.hardware.spatten``."""

from __future__ import annotations

from accelsim.hardware._registry import Accelerator
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig, SpattenConfig
from accelsim.hardware.spatten.counters import SPATTEN
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload


def _simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    engine: str,
    recorder: Recorder | None = None,
) -> Activity:
    # Numba and SimPy are imported only when a machine runs.
    if engine == "cycle":
        from accelsim.hardware.spatten.cycle import simulate
    else:
        from accelsim.hardware.spatten.accelerator import simulate

    return simulate(workload, config, memory, recorder)


ACCELERATOR = Accelerator(
    SpattenConfig,
    _simulate,
    engines=("event", "cycle"),
    record=_simulate,
    # Vectors are rounded up, and their indexes are those of a table (sections 2.5 and 6.2).
    exact_reads=False,
    serves=frozenset({"bits", "planes", "top_k", "metadata"}),
    counters=SPATTEN,
)
"""See :class:`accelsim.hardware.Accelerator`."""
