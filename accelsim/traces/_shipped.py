"""Traces that come with accelsim, by name."""

from __future__ import annotations

from pathlib import Path

from accelsim.files import shipped


def trace_names() -> list[str]:
    """Names of the traces that come with accelsim, sorted."""
    return sorted(path.stem for path in shipped("traces").glob("*.safetensors"))


def trace_path(name: str) -> Path:
    """File of a trace that comes with accelsim; it exists if ``name`` is in :func:`trace_names`."""
    return shipped(f"traces/{name}.safetensors")
