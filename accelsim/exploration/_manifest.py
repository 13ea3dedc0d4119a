"""The manifest: enough to run the same thing again and to know that it was the same."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accelsim import __version__
from accelsim.configs import config_root
from accelsim.errors import redacted
from accelsim.exploration._resolve import Setup

_PACKAGES = ("numpy", "numba", "simpy")
_DATA_FAMILIES = ("baselines", "energy", "models")
"""Presets that a run reads by name, beyond the configurations that its manifest holds in full."""


def manifest(
    setup: Setup,
    source_sha256: str,
    dependencies: str | None = None,
    not_served: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Versions, hashes and the command of a run.

    Args:
        setup: what was run.
        source_sha256: contents of its source.
        dependencies: order in which it ran; that asked for if not given.
        not_served: what the policy asked for and the machine takes no time for, by name of
            :data:`accelsim.workloads.SERVICES`.
    """
    return {
        "versions": dict(versions()),
        "code_sha256": code_sha256(),
        "source": setup.source_name,
        "source_sha256": source_sha256,
        "engine": setup.engine,
        "dependencies": dependencies or setup.dependencies,
        "not_served": dict(not_served or {}),
        "energy_reading": getattr(setup.parts["energy"].config, "reading_name", None),
        "configs": {name: json.loads(part.text) for name, part in setup.parts.items()},
        "config_sha256": {name: part.sha256 for name, part in setup.parts.items()},
        "command": command_line(),
    }


def command_line() -> str:
    """The command of this process, without what is secret in it."""
    return shlex.join(redacted(word) for word in sys.argv)


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
    """SHA-256 of the package's sources, so that a store never mixes results of two models.

    The version alone would not tell two states of a checkout apart, and a list of the modules that
    decide a result would one day miss one: an edit anywhere makes stored points different points.
    """
    package = Path(__file__).parent.parent
    files = [(package, path) for path in package.rglob("*.py")]
    for family in _DATA_FAMILIES:
        for pattern in ("*.yaml", "*.npz"):
            files += [(config_root(), path) for path in (config_root() / family).rglob(pattern)]
    digest = hashlib.sha256(__version__.encode())
    for name, path in sorted((path.relative_to(root).as_posix(), path) for root, path in files):
        content = path.read_bytes()
        digest.update(f"{name}:{len(content)};".encode())
        digest.update(content)
    return digest.hexdigest()
