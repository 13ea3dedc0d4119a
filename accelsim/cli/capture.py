"""``accelsim capture``: record a trace from a real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from accelsim.cli._options import progress_bar, remark, shows_bars
from accelsim.errors import TraceError


@click.command("capture")
@click.argument("model")
@click.option("--text", help="The prompt.")
@click.option("--text-file", metavar="FILE", help="A file with the prompt, UTF-8.")
@click.option("--image", multiple=True, metavar="FILE", help="What the model sees (repeatable).")
@click.option("--audio", metavar="FILE", help="What the model hears, WAV.")
@click.option("--prefill", type=int, help="Tokens of the prompt to use (default: all).")
@click.option("--decode", type=int, default=0, show_default=True, help="Greedy decoding steps.")
@click.option("--layers", metavar="LIST", help="Layers to record, as in 0,3-5 (default: all).")
@click.option(
    "--group",
    type=click.Choice(["encoder", "decoder", "vision", "language"]),
    help="The only stack to record, of a model that has several (default: all).",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Type of the stored numbers.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "numpy", "transformers"]),
    default="auto",
    show_default=True,
    help="What runs the model; auto: NumPy where it can.",
)
@click.option("--out", required=True, metavar="FILE", help="The trace, .safetensors.")
def command(
    model: str,
    text: str | None,
    text_file: str | None,
    image: tuple[str, ...],
    audio: str | None,
    prefill: int | None,
    decode: int,
    layers: str | None,
    group: str | None,
    dtype: str,
    backend: str,
    out: str,
) -> None:
    """Run MODEL on a text, images or sound and record its queries, keys and values.

    MODEL is smollm2 or minilm (weights from a Python package, no torch needed), a .gguf file, or a
    Hugging Face folder or id.

    \b
    Examples:
      accelsim capture smollm2 --text-file traces/texts/lighthouse.txt --prefill 64 --decode 32 \\
        --out runs/smollm2.safetensors
      accelsim capture ./my-model --text "Once upon a time" --layers 0,3-5 --out t.safetensors
      accelsim capture ./my-vlm --image cat.png --text "What is it?" --decode 8 --out t.safetensors
    """
    from accelsim.traces import check_target, save_trace
    from accelsim.traces.capture import capture

    check_target(out)
    prompt, name = _text(text, text_file, optional=bool(image or audio))
    chosen = None if layers is None else _layers(layers)
    with _bar(model) as progress:
        trace = capture(
            model,
            prompt,
            prefill=prefill,
            decode=decode,
            layers=chosen,
            backend=backend,
            text_name=name,
            images=image,
            audio=audio,
            group=group,
            progress=progress,
        )
    save_trace(trace, out, dtype)
    remark(
        f"wrote {out}: {trace.num_layers} layers, {trace.prefill_tokens} + {trace.decode_tokens} "
        "tokens"
    )


def _text(text: str | None, text_file: str | None, optional: bool) -> tuple[str, str]:
    from pathlib import Path

    from accelsim.files import read_text

    both = text is not None and text_file is not None
    if both or (text is None and text_file is None and not optional):
        raise TraceError("expected one of --text and --text-file, or --image or --audio")
    if text_file is None:
        return text or "", "given on the command line"
    return read_text(text_file, TraceError), Path(text_file).name


def _layers(text: str) -> list[int]:
    """Parse ``0,3-5``."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) < 6 for end in ends):
            raise TraceError(f"--layers '{text}': expected numbers and ranges, as in 0,3-5")
        if int(ends[0]) > int(ends[1]):
            raise TraceError(f"--layers '{text}': the range {part.strip()} is empty")
        chosen.update(range(int(ends[0]), int(ends[1]) + 1))
    return sorted(chosen)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    if not shows_bars():
        yield lambda stage, done, total: None
        return
    with progress_bar() as bar:
        task = bar.add_task(label, total=None)
        yield lambda stage, done, total: bar.update(
            task, description=f"{label}: {stage}", completed=done, total=total or None
        )
