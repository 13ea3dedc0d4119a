"""``accelsim verify --closed-loop``: a policy inside a running model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from accelsim.cli._options import emit_json, stages

if TYPE_CHECKING:
    from accelsim.policies import Policy
    from accelsim.traces.capture.presses import PressSpec

F = TypeVar("F", bound=Callable[..., Any])


def closed_loop_options(function: F) -> F:
    """Add ``--closed-loop`` and what it takes."""
    for option in (
        click.option(
            "--prompt-tokens", default=0, show_default=True, type=click.IntRange(0),
            help="First tokens of a window that attend densely, as a prompt (SnapKV needs some).",
        ),
        click.option(
            "--skip", default=64, show_default=True, type=click.IntRange(0),
            help="First positions of a window that are not scored.",
        ),
        click.option(
            "--window-tokens", default=512, show_default=True, type=click.IntRange(2),
            help="Tokens of a window of --text.",
        ),
        click.option(
            "--windows", type=click.IntRange(1),
            help="Windows to run (default: 4 of --text, all of --tokens or of the package).",
        ),
        click.option(
            "--lee", metavar="WHEEL|DIR",
            help="Lee similarity task (minilm): a gensim wheel ('pip download --no-deps gensim') "
            "or a folder with its lee.cor and similarities0-1.txt.",
        ),
        click.option(
            "--text", "text_file", metavar="FILE",
            help="Text to score; without it two windows of Wikipedia.",
        ),
        click.option(
            "--tokens", "tokens_file", metavar="FILE",
            help='Token ids to score: JSON {"windows": {"name": [ids, ...]}}.',
        ),
        click.option(
            "--model", metavar="NAME|PATH|ID", default="smollm2", show_default=True,
            help="smollm2 or minilm from their packages, a .gguf file, or a folder or id that "
            "transformers loads.",
        ),
        click.option(
            "--press", "presses", multiple=True, metavar="NAME[(INNER)][:RATIO][,KEY=VALUE...]",
            help="Press of kvpress to run after the prompt of each window, beside the policies "
            "(repeatable; needs --prompt-tokens): snapkv:0.5 removes half.",
        ),
        click.option(
            "--closed-loop", is_flag=True, help="Run the policies inside a model, not on a trace."
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def run(
    specs: tuple[str, ...],
    presses: tuple[str, ...],
    model: str,
    text_file: str | None,
    tokens_file: str | None,
    lee: str | None,
    windows: int | None,
    window_tokens: int,
    skip: int,
    prompt_tokens: int,
    json_file: str | None,
    out: str | None,
) -> None:
    """Run every policy and print one line for each."""
    from accelsim.errors import AccelsimError
    from accelsim.policies import load_policy_spec
    from accelsim.reports import prepare_folder, write_text

    if (model == "minilm") != (lee is not None):
        raise AccelsimError(
            f"--model {model}: minilm is scored on the Lee task (--lee WHEEL), others on text"
        )
    if text_file is not None and tokens_file is not None:
        raise AccelsimError("expected one of --text and --tokens")
    if model != "smollm2" and lee is None and text_file is None and tokens_file is None:
        raise AccelsimError(
            f"--model {model}: the shipped windows hold token ids of smollm2; expected --text"
        )
    if presses and lee is not None:
        raise AccelsimError(f"--press: acts on the cache of a decoder; {model} is an encoder")
    if presses and not prompt_tokens:
        raise AccelsimError("--press: acts once after the prompt; expected --prompt-tokens")
    pressed = _parsed(presses)
    every = specs == ("all",)
    policies = {} if every else {spec: load_policy_spec(spec) for spec in dict.fromkeys(specs)}
    folder = None if out is None else prepare_folder(out)
    with stages(model) as on_stage:
        texts: list[list[int]] = []
        if lee is not None:
            score, layers = _lee(lee)
        else:
            score, layers, texts = _perplexity(
                model, text_file, tokens_file, windows, window_tokens, skip, prompt_tokens
            )
        if every:
            policies = _every(layers, causal=lee is None, prompt_tokens=prompt_tokens, skip=skip)
        results = {}
        for spec, policy in policies.items():
            results[spec] = score(
                policy, lambda done, total, s=spec: on_stage(f"{s} {done}/{total}")
            ).to_dict()
        for name, own in _recorded(model, pressed, texts, prompt_tokens, folder, on_stage):
            results[name] = score(
                own, lambda done, total, s=name: on_stage(f"{s} {done}/{total}")
            ).to_dict()
    document = {
        "schema": "accelsim.closed-loop/1",
        "mode": "closed-loop",
        "model": model,
        "text": text_file or tokens_file or ("lee" if lee else "shipped windows"),
        "skip": skip,
        "prompt_tokens": prompt_tokens,
        "results": results,
    }
    text = json.dumps(document, indent=2, allow_nan=False)
    if json_file != "-":
        _print(model, results)
    if json_file:
        emit_json(text, json_file)
    if folder is not None:
        write_text(folder / "closed-loop.json", text + "\n")
        write_text(folder / "policies.svg", _figure(model, results))


def _parsed(texts: tuple[str, ...]) -> list[PressSpec]:
    """Presses by their texts; each is made once, so that a wrong one costs no loaded model."""
    if not texts:
        return []
    from accelsim.traces.capture.presses import build_press, parse_press

    specs = [parse_press(text) for text in dict.fromkeys(texts)]
    for spec in specs:
        build_press(spec)
    return specs


def _recorded(
    model: str,
    specs: list[PressSpec],
    texts: list[list[int]],
    prompt_tokens: int,
    folder: Path | None,
    on_stage: Callable[[str], None],
) -> Iterator[tuple[str, list[Policy]]]:
    """Policies of each press, one for each window; their files stay in ``folder`` if given."""
    from tempfile import TemporaryDirectory

    from accelsim.functional.closed_loop import recorded_policies
    from accelsim.traces.capture.presses import PressRecorder

    if not specs:
        return
    recorder = PressRecorder(model)
    with TemporaryDirectory() as scratch:
        for spec in specs:
            on_stage(f"{spec} over the prompts")
            place = Path(scratch) if folder is None else folder
            yield str(spec), recorded_policies(recorder, spec, texts, prompt_tokens, place)


def _every(num_layers: int, *, causal: bool, prompt_tokens: int, skip: int) -> dict[str, Policy]:
    """The presets that can run inside the model, by name."""
    from accelsim.configs import preset_names
    from accelsim.policies import load_policy, why_closed_loop_not

    found = {name: load_policy(name) for name in preset_names("policies")}
    return {
        name: policy
        for name, policy in found.items()
        if not why_closed_loop_not(
            policy, causal=causal, prompt_tokens=prompt_tokens, skip=skip, num_layers=num_layers
        )
    }


def _figure(model: str, results: dict[str, dict[str, Any]]) -> str:
    from accelsim.reports import policy_figure

    metric = "perplexity" if "perplexity" in next(iter(results.values())) else "pearson"
    points = {name: (row["dram_bytes"], row[metric]) for name, row in results.items()}
    title = f"{Path(model).name}: accuracy against DRAM traffic"
    return policy_figure(points, f"{metric} (closed loop)", title=title, log=metric == "perplexity")


def _perplexity(
    name: str,
    text_file: str | None,
    tokens_file: str | None,
    windows: int | None,
    window_tokens: int,
    skip: int,
    prompt_tokens: int,
) -> tuple[Any, int, list[list[int]]]:
    """What scores a policy, the layers of the model, and the windows."""
    from accelsim.errors import TraceError
    from accelsim.files import read_text
    from accelsim.functional.closed_loop import (
        cut_windows,
        load_model,
        perplexity,
        read_windows,
        shipped_windows,
    )

    text = "" if text_file is None else read_text(text_file, TraceError)
    known = shipped_windows() if tokens_file is None else read_windows(tokens_file)
    model = load_model(name)
    if text_file is None:
        chosen = dict(list(known.items())[:windows])
    else:
        chosen = cut_windows(model.encode(text), windows or 4, window_tokens)
    texts = list(chosen.values())
    return (
        lambda policy, tell: perplexity(
            model, texts, policy, skip=skip, prompt_tokens=prompt_tokens, on_window=tell
        ),
        model.shape.num_layers,
        texts,
    )


def _lee(path: str) -> tuple[Any, int]:
    """What scores a policy, and the layers of the model."""
    from accelsim.functional.closed_loop import lee_score, read_lee
    from accelsim.traces.capture import load_minilm

    stories, judged = read_lee(path)
    model = load_minilm()
    return (
        lambda policy, tell: lee_score(model, stories, judged, policy, on_story=tell),
        model.shape.num_layers,
    )


def _print(model: str, results: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    from accelsim.reports import plain_console

    first = next(iter(results.values()))
    metric = "perplexity" if "perplexity" in first else "pearson"
    scope = (
        f"{first['windows']} windows, {first['tokens']} tokens"
        if metric == "perplexity"
        else f"{first['documents']} documents, {first['pairs']} pairs"
    )
    table = Table(
        title=f"{model}, closed loop, {scope}; interval: {first['interval_method']}",
        title_justify="left",
        show_edge=False,
    )
    table.add_column("policy")
    for title in (metric, "95 % interval", "keys scored", "DRAM, MB", "by window"):
        table.add_column(title, justify="right")
    for name, row in results.items():
        low, high = row["interval_95"]
        detail = " ".join(f"{x:.2f}" for x in row.get("by_window", []))
        detail = detail or f"Spearman {row['spearman']:.3f}"
        table.add_row(
            name,
            f"{row[metric]:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{100 * row['kept_key_fraction']:.1f} %",
            f"{row['dram_bytes'] / 1e6:.1f}",
            detail,
        )
    plain_console().print(table)
