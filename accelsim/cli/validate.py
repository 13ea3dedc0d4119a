"""``accelsim validate``: simulated numbers beside references, and the bars they are held to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from accelsim.cli._options import emit_json, json_option, stages

if TYPE_CHECKING:
    from accelsim.validation import Report

_SUITES = ("timing", "dram", "traffic", "engines", "gpu", "functional")


@click.command("validate")
@click.argument("suite", type=click.Choice(_SUITES), metavar="SUITE")
@click.option(
    "--engine",
    type=click.Choice(["event", "cycle"]),
    default="event",
    show_default=True,
    help="Engine under test, for timing and traffic.",
)
@click.option(
    "--cases",
    metavar="FILE",
    help="Case file (timing, dram, gpu) or folder of released workloads (traffic) instead of those "
    "that accelsim ships.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="Random workloads (engines, default 40) or random heads (functional, 20).",
)
@json_option
def command(
    suite: str, engine: str, cases: str | None, count: int | None, json_file: str | None
) -> None:
    """Compare what accelsim simulates with reference numbers, case by case.

    \b
    Suites:
      timing      cycles of streams and requests against the authors' RTL
      dram        cycles of read streams against Ramulator, memory by memory
      traffic     DRAM bytes of the released workloads against the RTL's rules
      engines     event engine against cycle engine on random workloads
      gpu         latency of attention calls against kernels measured on GPUs
      functional  compiled kernels against plain references

    Ends with status 1 if a case failed or an error is over its bar, 2 for a bad case file.

    \b
    Examples:
      accelsim validate timing --engine cycle
      accelsim validate timing --cases my/cases.csv --json -
      accelsim validate engines --count 200
      accelsim validate dram --json dram.json
    """
    from accelsim.validation import validate

    with stages(f"validate {suite}") as on_stage:
        report = validate(
            suite,
            engine,
            cases,
            count,
            lambda number, total, name: on_stage(f"{number} of {total}, {name}"),
        )
    if json_file:
        emit_json(json.dumps(report.to_dict(), indent=2, allow_nan=False), json_file)
    if json_file != "-":
        if report.groups:
            _print_groups(report)
        else:
            _print_cases(report)
    _print_verdict(report, to_stderr=json_file == "-")
    if not report.passed:
        sys.exit(1)


def _print_cases(report: Report) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    engine = "" if report.engine is None else f", {report.engine} engine"
    table = Table(
        title=f"validate {report.suite}{engine} ({report.unit})",
        title_justify="left",
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("case", no_wrap=True)
    for title in ("reference", "simulated", "error %"):
        table.add_column(title, justify="right", no_wrap=True)
    group = ""
    for case in report.cases:
        if case.group != group:
            group = case.group
            table.add_section()
            table.add_row(group, style="bold")
        error = case.relative_error
        shown = "0" if error == 0 else f"{100 * error:+.3g}"
        table.add_row(case.id, _number(case.reference), _number(case.simulated), shown)
    plain_console(width=120, soft_wrap=True).print(table)


def _print_groups(report: Report) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    table = Table(
        title=f"validate {report.suite}", title_justify="left", show_edge=False, pad_edge=False
    )
    for title in ("system", "framework", "kind"):
        table.add_column(title, no_wrap=True)
    for title in ("points", "mean error %", "median ratio", "in interval %"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in report.groups:
        table.add_row(
            group["system"],
            group["framework"],
            group["kind"],
            f"{group['points']:,}",
            f"{100 * group['mape']:.1f}",
            f"{group['median_ratio']:.3f}",
            f"{100 * group['in_interval']:.0f}",
        )
    plain_console(width=120, soft_wrap=True).print(table)


def _number(value: float) -> str:
    whole = float(value).is_integer()
    return f"{int(value):,}" if whole else f"{value:,.6g}" if abs(value) < 1e3 else f"{value:,.1f}"


def _print_verdict(report: Report, to_stderr: bool) -> None:
    """Failures, mean and worst error, and each bar with what was reached."""
    for failure in report.failed:
        click.echo(f"failed: {failure.id}: {failure.message}", err=to_stderr)
    if report.cases:
        mean, worst = report.mean_abs_relative_error or 0.0, report.max_abs_relative_error or 0.0
        click.echo(
            f"{len(report.cases)} cases, {len(report.failed)} failed, mean error "
            f"{100 * mean:.3g} %, worst {100 * worst:.3g} %",
            err=to_stderr,
        )
    for tally in report.tallies:
        click.echo(
            f"{tally.exact:,} of {tally.total:,} {tally.name} exact ({tally.cases} cases)",
            err=to_stderr,
        )
    for bar in report.bars:
        verdict = "met" if bar.met else "MISSED"
        click.echo(
            f"bar {verdict}: {bar.name}: {100 * bar.value:.3g} % (at most {100 * bar.limit:.3g} %)",
            err=to_stderr,
        )
