"""Capture from the NumPy models: GGUF files of the families that it knows, MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelsim.errors import TraceError
from accelsim.traces.capture._gguf_model import GgufModel
from accelsim.traces.capture._minilm import SentenceEncoder
from accelsim.traces.capture._recorder import Progress, Recorder, choose_layers, dense_attention
from accelsim.traces.capture._run import Run
from accelsim.traces.capture.packages import file_sha256
from accelsim.traces.capture.placement import Placement

# In float64 the rounding of different BLAS libraries and processors is a billion times finer than
# the steps of float16, so that the stored bits do not depend on the machine.
_DTYPE = "float64"


def run_gguf(
    path: Path,
    text: str,
    prefill: int | None,
    decode: int,
    layers: Sequence[int] | None,
    progress: Progress,
    placement: Placement,
) -> Run:
    """Record a GGUF file; arguments as for :func:`~._capture.capture`."""
    dtype = placement.dtype or _DTYPE
    model = GgufModel(path, dtype, placement.weights_bytes)
    chosen = choose_layers(layers, model.shape.num_layers, model.name)
    prompt = cut_prompt(model.encode(text), prefill, model.name)
    check_context(len(prompt) + decode, model.shape.context_tokens, model.name)
    progress("weights", 0, 0)
    decoder = model.decoder
    calls = model.shape.num_layers * (1 + decode)
    recorder = Recorder(chosen, progress, calls, len(prompt) + decode)
    token_ids = decoder.greedy(prompt, decode, recorder.around(model.dense()))
    return Run(
        model=model.name,
        weights=f"{path.name} sha256 {file_sha256(path)}",
        forward=_forward(dtype, decode),
        token_ids=token_ids,
        prefill_tokens=len(prompt),
        causal=True,
        scale=model.shape.scale,
        layers=chosen,
        model_layers=model.shape.num_layers,
        tensors=recorder.tensors,
        outputs=recorder.outputs,
        entries=model.shape.entries(len(token_ids), chosen),
    )


def run_encoder(
    folder: Path,
    text: str,
    prefill: int | None,
    layers: Sequence[int] | None,
    progress: Progress,
    placement: Placement,
) -> Run:
    """Record a BERT sentence encoder; a cut text keeps its [SEP] at the end."""
    if placement.weights_bytes is not None:
        raise TraceError(f"{folder.name}: weights memory: expected none, as all are 0.1 GB")
    dtype = placement.dtype or _DTYPE
    progress("weights", 0, 0)
    model = SentenceEncoder(folder, dtype)
    chosen = choose_layers(layers, model.shape.num_layers, model.name)
    ids = model.encode(text, max_tokens=len(text) + 2)
    if prefill is not None and len(ids) > prefill:
        ids = model.encode(text, max_tokens=prefill)
    ids = cut_prompt(ids, prefill, model.name)
    check_context(len(ids), model.shape.context_tokens, model.name)
    recorder = Recorder(chosen, progress, model.shape.num_layers, len(ids))
    model.forward(ids, recorder.around(dense_attention(model.shape.scale, causal=False)))
    weights = folder / "model.safetensors"
    return Run(
        model=model.name,
        weights=f"{weights.name} sha256 {file_sha256(weights)}",
        forward=_forward(dtype, 0),
        token_ids=ids,
        prefill_tokens=len(ids),
        causal=False,
        scale=model.shape.scale,
        layers=chosen,
        model_layers=model.shape.num_layers,
        tensors=recorder.tensors,
        outputs=recorder.outputs,
    )


def cut_prompt(ids: Sequence[int], prefill: int | None, model: str) -> list[int]:
    """Return the first ``prefill`` token ids of a prompt (all if ``None``).

    Raises:
        TraceError: the prompt is shorter.
    """
    wanted = len(ids) if prefill is None else prefill
    if len(ids) < max(wanted, 1):
        raise TraceError(
            f"{model}: the text has {len(ids)} tokens; expected at least {max(wanted, 1)} (prefill)"
        )
    return [int(i) for i in ids[:wanted]]


def check_context(tokens: int, limit: int, model: str) -> None:
    """Check that a run fits the positions that a model has.

    Raises:
        TraceError: it does not.
    """
    if tokens > limit:
        raise TraceError(
            f"{model}: {tokens} tokens; expected at most {limit} (the model's positions)"
        )


def _forward(dtype: str, decode: int) -> str:
    return f"accelsim, NumPy {dtype}" + (", greedy decoding" if decode else "")
