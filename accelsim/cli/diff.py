"""``accelsim diff``: what changed between two results."""

from __future__ import annotations

import json
from typing import Any

import click

from accelsim.cli._options import emit_json, json_option


@click.command("diff")
@click.argument("a")
@click.argument("b")
@json_option
def command(a: str, b: str, json_file: str | None) -> None:
    """Say what differs between results A and B: configuration, versions, numbers.

    A and B are JSON files of 'accelsim replay --json', or points of a store as STORE@KEY, where
    the first letters of the key suffice.

    \b
    Examples:
      accelsim diff dense.json pruned.json
      accelsim diff runs/sweeps/memories@3f2a runs/sweeps/memories@91bc --json -
    """
    from accelsim.exploration import diff

    document = diff(a, b)
    if json_file:
        emit_json(json.dumps(document, indent=2, allow_nan=False), json_file)
    if json_file == "-":
        return
    for section in ("configuration", "versions", "numbers"):
        changes = document[section]
        click.echo(click.style(f"{section}: {len(changes) or 'nothing'} changed", bold=True))
        for key, change in changes.items():
            ratio = f"  ({change['ratio']:.4g}×)" if "ratio" in change else ""
            click.echo(f"  {key}: {_text(change['a'])} → {_text(change['b'])}{ratio}")
    for note in document["notes"]:
        click.echo(f"note: {note}", err=True)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
