"""Options that several verbs share, and the ways they print."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from accelsim.files import check_target

if TYPE_CHECKING:
    from rich.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])


def hardware_options(function: F) -> F:
    """Add the options that say which machine, in which order, beside which baselines."""
    for option in (
        click.option(
            "--baseline",
            "baselines",
            multiple=True,
            metavar="NAME",
            help="Baseline to compare with (repeatable; default: all presets but guessed ones). "
            "'measured' times attention on this machine.",
        ),
        click.option(
            "--guessed",
            is_flag=True,
            help="Compare with the platforms too whose speed is a guess.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change one field (repeatable): channels=8, memory.inflight_limit=32, "
            "policy.values.keep=0.5.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["event", "cycle"]),
            default="event",
            show_default=True,
            help="event: the SimPy model; cycle: SpAtten clock cycle by clock cycle "
            "(spatten-rtl and spatten-paper presets).",
        ),
        click.option(
            "--dependencies",
            type=click.Choice(["causal", "streamed"]),
            help="causal: a layer waits for the layer before, a token for the token before "
            "(default for traces and benchmarks); streamed: as fast as the machine takes rows "
            "(default for CSV files).",
        ),
        click.option(
            "--accelerator",
            default="spatten-paper",
            show_default=True,
            metavar="NAME|FILE",
            help="Preset (see 'accelsim presets list accelerators') or a YAML file.",
        ),
    ):
        function = option(function)
    return function


def shape_options(function: F) -> F:
    """Add the keys of a source ``shape:MODEL`` and of sampling, as ``replay`` takes them."""
    for option in (
        click.option(
            "--sample",
            default="auto",
            show_default=True,
            metavar="2%|off|auto",
            help="Part of the rows to simulate, with an interval on every total; auto: 2 % where "
            "all would take minutes.",
        ),
        click.option(
            "--seed", type=int, metavar="N", help="Of a shape: seed of what is drawn (default: 0)."
        ),
        click.option(
            "--like",
            metavar="TRACE",
            help="Of a shape: trace from which is drawn what depends on data (default: the shipped "
            "one of a decoder or an encoder).",
        ),
        click.option(
            "--batch",
            type=int,
            metavar="N",
            help="Of a shape: copies that run together (default: 1).",
        ),
        click.option(
            "--decode",
            type=int,
            metavar="TOKENS",
            help="Of a shape: tokens decoded after the context (default: 0, the prompt itself).",
        ),
        click.option(
            "--context",
            type=int,
            metavar="TOKENS",
            help="Of a shape: tokens in the cache before the first decoded one.",
        ),
    ):
        function = option(function)
    return function


def chosen_baselines(names: tuple[str, ...], guessed: bool) -> list[str] | None:
    """What to compare with; ``None`` for the default."""
    if not guessed:
        return list(names) or None
    from accelsim.baselines import default_baselines

    every = default_baselines(guessed=True)
    if not names:
        return every
    default = default_baselines()
    return list(dict.fromkeys([*names, *(name for name in every if name not in default)]))


def json_option(function: F) -> F:
    """Add ``--json FILE|-``."""
    return click.option(
        "--json",
        "json_file",
        metavar="FILE|-",
        callback=_checked,
        help="Write the result as JSON to a file, or to standard output with '-'. Checked before "
        "any work is done.",
    )(function)


def file_option(name: str, text: str) -> Callable[[F], F]:
    """Add an option for a file to write, which is checked before any work is done.

    Args:
        name: of the option, with its dashes.
        text: its line of help.
    """
    return click.option(name, metavar="FILE", callback=_checked, help=text)


def _checked(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    check_json(value)
    return value


def check_json(target: str | None) -> None:
    """Refuse a target of ``--json`` that cannot be written before any work is done."""
    if target not in (None, "-"):
        check_target(str(target))


def overrides(settings: tuple[str, ...]) -> dict[str, Any]:
    """Parse the ``--set`` values."""
    from accelsim.configs import parse_override

    return dict(parse_override(text) for text in settings)


def quiet() -> bool:
    """Whether ``--quiet`` was given: results and errors only, no notes, no progress."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("quiet"))


def remark(text: str) -> None:
    """Say something beside the result, on standard error."""
    if not quiet():
        click.echo(text, err=True)


def shows_bars() -> bool:
    """Whether standard error is a terminal that may show bars."""
    return sys.stderr.isatty() and not quiet()


_SILENCE_S = 15.0
"""Seconds without a word after which a log (no terminal) is told what is being done."""


@contextmanager
def stages(label: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done on standard error: at once on a terminal, now and then in a log."""
    if not shows_bars():
        last = time.monotonic()

        def tell(stage: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _SILENCE_S:
                last = time.monotonic()
                remark(f"{label}: {stage}")

        yield tell
        return
    from rich.text import Text

    from accelsim.reports import plain_console

    with plain_console(stderr=True).status(Text(label)) as status:
        yield lambda stage: status.update(Text(f"{label}: {stage}"))


@contextmanager
def remaining(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Say on standard error what is done and how long the rest takes; a bar on a terminal.

    Yields:
        To be told a stage, how much of it is done, and how much there is.
    """
    if not shows_bars():
        began: dict[str, tuple[float, int]] = {}
        with stages(label) as on_stage:

            def log(stage: str, done: int, total: int) -> None:
                start, before = began.setdefault(stage, (time.monotonic(), done))
                spent, more = time.monotonic() - start, done - before
                left = f", {spent / more * (total - done):.0f} s left" if more else ""
                on_stage(f"{stage} {done} of {total}{left}")

            yield log
        return
    with progress_bar(transient=True) as progress:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)

        yield tell


def progress_bar(*more: Any, transient: bool = False) -> Progress:
    """Return a bar on standard error that shows names as they are given.

    Args:
        more: columns beside what is done and how long it takes.
        transient: leave nothing of it behind.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from accelsim.reports import plain_console

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *more,
        console=plain_console(stderr=True),
        transient=transient,
    )


def emit_json(text: str, target: str) -> None:
    """Write JSON to a file, whole or not at all, or to standard output."""
    if target == "-":
        click.echo(text)
        return
    from accelsim.reports import write_text

    write_text(target, text + "\n")
