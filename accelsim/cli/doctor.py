"""``accelsim doctor``: what a report of a fault should start with, and which extras are missing."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._options import emit_json, json_option

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_DEVELOPERS = ("dev",)
"""Extras that users of a released version have no need of."""


@dataclass(frozen=True)
class _Package:
    """One requirement, beside what is installed.

    Attributes:
        name: of the distribution.
        required: versions that serve (``>=2.0``).
        installed: version found, or ``None``.
        serves: whether ``installed`` is one of ``required``.
    """

    name: str
    required: str
    installed: str | None
    serves: bool


@click.command("doctor")
@json_option
def command(json_file: str | None) -> None:
    """Check this installation: versions, extras, kernel cache, cores.

    Exits with status 1 if a package that every verb needs is missing or too old. Missing extras are
    named with the command that installs them, and are no fault.

    \b
    Examples:
      accelsim doctor
      accelsim doctor --json doctor.json
    """
    import json

    base, extras = _requirements()
    facts = _facts()
    faults = [package for package in base if not package.serves]
    if json_file:
        document = {
            "schema": "accelsim.doctor/1",
            **facts,
            "packages": [vars(package) for package in base],
            "extras": {name: [vars(p) for p in packages] for name, packages in extras.items()},
        }
        emit_json(json.dumps(document, indent=2), json_file)
    if json_file != "-":
        for line in _lines(facts, base, extras):
            click.echo(line)
    if faults:
        click.echo(f"error: {_install(faults)}", err=True)
        raise click.exceptions.Exit(1)


def _facts() -> dict[str, Any]:
    from accelsim import __version__, jit
    from accelsim.configs import config_root
    from accelsim.exploration.executors import available_cores

    kernels = jit.cache_root()
    return {
        "accelsim": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": available_cores(),
        "presets": str(config_root()),
        "kernel_cache": None if kernels is None else str(kernels),
        "kernels_kept": 0 if kernels is None else len(list(kernels.glob("**/*.nbc"))),
    }


def _requirements() -> tuple[list[_Package], dict[str, list[_Package]]]:
    """What the installed distribution asks for: always, and by extra."""
    from packaging.requirements import Requirement

    base: list[_Package] = []
    extras: dict[str, list[_Package]] = {}
    try:
        texts = requires("accelsim") or []
    except PackageNotFoundError:
        return base, extras
    for text in texts:
        requirement = Requirement(text)
        extra = _extra_of(requirement)
        if extra is None:
            base.append(_found(requirement))
        elif extra not in _DEVELOPERS:
            extras.setdefault(extra, []).append(_found(requirement))
    return base, extras


def _extra_of(requirement: Requirement) -> str | None:
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    return str(requirement.marker).partition("extra ==")[2].strip(" \"'") or None


def _found(requirement: Requirement) -> _Package:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        installed = None
    serves = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return _Package(requirement.name, str(requirement.specifier), installed, serves)


def _lines(
    facts: dict[str, Any], base: list[_Package], extras: dict[str, list[_Package]]
) -> Iterator[str]:
    yield f"accelsim {facts['accelsim']}, Python {facts['python']}, {facts['platform']}"
    yield f"cores: {facts['cores']}"
    yield f"presets: {facts['presets']}"
    if facts["kernel_cache"] is None:
        yield "compiled kernels: no folder can be written; compiled each time"
    else:
        yield f"compiled kernels: {facts['kernels_kept']} in {facts['kernel_cache']}"
    if not base:
        yield "packages: accelsim is not installed as a distribution; versions are not checked"
    else:
        yield f"packages: {', '.join(_shown(package) for package in base)}"
    for name, packages in extras.items():
        missing = [package for package in packages if not package.serves]
        if missing:
            yield f"extra '{name}': {_install(missing)}"
        else:
            yield f"extra '{name}': {', '.join(_shown(package) for package in packages)}"


def _shown(package: _Package) -> str:
    if package.serves:
        return f"{package.name} {package.installed}"
    return f"{package.name} {package.installed or 'missing'} (expected {package.required})"


def _install(missing: list[_Package]) -> str:
    """What is missing, and the command that brings it."""
    words = " ".join(shlex.quote(f"{package.name}{package.required}") for package in missing)
    names = ", ".join(
        f"{package.name} {'missing' if package.installed is None else 'is ' + package.installed}"
        for package in missing
    )
    return f"{names}; install with: pip install {words}"
