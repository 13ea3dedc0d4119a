"""``accelsim reproduce``: the figures of SpAtten's evaluation, ours beside theirs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from accelsim.cli._options import emit_json, json_option, progress_bar, remark, shows_bars

if TYPE_CHECKING:
    from rich.table import Table

    from accelsim.reproduction import Row

_WIDTH = 190
"""Columns of a table that does not go to a terminal."""


@click.command("reproduce")
@click.option("--only", multiple=True, metavar="NAME", help="One figure (repeatable); default all.")
@click.option("--workers", type=click.IntRange(1), help="Processes (default: one a core).")
@json_option
@click.option(
    "--out", metavar="DIR", help="Also write output.txt, reproduction.json, NAME.svg and NAME.png."
)
def command(
    only: tuple[str, ...], workers: int | None, json_file: str | None, out: str | None
) -> None:
    """Simulate SpAtten's evaluation and print each number beside the published one.

    Figures: speedup, reductions, ladder, design-space, roofline, power-area, table3, rivals, e2e,
    table4. No constant is fitted to any of them.

    \b
    Examples:
      accelsim reproduce --out runs/reproduction
      accelsim reproduce --only ladder --json -
    """
    from accelsim.reports import plain_console, prepare_folder, write_text
    from accelsim.reproduction import choose, draw, reproduce, to_dict

    choose(only)
    folder = None if out is None else prepare_folder(out)
    with _progress() as (on_total, on_done):
        results = reproduce(only, workers, on_total, on_done)
    text = json.dumps(to_dict(results), indent=2, allow_nan=False)
    if json_file != "-":
        for name, rows in results.items():
            plain_console(width=None if sys.stdout.isatty() else _WIDTH).print(
                _table(name, rows), ""
            )
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        write_text(folder / "reproduction.json", text + "\n")
        write_text(folder / "output.txt", _as_text(results))
        draw(results, folder)
        remark(f"wrote output.txt, reproduction.json and the plots to {folder}")


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """A bar on standard error, if that is a terminal."""
    if not shows_bars():
        yield lambda total: None, lambda: None
        return
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=None)
        yield (lambda total: bar.update(task, total=total)), (lambda: bar.advance(task))


def _as_text(results: dict[str, list[Row]]) -> str:
    """All tables, without the blanks that a terminal's width leaves at the end of lines."""
    from accelsim.reports import plain_console

    text = io.StringIO()
    console = plain_console(width=_WIDTH, file=text, color_system=None)
    for name, rows in results.items():
        console.print(_table(name, rows), "")
    lines = text.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _table(name: str, rows: list[Row]) -> Table:
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
    return table
