"""What a shell completes: names of presets, benchmarks and traces, and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:  # at run time older versions of click take no parameter here
    _Text = click.ParamType

_SOURCES = ("traces", "benchmarks")
_FAMILIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("report", "source"): (),
    ("inspect", "file"): ("traces",),
    ("compare", "source"): ("traces",),
    ("verify", "source"): ("traces",),
    ("tune", "source"): ("traces",),
    ("compare", "family"): (),
}
"""Verb and parameter to the families whose names it takes, where the parameter alone says less."""
_BY_PARAMETER: dict[str, tuple[str, ...]] = {
    "source": _SOURCES,
    "sources": _SOURCES,
    "policy": ("policies",),
    "policies": ("policies",),
    "accelerator": ("accelerators",),
    "before": ("accelerators",),
    "after": ("accelerators",),
    "baselines": ("baselines",),
    "file": ("sweeps",),
}


class _Named(_Text):
    """A text that may be the name of a preset, or a file."""

    name = "text"

    def __init__(self, families: tuple[str, ...]) -> None:
        self.families = families

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from accelsim.cli.presets import names

        found = [
            CompletionItem(name, help=family.removesuffix("s"))
            for family in self.families
            for name in names(family)
            if name.startswith(incomplete)
        ]
        return [*found, CompletionItem(incomplete, type="file")]


class _Shown(_Named):
    """A name of any family, or the name of a family."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from accelsim.cli.presets import families, names

        every = families()
        known = every if param.name == "family" else [n for each in every for n in names(each)]
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


def complete_names(verb: str, command: click.Command) -> None:
    """Let the parameters of a verb complete names; called only where a shell asks."""
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    for each in (command, *subcommands.values()):
        for parameter in each.params:
            name = parameter.name or ""
            found = _FAMILIES.get((verb, name), _BY_PARAMETER.get(name))
            if verb == "presets" and name in ("name", "family"):
                parameter.type = _Shown(())
            elif found is not None:
                parameter.type = _Named(found)
