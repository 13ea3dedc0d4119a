"""``accelsim search``: let Optuna find the Pareto set."""

from __future__ import annotations

import json

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
@json_option
def command(
    file: str,
    out: str | None,
    trials: int | None,
    storage: str | None,
    executor: str,
    workers: int | None,
    scheduler: str | None,
    point_timeout: float | None,
    source: str | None,
    json_file: str | None,
) -> None:
    """Search hardware and policy of FILE (YAML with 'kind: search', or a preset).

    Run again to go on; run twice at once to share the work. A 'finalists' section in FILE runs the
    best policies inside the model (closed loop) after the trials.

    \b
    Examples:
      accelsim search codesign --trials 200 --executor processes
      accelsim search my.yaml --storage postgresql://host/studies
    """
    from accelsim.exploration import search, sweep_summary

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
            on_point=on_point,
            point_timeout_s=point_timeout,
        )
    if json_file:
        emit_json(json.dumps(sweep_summary(results), indent=2, allow_nan=False), json_file)
    if json_file != "-":
        show(results)
