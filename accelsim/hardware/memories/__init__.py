"""Memories: a command-level banked DRAM channel, and its flat stand-in."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.hardware.memories._stream import StreamResult, read_stream
    from accelsim.hardware.memories.channel import record_requests

_HOMES = {"StreamResult": "_stream", "read_stream": "_stream", "record_requests": "channel"}
__all__ = ["StreamResult", "read_stream", "record_requests"]


def __getattr__(name: str) -> Any:
    # Numba is imported only when a memory is driven.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
