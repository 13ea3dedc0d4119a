"""The command line: one thin file per verb, loaded when the verb is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from typing import Any

import click

from accelsim import __version__
from accelsim.errors import AccelsimError, did_you_mean, shorten

VERBS: dict[str, str] = {
    "demo": "The first visit: what a tuned policy buys on a real trace, and what it loses.",
    "replay": "Run one source through one accelerator under one policy.",
    "compare": "Several policies side by side, with an HTML report.",
    "verify": "Error of the fixed-point datapath, per layer and head.",
    "sweep": "Many points, hardware and policy, into a store that resumes.",
    "search": "Multi-objective search over hardware and policy, with Optuna.",
    "ablate": "What each field that differs between two accelerators is worth.",
    "tune": "Keep ratios and bit widths of each layer under a limit on the loss.",
    "report": "A result or a store as one page: tables, interactive plots, sources.",
    "diff": "What changed between two results: configuration, versions, numbers.",
    "inspect": "What is in a trace: shape, provenance, skew of attention.",
    "capture": "Record queries, keys and values from a real model.",
    "validate": "Simulated numbers beside references: RTL, Ramulator, bytes, engines, kernels.",
    "reproduce": "Figures and tables of SpAtten's evaluation, ours beside theirs.",
    "presets": "List and show the configurations, with the source of each number.",
    "doctor": "Check this installation: versions, extras, kernel cache, cores.",
}
"""Verb to one line of help, so that ``accelsim --help`` loads none of them."""

_COMPLETES = "_ACCELSIM_COMPLETE"
"""Set by a shell that asks what a word may become."""

ALIASES = {
    "list": ["presets", "list"],
    "show": ["presets", "show"],
    "version": ["--version"],
    "help": ["--help"],
}
"""What people try first, and what it stands for."""


class _LazyGroup(click.Group):
    """A group that imports the module of a verb only when that verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"accelsim.cli.{cmd_name}").command
        if _COMPLETES in os.environ:
            from accelsim.cli._completion import complete_names

            complete_names(cmd_name, command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # ``--quiet`` may stand behind the verb, too.
        if "--quiet" in args:
            args = ["--quiet", *(word for word in args if word != "--quiet")]
            return self._parse_verb(ctx, args[:1], args[1:])
        return self._parse_verb(ctx, [], args)

    def _parse_verb(self, ctx: click.Context, before: list[str], args: list[str]) -> list[str]:
        if args and args[0] in ALIASES:
            of_verb = args[0] == "help" and args[1:2] and args[1] in VERBS
            args = [args[1], "--help"] if of_verb else [*ALIASES[args[0]], *args[1:]]
        return super().parse_args(ctx, before + args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"unknown verb '{args[0]}'{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "-V", "--version", prog_name="accelsim")
@click.option("--quiet", is_flag=True, help="Results and errors only: no notes, no progress.")
def cli(quiet: bool) -> None:
    """Simulate attention accelerators on traces of real models.

    Start with:  accelsim demo
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; bad input ends with one line on standard error and status 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: what is printed is not wanted
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A terminal's encoding may lack our arrows and lines, and a file name may be in none.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _run(arguments)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.NoSuchOption as error:
        _refuse(f"unknown option '{error.option_name}'{_nearest_option(error)}")
    except click.MissingParameter as error:
        usage = "" if error.ctx is None else f" {error.ctx.get_usage()}"
        path = "accelsim" if error.ctx is None else error.ctx.command_path
        _refuse(f"{error.format_message()}{usage} (see '{path} --help')")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _refuse(error.format_message())
    except AccelsimError as error:
        _refuse(str(error))
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) left: nothing more to say, and nothing went wrong.
        _drop_output()
        sys.exit(0)
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        _drop_output()
        _refuse(f"output cannot be written ({error.strerror})")


_CHOSEN_WITH_SET = ("memory", "energy")
"""What an accelerator's YAML names, and no option does."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""How a write fails on a file system that is full or broken."""


def _run(arguments: list[str] | None) -> None:
    """Run a verb.

    Click's own ``main`` takes any end of a file (a truncated cache) for Ctrl-C, and gives status 1
    when a reader leaves; it is used for what it alone knows, the completion of a shell.
    """
    if _COMPLETES in os.environ:
        cli.main(args=arguments, prog_name="accelsim")
    words = sys.argv[1:] if arguments is None else list(arguments)
    with cli.make_context("accelsim", words) as context:
        cli.invoke(context)


def _drop_output() -> None:
    """Let nothing of what is still buffered be written, or complained about, at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _refuse(message: str) -> None:
    """End with one line on standard error: messages of libraries may span several."""
    click.echo(f"error: {shorten(message)}", err=True)
    sys.exit(2)


def _nearest_option(error: click.NoSuchOption) -> str:
    known = [] if error.ctx is None else error.ctx.command.get_params(error.ctx)
    names = [name for option in known for name in option.opts if name.startswith("--")]
    key = error.option_name.removeprefix("--")
    if key in _CHOSEN_WITH_SET and "--set" in names:
        return f"; an accelerator names its own, and --set {key}=NAME another"
    return did_you_mean(error.option_name, names, "--")
