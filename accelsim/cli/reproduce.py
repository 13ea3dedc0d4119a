"""``accelsim reproduce``: the figures of SpAtten's evaluation, ours beside theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from accelsim.cli._options import emit_json, json_option

if TYPE_CHECKING:
    from accelsim.reproduction import Row


@click.command("reproduce")
@click.option("--only", multiple=True, metavar="NAME", help="One figure (repeatable); default all.")
@click.option("--workers", type=click.IntRange(1), help="Processes (default: one a core).")
@json_option
@click.option("--out", metavar="DIR", help="Also write reproduction.json, NAME.svg and NAME.png.")
def command(
    only: tuple[str, ...], workers: int | None, json_file: str | None, out: str | None
) -> None:
    """Simulate SpAtten's evaluation and print each number beside the published one.

    Figures: speedup, reductions, ladder, design-space, roofline, power-area, table3, table4. No
    constant is fitted to any of them.

    \b
    Examples:
      accelsim reproduce --out runs/reproduction
      accelsim reproduce --only ladder --json -
    """
    from accelsim.reports import prepare_folder, write_text
    from accelsim.reproduction import choose, draw, reproduce, to_dict

    choose(only)
    folder = None if out is None else prepare_folder(out)
    with _progress() as (on_total, on_done):
        results = reproduce(only, workers, on_total, on_done)
    text = json.dumps(to_dict(results), indent=2, allow_nan=False)
    if json_file != "-":
        for name, rows in results.items():
            _print(name, rows)
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        write_text(folder / "reproduction.json", text + "\n")
        draw(results, folder)
        click.echo(f"wrote reproduction.json and the plots to {folder}", err=True)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """A bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda total: None, lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("simulating", total=None)
        yield (lambda total: bar.update(task, total=total)), (lambda: bar.advance(task))


def _print(name: str, rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    from accelsim.reproduction import FIGURES

    figure = FIGURES[name]
    title = f"{name}: {figure.title} ({figure.source})"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in ("", "ours", "published", "ratio", "why"):
        table.add_column(column, justify="left" if column in ("", "why") else "right")
    for row in rows:
        theirs = "–" if row.theirs is None else f"{row.theirs:.4g}"
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.label, f"{row.ours:.4g} {row.unit}", theirs, ratio, row.why)
    Console(width=None if sys.stdout.isatty() else 190).print(table, "")
