"""accelsim: traces of real attention through simulated accelerators, to bytes, time, energy.

The calls of the command line in Python, imported on first use::

    result = accelsim.replay("traces/smollm2-64p-32d.safetensors", policy="spatten-full")
    table = accelsim.sweep("topk-parallelism").to_dataframe()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.exploration import (
        ablate,
        compare,
        diff,
        load_results,
        replay,
        search,
        sweep,
        tune,
    )
    from accelsim.reports.interactive import report
    from accelsim.traces import load_trace

__version__ = "0.2.0"
__all__ = [
    "__version__",
    "ablate",
    "compare",
    "diff",
    "load_results",
    "load_trace",
    "replay",
    "report",
    "search",
    "sweep",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'accelsim' has no attribute '{name}'")
    from importlib import import_module

    rooms = {"load_trace": "accelsim.traces", "report": "accelsim.reports.interactive"}
    return getattr(import_module(rooms.get(name, "accelsim.exploration")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
