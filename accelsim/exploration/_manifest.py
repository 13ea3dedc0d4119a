"""The manifest: enough to run the same thing again and to know that it was the same."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accelsim import __version__
from accelsim.configs import Config

_PACKAGES = ("numpy", "numba", "simpy")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def config_sha256(config: Config) -> str:
    """SHA-256 of a resolved configuration, independent of the order of its keys."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest(source: Path, configs: dict[str, Config], engine: str) -> dict[str, Any]:
    """Versions, hashes and the command of a run."""
    versions = {"accelsim": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - they are required dependencies
            continue
    return {
        "versions": versions,
        "source": str(source),
        "source_sha256": file_sha256(source),
        "engine": engine,
        "configs": {name: config.model_dump(mode="json") for name, config in configs.items()},
        "config_sha256": {name: config_sha256(config) for name, config in configs.items()},
        "command": " ".join(sys.argv),
    }
