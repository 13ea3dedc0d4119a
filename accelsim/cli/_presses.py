"""``--press``: rules of kvpress inside a model, for ``capture`` and ``verify --closed-loop``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from accelsim.policies import Policy
    from accelsim.traces.capture.presses import PressSpec

F = TypeVar("F", bound=Callable[..., Any])


def press_option(use: str) -> Callable[[F], F]:
    """Add ``--press``; ``use`` says what it is for."""
    return click.option(
        "--press", "presses", multiple=True, metavar="NAME[(INNER)][:RATIO][,KEY=VALUE...]",
        help=f"Press of kvpress {use} (repeatable): snapkv:0.5 removes half.",
    )  # fmt: skip


def parsed(texts: Sequence[str]) -> list[PressSpec]:
    """Presses by their texts; each is made once, so that a wrong one costs no loaded model.

    Raises:
        TraceError: no such press, or kvpress is not installed.
    """
    if not texts:
        return []
    from accelsim.traces.capture.presses import build_press, parse_press

    specs = [parse_press(text) for text in dict.fromkeys(texts)]
    for spec in specs:
        build_press(spec)
    return specs


def for_closed_loop(options: dict[str, Any], tasks: Sequence[str]) -> list[PressSpec]:
    """Presses that ``verify --closed-loop`` is asked for.

    Raises:
        AccelsimError: what they do not go with.
    """
    from accelsim.errors import AccelsimError

    presses = options["presses"]
    if presses and options["lee"] is not None:
        raise AccelsimError("--press: acts on the cache of a decoder; minilm is an encoder")
    if presses and tasks:
        raise AccelsimError("--press: is scored by perplexity; expected no --task")
    if presses and not options["prompt_tokens"]:
        raise AccelsimError("--press: acts once after the prompt; expected --prompt-tokens")
    return parsed(presses)


def recorded(
    model: str,
    specs: Sequence[PressSpec],
    windows: Sequence[Sequence[int]],
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
            yield str(spec), recorded_policies(recorder, spec, windows, prompt_tokens, place)
