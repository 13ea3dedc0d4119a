"""Presses inside a model: what they keep of a prompt, as the policy of the queries after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.errors import TraceError
from accelsim.policies import Policy
from accelsim.traces import save_decisions

if TYPE_CHECKING:
    from accelsim.traces.capture.presses import PressRecorder, PressSpec


def recorded_policies(
    recorder: PressRecorder,
    spec: PressSpec,
    windows: Sequence[Sequence[int]],
    prompt_tokens: int,
    folder: Path,
) -> list[Policy]:
    """Run a press over the prompt of each window, and return what replays its decisions there.

    Args:
        recorder: a model with kvpress inside.
        spec: the press.
        windows: token ids.
        prompt_tokens: first tokens of each, after which the press selects.
        folder: gets a file of decisions for each window, which the policies name.

    Raises:
        TraceError: a window without tokens after the prompt, or a press that does not run.
    """
    policies = []
    for number, ids in enumerate(windows):
        if not 0 < prompt_tokens < len(ids):
            raise TraceError(
                f"press '{spec}' selects once after the prompt; expected a prompt length of 1 to "
                f"{len(ids) - 1} for window {number} (--prompt-tokens)"
            )
        path = folder / f"window{number}.{spec.slug}.safetensors"
        save_decisions(recorder.record(spec, ids, prompt_tokens), path)
        rule = {"kind": "recorded", "decisions": str(path)}
        policies.append(Policy.model_validate({"selection": rule}))
    return policies
