"""SpAtten as published (Wang, Zhang, Han, HPCA 2021), kind ``spatten``.

``machine.py`` wires the blocks, ``cycle`` is the same machine clock cycle by clock cycle; both
follow docs/accelerators/spatten-published.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelsim.hardware._registry import DEPENDENCIES, Accelerator
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._spatten import SPATTEN
from accelsim.hardware.machines.spatten.config import SpattenConfig, TopKConfig
from accelsim.hardware.timeline import Recorder
from accelsim.workloads import Workload

if TYPE_CHECKING:
    from accelsim.hardware.simulation import Wire


def _simulate(
    workload: Workload,
    config: SpattenConfig,
    memory: MemoryConfig,
    engine: str,
    dependencies: Any = "causal",
    recorder: Recorder | None = None,
) -> Activity:
    # Numba and SimPy are imported only when a machine runs.
    if engine == "cycle":
        from accelsim.hardware.machines.spatten.cycle import simulate as cycle

        return cycle(workload, config, memory, dependencies)
    from accelsim.hardware.machines.spatten.machine import simulate

    return simulate(workload, config, memory, dependencies, recorder)


def _wiring(config: SpattenConfig, memory: MemoryConfig) -> list[Wire]:
    from accelsim.hardware.machines.spatten.wiring import wiring

    return wiring(config, memory)


ACCELERATOR = Accelerator(
    SpattenConfig,
    _simulate,
    engines=("event", "cycle"),
    dependencies=DEPENDENCIES,
    record=_simulate,
    wiring=_wiring,
    # Accumulators work beside the softmax, and what a policy writes is counted in bytes only.
    serves=frozenset({"bits", "planes", "runs", "top_k", "metadata"}),
    counters=SPATTEN,
)
"""See :class:`accelsim.hardware.Accelerator`."""

__all__ = ["ACCELERATOR", "SpattenConfig", "TopKConfig"]
