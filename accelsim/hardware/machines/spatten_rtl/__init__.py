"""SpAtten as its authors released it, kind ``spatten-rtl``.

``machine.py`` wires the blocks, ``cycle`` is the same machine clock cycle by clock cycle, exact
against the RTL; both follow docs/accelerators/spatten.md.
"""

from __future__ import annotations

from accelsim.hardware._registry import Accelerator
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._spatten import SPATTEN
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig, TopKConfig
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload


def _simulate(
    workload: Workload,
    config: SpattenRtlConfig,
    memory: MemoryConfig,
    engine: str,
    recorder: Recorder | None = None,
) -> Activity:
    # Numba and SimPy are imported only when a machine runs.
    if engine == "cycle":
        from accelsim.hardware.machines.spatten_rtl.cycle import simulate
    else:
        from accelsim.hardware.machines.spatten_rtl.machine import simulate

    return simulate(workload, config, memory, recorder)


ACCELERATOR = Accelerator(
    SpattenRtlConfig,
    _simulate,
    engines=("event", "cycle"),
    record=_simulate,
    # Vectors are rounded up, and their indexes are those of a table (sections 2.5 and 6.2).
    exact_reads=False,
    serves=frozenset({"bits", "planes", "top_k", "metadata"}),
    counters=SPATTEN,
)
"""See :class:`accelsim.hardware.Accelerator`."""

__all__ = ["ACCELERATOR", "SpattenRtlConfig", "TopKConfig"]
