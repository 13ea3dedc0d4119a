"""What a run of a model leaves behind, whichever library ran it, and the trace made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import (
    AttentionTrace,
    LayerEntry,
    MemoryTensors,
    dense_rows,
    tokens_sha256,
)

TOLERANCE = 1e-4
"""Largest relative error of a trace that is written. Right ones are at 1e-7 (float32) to 4e-6."""

_TEXT_CHARACTERS = 200
_ROWS = 1024


@dataclass(frozen=True)
class Run:
    """One recorded run.

    Attributes:
        model: name of the model.
        weights: one line on where the weights come from.
        forward: one line on what computed the forward pass.
        token_ids: prompt, then the tokens that were decoded; none of a model without a text.
        prefill_tokens: tokens of the prompt.
        causal: whether a query saw only earlier tokens.
        scale: factor of the scores before the softmax.
        layers: names of the layers of the model that were recorded: their numbers, and of which
            stack.
        model_layers: how many layers the model has that attend.
        tensors: ``layer.{i}.query`` and so on, [heads, tokens, head_dim] float32.
        outputs: what the model's own attention returned, before its output projection,
            [query_heads, tokens, value_dim] for each recorded layer.
        entries: what is particular to each recorded layer; empty where nothing is.
        causes: for each recorded layer, what may make it more than a trace holds.
        main: which recorded layer gives the trace its shape.
        files: images and sound, one line of provenance each.
        of_tokens: more tensors of one number a token.
    """

    model: str
    weights: str
    forward: str
    token_ids: Sequence[int]
    prefill_tokens: int
    causal: bool
    scale: float
    layers: Sequence[int | str]
    model_layers: int
    tensors: dict[str, NDArray[Any]]
    outputs: dict[int, NDArray[np.float32]]
    entries: tuple[LayerEntry, ...] = ()
    causes: tuple[str, ...] = ()
    main: int = 0
    files: tuple[str, ...] = ()
    of_tokens: dict[str, NDArray[Any]] = field(default_factory=dict)

    def trace(self, text: str, text_name: str) -> AttentionTrace:
        """Return the trace, proven, with a line of provenance for each fact in ``source``.

        Raises:
            TraceError: queries, keys and values whose shapes do not make a trace, or from which
                the model's attention does not follow.
        """
        query, key = (self.tensors[f"layer.{self.main}.{kind}"] for kind in ("query", "key"))
        ids = np.asarray(self.token_ids, dtype=np.int32)
        source = [
            f"weights: {self.weights}",
            *((f"text: {text_name}, sha256 {_sha256(text)}",) if text else ()),
            *self.files,
            f"forward: {self.forward}",
        ]
        if len(self.layers) < self.model_layers:
            chosen = ", ".join(str(layer) for layer in self.layers)
            source.append(f"layers: {chosen} of the model's {self.model_layers}")
        trace = AttentionTrace(
            model=self.model,
            source="\n".join(source),
            num_layers=len(self.layers),
            num_query_heads=query.shape[0],
            num_kv_heads=key.shape[0],
            head_dim=query.shape[2],
            causal=self.causal,
            prefill_tokens=self.prefill_tokens,
            decode_tokens=max(len(ids) - self.prefill_tokens, 0),
            scale=self.scale,
            tensors=MemoryTensors(
                self.tensors | self.of_tokens | ({"token_ids": ids} if len(ids) else {})
            ),
            text=text if len(text) <= _TEXT_CHARACTERS else text[:_TEXT_CHARACTERS] + "…",
            tokens_sha256=tokens_sha256(ids) if len(ids) else "",
            layers=self.entries,
            path=f"({self.model})",
        )
        for name, shape in trace.expected_shapes():
            found = self.tensors[name].shape
            if found != shape:
                raise TraceError(
                    f"{self.model}: '{name}' has shape {found}; expected {shape}, as a trace holds "
                    "it (keys and values of one number of heads, which divides the query heads)"
                )
        return replace(trace, proof_error=self._proven(trace))

    def _proven(self, trace: AttentionTrace) -> float:
        """Compute every output again from the trace, and return the largest relative error.

        Raises:
            TraceError: it is above :data:`TOLERANCE`; names layer, head, error and likely cause.
        """
        worst = 0.0
        for layer in range(trace.num_layers):
            errors = proof_errors(trace, layer, self.outputs[layer])
            head = int(errors.argmax())
            if not errors[head] <= TOLERANCE:
                cause = self.causes[layer] if self.causes else "an error of this forward pass"
                raise TraceError(
                    f"{self.model}: the trace does not reproduce layer {self.layers[layer]}, head "
                    f"{head}: relative error {errors[head]:.2g}; expected at most {TOLERANCE:g} "
                    f"(likely cause: {cause})"
                )
            worst = max(worst, float(errors[head]))
            fault = index_fault(trace, layer)
            if fault:
                raise TraceError(
                    f"{self.model}: the trace does not reproduce the keys that layer "
                    f"{self.layers[layer]} chose by its indexer: {fault}"
                )
        return worst


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def proof_errors(
    trace: AttentionTrace, layer: int, outputs: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Largest difference of each head from what a model returned, relative to its largest output.

    Args:
        trace: what was recorded.
        layer: which.
        outputs: of the model's attention, [query_heads, tokens, value_dim].

    Returns:
        [query_heads]; NaN where the model returned no number.
    """
    differences, largest = np.zeros((2, len(outputs)))
    for rows in dense_rows(trace, layer):
        own = outputs[:, rows.positions].astype(np.float64)
        differences = np.maximum(differences, np.abs(rows.output - own).max(axis=(1, 2)))
        largest = np.maximum(largest, np.abs(own).max(axis=(1, 2)))
    return np.asarray(differences / np.where(largest > 0, largest, 1.0))


def index_fault(trace: AttentionTrace, layer: int) -> str:
    """Say why the keys that a layer attends to do not follow from its indexer, or nothing.

    Each query attends to as many keys as it may choose, and none that it left out ranks higher than
    one that it chose, by more than rounding.
    """
    index = trace.index(layer)
    if index is None:
        return ""
    for start in range(0, trace.tokens, _ROWS):
        rows = np.arange(start, min(start + _ROWS, trace.tokens))
        scores, chosen = index.scores(rows, trace.tokens), trace.seen(layer, rows)
        there = np.arange(trace.tokens)[None, :] <= rows[:, None]
        count = np.minimum(rows + 1, index.top_k)
        wrong = (chosen & ~there).any(axis=1) | (chosen.sum(axis=1) != count)
        if wrong.any():
            row = int(wrong.argmax())
            return (
                f"token {rows[row]} attends to {int(chosen[row].sum())} keys; expected {count[row]}"
            )
        largest = np.abs(np.where(there, scores, 0.0)).max(axis=1)
        least = np.where(chosen, scores, np.inf).min(axis=1)
        missed = np.where(there & ~chosen, scores, -np.inf).max(axis=1)
        errors = (missed - least) / np.where(largest > 0, largest, 1.0)
        if not (errors <= TOLERANCE).all():
            row = int(errors.argmax())
            return (
                f"token {rows[row]} leaves out a key that ranks {errors[row]:.2g} of the largest "
                f"score above one that it chose; expected at most {TOLERANCE:g}"
            )
    return ""
