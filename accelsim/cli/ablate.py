"""``accelsim ablate``: what each field that differs between two accelerators is worth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._options import check_json, emit_json, json_option, overrides, stages

if TYPE_CHECKING:
    from accelsim.exploration import Ablation, AblationPoint


@click.command("ablate")
@click.argument("before", metavar="FROM")
@click.argument("after", metavar="TO")
@click.argument("source")
@click.option(
    "--policy",
    metavar="NAME|FILE[:KEY=VALUE,...]",
    help="Pruning and quantization policy of a trace (dense).",
)
@click.option(
    "--engine",
    type=click.Choice(["event", "cycle"]),
    default="event",
    show_default=True,
    help="cycle: clock cycle by clock cycle (spatten-rtl and spatten-paper presets).",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one field of every point (repeatable).",
)
@click.option(
    "--order",
    metavar="KEY,KEY…",
    default="",
    help="Fields that come first in the cumulative series (default: order of the schema).",
)
@json_option
@click.option("--plot", metavar="FILE", help="Draw it, as .svg or .png.")
def command(
    before: str,
    after: str,
    source: str,
    policy: str | None,
    engine: str,
    settings: tuple[str, ...],
    order: str,
    json_file: str | None,
    plot: str | None,
) -> None:
    """Toggle every field that differs between accelerators FROM and TO, on SOURCE.

    Each field is taken over alone, together with all fields before it, and taken back from TO.
    FROM and TO are presets or YAML files of one kind; what differs is found by comparing them. A
    combination that the hardware refuses is shown with the reason.

    \b
    Examples:
      accelsim ablate spatten-paper-serial spatten-paper gpt2-small-wikitext2
      accelsim ablate spatten-rtl my-rtl.yaml traces/spatten-gpt2/small.csv --plot ablation.svg
      accelsim ablate spatten-paper-serial spatten-paper gpt2-small-wikitext2 \\
        --order key_prefetch_depth,memory --json -
    """
    from accelsim.exploration import ablate
    from accelsim.reports import ablation_figure, check_picture, write_picture

    if plot is not None:
        check_picture(plot)
        check_json(plot)
    keys = [key.strip() for key in order.split(",") if key.strip()]
    with stages("ablate") as on_stage:
        result = ablate(before, after, source, policy, engine, overrides(settings), keys, on_stage)
    if json_file:
        emit_json(json.dumps(result.to_dict(), indent=2, allow_nan=False), json_file)
    if json_file != "-":
        _show(result)
    if result.note:
        click.echo(f"note: {result.note}", err=True)
    if plot is not None:
        write_picture(plot, ablation_figure(result))
        click.echo(f"wrote {plot}", err=True)


def _show(result: Ablation) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    base = result.base
    click.echo(
        f"{result.before} → {result.after}: {len(result.fields)} fields differ; "
        f"{result.before} takes {base.latency_cycles:,} cycles ({1e6 * (base.latency_s or 0):,.4g} "
        "µs)"
    )
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("field", no_wrap=True)
    table.add_column(f"{result.before} → {result.after}", no_wrap=True)
    for title in ("alone", "cumulative", "all but this"):
        table.add_column(f"{title}\ncycles", justify="right", no_wrap=True)
        table.add_column("speedup", justify="right", no_wrap=True)
    reasons: dict[str, int] = {}
    for i, difference in enumerate(result.fields):
        cells: list[str] = []
        for point in (result.alone[i], result.cumulative[i], result.without[i]):
            cells += _cells(point, reasons)
        change = f"{_text(difference.before)} → {_text(difference.after)}"
        table.add_row(difference.key, change, *cells)
    plain_console(width=150, soft_wrap=True).print(table)
    for reason, number in reasons.items():
        click.echo(f"refused [{number}]: {reason}")


def _cells(point: AblationPoint, reasons: dict[str, int]) -> list[str]:
    """Cycles and speedup; a refused point names its reason by a number."""
    if point.refused is not None:
        number = reasons.setdefault(point.refused, len(reasons) + 1)
        return [f"refused [{number}]", ""]
    return [f"{point.latency_cycles:,}", f"{point.speedup:.3f}x"]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
