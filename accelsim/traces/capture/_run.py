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
