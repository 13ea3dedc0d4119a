"""``accelsim report``: a result or a store as one page."""

from __future__ import annotations

import json

import click

from accelsim.cli._options import emit_json, file_option, json_option, remark, stages


@click.command("report")
@click.argument("source")
@file_option("--out", "File to write (default: report.html).")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "md", "png", "svg"]),
    help="Default: what the file's name ends with.",
)
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="NAME[:maximize]",
    help="Metric of the Pareto set of a store (repeatable; default: those of latency, energy, "
    "area and output error that vary).",
)
@json_option
def command(
    source: str,
    out: str | None,
    kind: str | None,
    objectives: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Write a report of SOURCE: one file that needs no network.

    SOURCE is the store of a sweep or search, or the JSON of 'accelsim replay' or 'accelsim
    compare'. Tables sort by a click on a heading; plots zoom, filter and tell values.

    \b
    Examples:
      accelsim report runs/sweeps/keep-bits --out front.html
      accelsim report result.json --out plots.svg
      accelsim report runs/searches/codesign --objective latency_s \\
        --objective accuracy.kept_mass:maximize
    """
    from accelsim.reports.interactive import report

    with stages("report") as on_stage:
        on_stage(source)
        path = report(source, out, kind, objectives)
    if json_file:
        document = {"schema": "accelsim.report/1", "source": source, "report": str(path)}
        emit_json(json.dumps(document, indent=2), json_file)
    remark(f"wrote {path}")
