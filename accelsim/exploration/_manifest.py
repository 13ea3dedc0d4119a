"""The manifest: enough to run the same thing again and to know that it was the same."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accelsim import __version__
from accelsim.exploration._setup import Setup

_PACKAGES = ("numpy", "numba", "simpy")
_MODEL_ROOMS = (
    "traces",
    "policies",
    "workloads",
    "functional",
    "hardware",
    "energy",
    "baselines",
    "exploration/_replay.py",
)
"""What decides a result; an edit here makes stored points of an earlier edit different points."""


def manifest(setup: Setup, source_sha256: str) -> dict[str, Any]:
    """Versions, hashes and the command of a run."""
    return {
        "versions": dict(versions()),
        "code_sha256": code_sha256(),
        "source": str(setup.source),
        "source_sha256": source_sha256,
        "engine": setup.engine,
        "configs": {name: json.loads(part.text) for name, part in setup.parts.items()},
        "config_sha256": {name: part.sha256 for name, part in setup.parts.items()},
        "command": " ".join(sys.argv),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of accelsim, Python and the packages that numbers depend on."""
    found = {"accelsim": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - they are required dependencies
            continue
    return found


@functools.cache
def code_sha256() -> str:
    """SHA-256 of the modelling code, so that a store never mixes results of two models.

    The version alone would not tell two states of a checkout apart.
    """
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(__version__.encode())
    for room in _MODEL_ROOMS:
        place = root / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
