"""accelsim: traces of real attention through simulated accelerators, to bytes, time, energy.

The calls of the command line in Python, imported on first use::

    result = accelsim.replay("traces/smollm2-64p-32d.safetensors", policy="spatten-full")
    table = accelsim.sweep("topk-parallelism").to_dataframe()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.errors import AccelsimError
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
    from accelsim.functional import verify
    from accelsim.reports import demo
    from accelsim.reports.interactive import report
    from accelsim.reproduction import reproduce
    from accelsim.traces import layer_skew, load_trace, save_trace
    from accelsim.traces.capture import capture
    from accelsim.validation import validate

__version__ = "0.3.0"
__all__ = [
    "AccelsimError",
    "__version__",
    "ablate",
    "capture",
    "compare",
    "demo",
    "diff",
    "layer_skew",
    "load_results",
    "load_trace",
    "replay",
    "report",
    "reproduce",
    "save_trace",
    "search",
    "sweep",
    "tune",
    "validate",
    "verify",
]
_ROOMS = {
    "AccelsimError": "errors",
    "capture": "traces.capture",
    "demo": "reports",
    "layer_skew": "traces",
    "load_trace": "traces",
    "report": "reports.interactive",
    "reproduce": "reproduction",
    "save_trace": "traces",
    "validate": "validation",
    "verify": "functional",
}
"""Where a name comes from, if not from ``exploration``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'accelsim' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"accelsim.{_ROOMS.get(name, 'exploration')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
