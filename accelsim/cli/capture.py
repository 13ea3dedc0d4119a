"""``accelsim capture``: record a trace from a real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from accelsim.cli._options import progress_bar, remark, shows_bars
from accelsim.cli._presses import parsed, press_option
from accelsim.errors import TraceError

if TYPE_CHECKING:
    from accelsim.traces import AttentionTrace, Decisions
    from accelsim.traces.capture.presses import PressSpec


@click.command("capture")
@click.argument("model")
@click.option("--text", "texts", multiple=True, help="The prompt (repeatable: see below).")
@click.option(
    "--text-file",
    "text_files",
    multiple=True,
    metavar="FILE",
    help="A file with the prompt, UTF-8 (repeatable).",
)
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
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Where the model runs, as torch names it: cpu, cuda, cuda:1, mps.",
)
@click.option(
    "--forward-dtype",
    type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
    help="Type in which the model runs (default: float64 of the NumPy models, float32 of torch).",
)
@click.option(
    "--weights-memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory for weights; layers beyond it are read from the file each time they run "
    "(default: all in memory).",
)
@click.option(
    "--hidden",
    metavar="LIST",
    help="Layers of which to record what they are given, too (the policy dart compares it).",
)
@click.option(
    "--importance",
    metavar="LAYER:T",
    help="Record score.vflowopt, too: what patches give that receive T times the mean in a layer "
    "of the vision tower (the policy vflowopt ranks by it).",
)
@press_option("whose decisions to record beside the trace")
@click.option("--out", required=True, metavar="FILE", help="The trace, .safetensors.")
def command(
    model: str,
    texts: tuple[str, ...],
    text_files: tuple[str, ...],
    image: tuple[str, ...],
    audio: str | None,
    prefill: int | None,
    decode: int,
    layers: str | None,
    group: str | None,
    dtype: str,
    backend: str,
    device: str,
    forward_dtype: str | None,
    weights_memory: float | None,
    hidden: str | None,
    importance: str | None,
    presses: tuple[str, ...],
    out: str,
) -> None:
    """Run MODEL on a text, images or sound and record its queries, keys and values.

    MODEL is smollm2 or minilm (weights from a Python package, no torch needed), a .gguf file, or a
    Hugging Face folder or id.

    Several texts are sequences of one batch, of any lengths: a trace of all of them, on which
    machines run them together, step by step.

    With --press, a file of decisions and a policy that replays them lie beside the trace, for each:
    FILE.snapkv-0.5.safetensors and FILE.snapkv-0.5.yaml.

    \b
    Examples:
      accelsim capture smollm2 --text-file traces/texts/lighthouse.txt --prefill 64 --decode 32 \\
        --out runs/smollm2.safetensors
      accelsim capture smollm2 --text-file book.txt --prefill 256 --decode 32 --press snapkv:0.5 \\
        --press 'adakv(snapkv):0.5' --out runs/t.safetensors
      accelsim capture ./my-model --text "Once upon a time" --layers 0,3-5 --out t.safetensors
      accelsim capture ./my-7b --text-file book.txt --layers 0,15,31 --forward-dtype bfloat16 \\
        --weights-memory 4 --out t.safetensors
      accelsim capture smollm2 --text-file a.txt --text-file b.txt --decode 8 --out ab.safetensors
      accelsim capture ./my-vlm --image cat.png --text "What is it?" --decode 8 --out t.safetensors
    """
    from accelsim.traces import batch_of, check_target, digest_of_file, save_trace
    from accelsim.traces.capture import Placement, capture

    check_target(out)
    placement = Placement(device, forward_dtype, weights_memory)
    if presses and placement != Placement():
        raise TraceError(
            "--press: runs the model in float32 on the CPU, whole; expected no --device, "
            "--forward-dtype or --weights-memory"
        )
    if presses and (image or audio or group):
        raise TraceError(
            "--press: decides over text alone; expected no --image, --audio or --group"
        )
    recorded = _presses(presses, out, decode, layers)
    prompts = _texts(texts, text_files, optional=bool(image or audio))
    if len(prompts) > 1 and (presses or image or audio):
        raise TraceError(
            f"{len(prompts)} texts: a batch is of texts alone; expected one beside --press, "
            "--image or --audio"
        )
    chosen = None if layers is None else _layers(layers)
    given = () if hidden is None else _layers(hidden)
    rating = None if importance is None else _importance(importance)
    sequences = []
    with _bar(model) as progress:
        for prompt, name in prompts:
            sequences.append(
                capture(
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
                    hidden=given,
                    importance=rating,
                    placement=placement,
                    progress=progress,
                )
            )
    trace = batch_of(sequences)
    found = _record(model, recorded, trace)
    save_trace(trace, out, dtype)
    for spec, decisions in found:
        _save(spec, replace(decisions, trace_sha256=digest_of_file(Path(out))), out)
    lengths = ", ".join(f"{own.prefill_tokens} + {own.decode_tokens}" for own in trace.sequences)
    remark(f"wrote {out}: {trace.num_layers} layers, {lengths} tokens")


def _beside(out: str, spec: PressSpec) -> Path:
    return Path(out).with_suffix(f".{spec.slug}.safetensors")


def _presses(texts: tuple[str, ...], out: str, decode: int, layers: str | None) -> list[PressSpec]:
    """Presses by their texts, each made once before a model is loaded."""
    if not texts:
        return []
    from accelsim.traces import check_target

    if layers is not None:
        raise TraceError("--press: decides in every layer; expected no --layers")
    if decode < 1:
        raise TraceError("--press: acts on the cache after the prompt; expected --decode 1 or more")
    specs = parsed(texts)
    for spec in specs:
        check_target(_beside(out, spec))
    return specs


def _record(
    model: str, specs: list[PressSpec], trace: AttentionTrace
) -> list[tuple[PressSpec, Decisions]]:
    """Decisions of each press over the tokens of a trace."""
    if not specs:
        return []
    from accelsim.traces.capture.presses import PressRecorder

    ids = trace.token_ids
    assert ids is not None
    with _bar(model) as progress:
        recorder = PressRecorder(model, progress)
        found = []
        for number, spec in enumerate(specs):
            progress(str(spec), number, len(specs))
            prompt = trace.prefill_tokens
            decisions = recorder.record(spec, ids.tolist(), prompt, model=trace.model)
            explain = decisions.why_not(trace)
            if explain:
                raise TraceError(f"--press '{spec}': {explain}")
            found.append((spec, decisions))
    return found


def _save(spec: PressSpec, decisions: Decisions, out: str) -> None:
    """Write decisions, and a policy that replays them, beside the trace."""
    import yaml

    from accelsim.reports import write_text
    from accelsim.traces import save_decisions

    path = _beside(out, spec)
    save_decisions(decisions, path)
    policy = {
        "description": f"{spec} of kvpress over {Path(out).name}",
        "source": decisions.source,
        "selection": {"kind": "recorded", "decisions": path.name},
    }
    write_text(path.with_suffix(".yaml"), yaml.safe_dump(policy, sort_keys=False))
    kept = f"{100 * decisions.kept_fraction():.1f} % of the prompt"
    remark(f"wrote {path}: {spec} keeps {kept}; --policy {path.with_suffix('.yaml')} replays it")


def _texts(
    texts: tuple[str, ...], text_files: tuple[str, ...], optional: bool
) -> list[tuple[str, str]]:
    """Prompts, and what each is called."""
    from accelsim.files import read_text

    if not texts and not text_files and not optional:
        raise TraceError("expected --text or --text-file, or --image or --audio")
    found = [(text, "given on the command line") for text in texts]
    found += [(read_text(name, TraceError), Path(name).name) for name in text_files]
    return found or [("", "given on the command line")]


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


def _importance(text: str) -> tuple[int, float]:
    """Parse ``25:34.76``."""
    layer, _, times = text.partition(":")
    try:
        if layer.isascii() and layer.isdigit() and len(layer) < 6:
            return int(layer), float(times)
    except ValueError:
        pass
    raise TraceError(f"--importance '{text}': expected a layer and a threshold, as in 25:34.76")


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
