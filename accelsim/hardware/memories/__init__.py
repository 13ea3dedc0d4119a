"""Memories: a command-level banked DRAM channel, and its flat stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelsim.hardware.memories._stream import StreamResult, read_stream

__all__ = ["StreamResult", "read_stream"]


def __getattr__(name: str) -> Any:
    # Numba is imported only when a memory is driven.
    if name in __all__:
        from accelsim.hardware.memories import _stream

        return getattr(_stream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
