"""``accelsim tune``: keep ratios and bit widths of each layer, chosen under a limit on the loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelsim.cli._options import (
    emit_json,
    file_option,
    json_option,
    progress_bar,
    remark,
    shows_bars,
)

if TYPE_CHECKING:
    from accelsim.exploration import TuneResult


@click.command("tune")
@click.argument("source", required=False)
@click.option(
    "--max-loss",
    required=True,
    metavar="N%",
    help="Largest loss allowed: relative output error over the trace, or with --closed-loop the "
    "increase of the perplexity over 12-bit dense.",
)
@click.option(
    "--model",
    metavar="NAME|PATH|ID",
    help="Run this model on --text instead of reading SOURCE: smollm2, minilm, a .gguf file, or a "
    "folder or id for transformers.",
)
@click.option("--text", "text_file", metavar="FILE", help="Text to calibrate on.")
@click.option(
    "--closed-loop", is_flag=True, help="Measure perplexity inside the model (needs --model)."
)
@click.option(
    "--windows",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Windows of the text for --closed-loop.",
)
@click.option(
    "--window-tokens",
    default=256,
    show_default=True,
    type=click.IntRange(2),
    help="Tokens of a window.",
)
@click.option(
    "--skip",
    default=64,
    show_default=True,
    type=click.IntRange(0),
    help="First positions of a window that are not scored.",
)
@click.option(
    "--layers-per-group",
    type=click.IntRange(1),
    help="Neighbouring layers that share settings (default: a tenth of the model).",
)
@click.option(
    "--accelerator",
    default="spatten-paper",
    show_default=True,
    metavar="NAME|FILE",
    help="Hardware on which the result is replayed.",
)
@file_option("--out", "Write the policy here, as YAML.")
@json_option
def command(
    source: str | None,
    max_loss: str,
    model: str | None,
    text_file: str | None,
    closed_loop: bool,
    windows: int,
    window_tokens: int,
    skip: int,
    layers_per_group: int | None,
    accelerator: str,
    out: str | None,
    json_file: str | None,
) -> None:
    """Find the cheapest policy for a model whose loss stays under a limit.

    Token and value keep ratios and the widths of keys and values are chosen for every layer, by
    measured sensitivity. SOURCE is an attention trace (.safetensors); with --model a trace of the
    start of --text is captured for the hardware's side. Open-loop losses are optimistic in depth.

    \b
    Examples:
      accelsim tune traces/smollm2-64p-32d.safetensors --max-loss 5% --out tuned.yaml
      accelsim tune --model smollm2 --text book.txt --closed-loop --max-loss 1% --out tuned.yaml
      accelsim verify --closed-loop --policy dense --policy tuned.yaml
    """  # fmt: skip
    import tempfile

    from accelsim.exploration import tune
    from accelsim.reports import write_text

    limit = _limit(max_loss)
    if (source is None) == (model is None):
        raise click.UsageError("expected one of SOURCE and --model")
    if (model is None) != (text_file is None) or (closed_loop and model is None):
        raise click.UsageError("expected --model and --text together (--closed-loop needs both)")
    with tempfile.TemporaryDirectory() as folder, _bar() as tell:
        loss = None
        if model is not None and text_file is not None:
            loss, source = _from_model(
                model, text_file, Path(folder), closed_loop, windows, window_tokens, skip
            )
        assert source is not None
        result = tune(
            source,
            limit,
            accelerator=accelerator,
            closed_loop=loss,
            layers_per_group=layers_per_group,
            on_progress=tell,
        )
    if json_file != "-":
        _print(result)
    if json_file:
        emit_json(json.dumps(result.to_dict(), indent=2, allow_nan=False), json_file)
    if out is not None:
        write_text(out, result.to_yaml())
        remark(f"wrote {out}")
    elif json_file != "-":
        click.echo(result.to_yaml())


def _limit(text: str) -> float:
    from accelsim.errors import AccelsimError

    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise AccelsimError(f"--max-loss {text}: expected a number, as 1% or 0.01") from None
    return value / 100 if text.endswith("%") else value


def _from_model(
    model: str,
    text_file: str,
    folder: Path,
    closed_loop: bool,
    windows: int,
    window_tokens: int,
    skip: int,
) -> tuple[Callable[[Any], float] | None, str]:
    """Loss inside the model (if wanted), and the file of a trace captured from it."""
    from accelsim.errors import AccelsimError, TraceError
    from accelsim.files import read_text
    from accelsim.functional.closed_loop import cut_windows, load_model, perplexity_increase
    from accelsim.traces import save_trace
    from accelsim.traces.capture import capture

    text = read_text(text_file, TraceError)
    loss = None
    if closed_loop:
        if model == "minilm":
            raise AccelsimError("--model minilm: is an encoder; expected a causal model")
        loaded = load_model(model)
        chosen = cut_windows(loaded.encode(text), windows, window_tokens)
        loss = perplexity_increase(loaded, list(chosen.values()), skip=skip)
    encoder = model == "minilm"
    trace = capture(
        model, text, prefill=128 if encoder else 64, decode=0 if encoder else 32,
        text_name=text_file,
    )  # fmt: skip
    path = folder / "trace.safetensors"
    save_trace(trace, path)
    return loss, str(path)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error, if that is a terminal."""

    if not shows_bars():
        yield lambda stage, done, total: None
        return
    with progress_bar(transient=True) as progress:
        task = progress.add_task("tune")
        yield lambda stage, done, total: progress.update(
            task, description=stage, completed=done, total=total
        )


def _print(result: TuneResult) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    table = Table(
        title=f"loss {100 * result.loss:.3g} % of {100 * result.max_loss:g} % allowed "
        f"({result.mode}), {result.evaluations} policies measured",
        title_justify="left",
        show_edge=False,
    )
    table.add_column("per trace")
    for title in ("12-bit dense", "tuned", "ratio"):
        table.add_column(title, justify="right")
    for title, key in (
        ("DRAM bytes read", "dram_read_bytes"),
        ("cycles", "latency_cycles"),
        ("energy, J", "energy_j"),
    ):
        before, after = result.before.metrics[key], result.after.metrics[key]
        table.add_row(title, f"{before:.4g}", f"{after:.4g}", f"{before / after:.2f}x")
    plain_console().print(table)
