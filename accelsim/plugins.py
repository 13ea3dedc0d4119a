"""Objects that other packages offer as entry points."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any


@functools.cache
def offered(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group, by name."""
    return {entry.name: entry for entry in entry_points(group=group)}


def told(entry: EntryPoint) -> str:
    """An entry point as errors name it."""
    return f"entry point '{entry.name}' of package '{entry.dist.name if entry.dist else '?'}'"


def load(entry: EntryPoint) -> Any:
    """Import what an entry point names.

    Raises:
        ValueError: it cannot be imported; names entry point and package.
    """
    try:
        return entry.load()
    except Exception as error:
        # Another package's code: whatever it raises, the user gets one line.
        message = f"{told(entry)}: {entry.value} cannot be imported ({error})"
        raise ValueError(message) from error
