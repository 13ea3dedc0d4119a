"""``accelsim sweep``: many points into a store."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._options import emit_json, json_option, progress_bar, remark, shows_bars

if TYPE_CHECKING:
    from accelsim.exploration import Results

_SHOWN = 12


def executor_options(function: Any) -> Any:
    """Add ``--executor``, ``--workers``, ``--scheduler`` and ``--point-timeout``."""
    for option in (
        click.option(
            "--point-timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="Give up a point that takes longer (processes, dask); the first one compiles.",
        ),
        click.option(
            "--scheduler", metavar="ADDRESS", help="Dask scheduler (default: a local cluster)."
        ),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Processes (default: one per core)."
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "processes", "dask"]),
            default="local",
            show_default=True,
            help="Where points run; the results are the same.",
        ),
    ):
        function = option(function)
    return function


@click.command("sweep")
@click.argument("file")
@click.option("--out", metavar="STORE", help="Result store (default: runs/sweeps/NAME).")
@executor_options
@click.option(
    "--source", "sources", multiple=True, metavar="FILE", help="Instead of the file's sources."
)
@click.option("--retry-failed", is_flag=True, help="Run stored failures again.")
@json_option
def command(
    file: str,
    out: str | None,
    executor: str,
    workers: int | None,
    scheduler: str | None,
    point_timeout: float | None,
    sources: tuple[str, ...],
    retry_failed: bool,
    json_file: str | None,
) -> None:
    """Run every point of a sweep FILE (YAML, or a name from 'accelsim presets list sweeps').

    A sweep that was stopped, even with SIGKILL, goes on where it was when run again with the same
    store. Failures are stored with their message and do not stop the others.

    \b
    Examples:
      accelsim sweep topk-parallelism --executor processes
      accelsim sweep my.yaml --out runs/mine --json -
      accelsim sweep sram-bandwidth --executor dask --scheduler tcp://10.0.0.1:8786
    """
    from accelsim.exploration import sweep, sweep_summary

    with progress(file) as on_point:
        results = sweep(
            file, out, executor, workers, scheduler, sources, retry_failed, on_point, point_timeout
        )
    if json_file:
        emit_json(json.dumps(sweep_summary(results), indent=2, allow_nan=False), json_file)
    if json_file != "-":
        show(results)
    if len(results.failed) == len(results.rows):
        click.echo("error: every point failed", err=True)
        sys.exit(1)


@contextmanager
def progress(label: str) -> Iterator[Callable[[dict[str, Any] | None, int, int], None]]:
    """Show done, remaining time and the Pareto set so far, on a terminal.

    Args:
        label: the sweep or search file.
    """
    if not shows_bars():
        yield lambda row, done, total: None
        return
    from rich.progress import TextColumn

    from accelsim.exploration import Front, goals

    front = Front(goals(label))
    counts = {"failed": 0}
    with progress_bar(TextColumn("{task.fields[best]}", markup=False)) as bar:
        task = bar.add_task(label, total=None, best="")

        def on_point(row: dict[str, Any] | None, done: int, total: int) -> None:
            if row is not None:
                front.add(row)
                counts["failed"] += row["status"] != "ok"
            text = front.line()
            text += f", {counts['failed']} failed" if counts["failed"] else ""
            bar.update(task, completed=done, total=total, best=text)

        yield on_point


def show(results: Results) -> None:
    """Print counts, the Pareto set and the failures."""
    from rich.cells import cell_len
    from rich.table import Table

    from accelsim.reports import plain_console

    front = results.pareto()
    names = [*results.axes, *results.goals]
    first = next(iter(results.goals), "key")
    shown = sorted(front, key=lambda r: r[first])[:_SHOWN]
    cells = [[_cell(row.get(name)) for name in names] for row in shown]
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    # As wide as its names: a terminal may break lines, but nothing is cut.
    widths = (max(map(cell_len, column)) for column in zip(names, *cells, strict=True))
    console = plain_console(width=max(20, sum(widths) + 3 * len(names)), soft_wrap=True)
    infeasible = len(results.rows) - len(results.failed) - len(results.usable)
    click.echo(
        f"{len(results.rows)} points in {results.store}: {len(results.failed)} failed, "
        f"{infeasible} infeasible, {results.excluded} excluded by constraints; "
        f"{len(front)} in the Pareto set"
    )
    console.print(table)
    for note in results.notes:
        remark(f"note: {note}")
    for row in front:
        if "finalist.perplexity" in row:
            click.echo(
                f"finalist {row['key'][:8]}: perplexity {row['finalist.perplexity']:.3f} "
                f"({row['finalist.perplexity_low']:.3f} to {row['finalist.perplexity_high']:.3f}), "
                "closed loop"
            )
    if len(front) > _SHOWN:
        rest = shlex.join(["accelsim", "report", str(results.store)])
        click.echo(f"… and {len(front) - _SHOWN} more: {rest}")
    for row in results.failed[:3]:
        click.echo(f"failed: {row['error']}", err=True)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
