"""``accelsim search``: let Optuna find the Pareto set."""

from __future__ import annotations

import importlib
import json
from typing import Any

import click

from accelsim.cli._options import emit_json, json_option
from accelsim.cli.sweep import executor_options, progress, show


@click.command("search")
@click.argument("file")
@click.option("--out", metavar="STORE", help="Result store (default: runs/searches/NAME).")
@click.option("--trials", type=click.IntRange(min=1), help="Instead of the file's number.")
@click.option("--storage", metavar="URL", help="Database of the study (default: SQLite in STORE).")
@executor_options
@click.option("--source", metavar="FILE", help="Instead of the file's source.")
@click.option(
    "--finalist",
    metavar="MODULE:FUNCTION",
    help="Python function of (trace path, policy JSON) that gives the finalists' figures of higher "
    "fidelity, such as closed-loop accuracy.",
)
@json_option
def command(
    file: str,
    out: str | None,
    trials: int | None,
    storage: str | None,
    executor: str,
    workers: int | None,
    scheduler: str | None,
    source: str | None,
    finalist: str | None,
    json_file: str | None,
) -> None:
    """Search hardware and policy of FILE (YAML with 'kind: search', or a preset).

    Run again to go on; run twice at once to share the work.

    \b
    Examples:
      accelsim search codesign --trials 200 --executor processes
      accelsim search my.yaml --storage postgresql://host/studies
    """
    from accelsim.exploration import search, sweep_summary

    function = None if finalist is None else _import(finalist)
    with progress(file) as on_point:
        results = search(
            file,
            out,
            trials,
            storage,
            executor,
            workers,
            scheduler,
            source,
            function,
            on_point,
        )
    if json_file:
        emit_json(json.dumps(sweep_summary(results), indent=2, allow_nan=False), json_file)
    if json_file != "-":
        show(results)


def _import(path: str) -> Any:
    from accelsim.errors import AccelsimError

    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AccelsimError(f"--finalist {path}: cannot be imported ({error})") from None
