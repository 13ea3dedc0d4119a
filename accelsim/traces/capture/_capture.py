"""``capture``: from the name of a model and a text to an attention trace."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.errors import TraceError, did_you_mean
from accelsim.traces.capture._inputs import Media
from accelsim.traces.capture._recorder import Progress, no_progress
from accelsim.traces.capture.packages import WEIGHT_PACKAGES, weights_of
from accelsim.traces.capture.placement import ON_CPU, Placement

if TYPE_CHECKING:
    from accelsim.traces import AttentionTrace
    from accelsim.traces.capture._run import Run

BACKENDS = ("auto", "numpy", "transformers")


def capture(
    model: str,
    text: str = "",
    *,
    prefill: int | None = None,
    decode: int = 0,
    layers: Sequence[int] | None = None,
    backend: str = "auto",
    text_name: str = "given as an argument",
    images: Sequence[str | Path] = (),
    audio: str | Path | None = None,
    group: str | None = None,
    hidden: Sequence[int] = (),
    importance: tuple[int, float] | None = None,
    placement: Placement = ON_CPU,
    progress: Progress = no_progress,
) -> AttentionTrace:
    """Run a model on a text and record its queries, keys and values.

    Args:
        model: ``smollm2``, ``minilm``, a ``.gguf`` file, or a Hugging Face folder or id.
        text: the prompt; of an encoder-decoder, what its encoder reads.
        prefill: tokens of the prompt to use, special tokens included; all if ``None``.
        decode: greedy decoding steps after the prompt, each of which adds a token.
        layers: which layers to record, which become layer 0, 1, … of the trace; all if ``None``.
        backend: ``numpy`` (float64; short names and .gguf files), ``transformers`` (torch,
            float32 unless ``placement`` says otherwise), or ``auto``: NumPy where it can.
        text_name: what the text is called in the trace's provenance.
        images: files that the model sees, before the text.
        audio: a WAV file that the model hears.
        group: the only stack to record, of a model that has several: ``encoder``, ``decoder``,
            ``vision``, ``language``; all if ``None``. An encoder or vision tower is then a trace
            like that of any encoder.
        hidden: layers, as the model numbers them, of which to record what they are given under the
            model's last norm, for rules that compare it (DART); with transformers only.
        importance: a layer of the vision tower, counted from 0, and a threshold: patches that
            receive more than so many times the mean in it rate all patches (VFlowOpt), and what
            they give is recorded as ``score.vflowopt``.
        placement: device, type and memory of the forward pass.
        progress: ``progress(stage, done, total)``, called as the model runs; total is 0 while
            weights are loaded.

    Returns:
        The trace, in memory; :func:`accelsim.traces.save_trace` writes it.

    Raises:
        TraceError: a model that is not found or not understood, a text that is too short, a layer
            that the model does not have, decoding with an encoder.
    """
    if decode < 0 or (prefill is not None and prefill < 1):
        raise TraceError(f"prefill {prefill}, decode {decode}: expected at least 1 and 0 tokens")
    media = Media(tuple(Path(path) for path in images), None if audio is None else Path(audio))
    media.check()
    placement.check()
    if not media.files and not text.strip():
        raise TraceError(f"text {text_name}: is empty")
    if backend not in BACKENDS:
        raise TraceError(f"backend '{backend}': expected {', '.join(BACKENDS)}")
    path, origin = locate(model)
    gguf = path is not None and path.suffix == ".gguf"
    own = gguf or model in WEIGHT_PACKAGES
    if hidden and own and backend != "transformers" and not placement.needs_torch:
        raise TraceError(f"{model}: what layers are given: expected --backend transformers")
    if importance is not None and not (importance[0] >= 0 and importance[1] >= 0):
        raise TraceError(f"importance {importance}: expected a layer and a threshold from 0 up")
    if importance is not None and not media.images:
        raise TraceError(f"{model}: importance of patches: expected a text and --image FILE")
    if backend == "numpy" and not own:
        raise TraceError(
            f"model '{model}': the NumPy backend runs {', '.join(WEIGHT_PACKAGES)} and .gguf files"
        )
    if backend == "numpy" and placement.needs_torch:
        raise TraceError(
            f"{model}: the NumPy models run in float64 or float32 on the CPU; expected --backend "
            f"transformers for {placement.dtype or 'float32'} on {placement.device}"
        )
    by_torch = backend == "transformers" or placement.needs_torch

    def by_transformers() -> Run:
        from accelsim.traces.capture._beside import Importance
        from accelsim.traces.capture.huggingface import run_transformers

        folder = str(path.parent if path and gguf else path or model)
        file = path.name if path and gguf else None
        rated = None if importance is None else Importance(*importance)
        return run_transformers(
            folder, text, prefill, decode, layers, progress, file, media, group, hidden, rated,
            placement,
        )  # fmt: skip

    if path is None or not own or by_torch or media.files:
        run = by_transformers()
    elif group is not None:
        raise TraceError(f"{model}: group '{group}': expected none, as this is one stack")
    elif gguf:
        from accelsim.traces.capture._numpy import run_gguf
        from accelsim.traces.capture.gguf import OtherModelError

        try:
            run = run_gguf(path, text, prefill, decode, layers, progress, placement)
        except OtherModelError:
            if backend == "numpy" or importlib.util.find_spec("transformers") is None:
                raise
            run = by_transformers()
    elif decode:
        raise TraceError(f"{model}: is an encoder, which does not decode; expected --decode 0")
    else:
        from accelsim.traces.capture._numpy import run_encoder

        run = run_encoder(path, text, prefill, layers, progress, placement)
    if model in WEIGHT_PACKAGES:
        name = WEIGHT_PACKAGES[model].model
        run = dataclasses.replace(run, model=name, weights=f"{origin}, {run.weights}")
    return run.trace(text, text_name)


def locate(model: str) -> tuple[Path | None, str]:
    """Return the file or folder of a model (``None``: an id), and where it comes from.

    Raises:
        TraceError: neither a short name, nor a file or folder, nor what an id looks like.
    """
    if model in WEIGHT_PACKAGES:
        return weights_of(model)
    path = Path(model)
    if path.is_dir():
        return path, ""
    if path.is_file():
        if path.suffix != ".gguf":
            raise TraceError(f"model {model}: expected a .gguf file or a Hugging Face folder")
        return path, ""
    hint = did_you_mean(model, WEIGHT_PACKAGES)
    # What is left may be an id on the hub: one or two words.
    words = model.split("/")
    is_path = path.suffix == ".gguf" or len(words) > 2 or not all(words) or words[0] in (".", "..")
    if is_path and path.parent.is_dir():
        hint = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    if is_path or (hint and len(words) == 1):
        raise TraceError(
            f"model '{model}': not found; expected {', '.join(WEIGHT_PACKAGES)}, a .gguf file, "
            f"or a Hugging Face folder or id{hint}"
        )
    return None, ""
