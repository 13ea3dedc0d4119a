"""``accelsim compare``: several policies on one source, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from accelsim.cli._options import emit_json, hardware_options, json_option, overrides, stages


@click.command("compare")
@click.argument("source")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME|FILE",
    default=("dense", "spatten-pruned", "spatten-full"),
    show_default=True,
    help="Policy to run (repeatable); the first is what the others are compared with.",
)
@hardware_options
@json_option
@click.option("--out", metavar="DIR", help="Also write report.html and compare.json there.")
def command(
    source: str,
    policies: tuple[str, ...],
    accelerator: str,
    engine: str,
    settings: tuple[str, ...],
    baselines: tuple[str, ...],
    json_file: str | None,
    out: str | None,
) -> None:
    """Run a trace under several policies and print them side by side.

    \b
    Examples:
      accelsim compare traces/smollm2-64p-32d.safetensors --out runs/demo
      accelsim compare traces/minilm-128.safetensors --policy dense --policy static-8
    """
    from accelsim.exploration import replay
    from accelsim.reports import prepare_folder, render, to_text, write_text

    folder = None if out is None else prepare_folder(out)
    results = {}
    for policy in dict.fromkeys(policies):
        with stages(policy) as on_stage:
            results[policy] = replay(
                source,
                accelerator,
                policy,
                engine,
                overrides(settings),
                list(baselines) or None,
                on_stage,
            )
    text = json.dumps(
        {
            "schema": "accelsim.compare/1",
            "results": {name: result.to_dict() for name, result in results.items()},
        },
        indent=2,
        allow_nan=False,
    )
    if json_file != "-":
        to_text(results)
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        write_text(folder / "compare.json", text + "\n")
        title = f"accelsim: {Path(source).stem} on {accelerator}"
        write_text(folder / "report.html", render(results, title))
        click.echo(f"wrote {folder / 'report.html'} and {folder / 'compare.json'}", err=True)
