"""What a run of a model leaves behind, whichever library ran it, and the trace made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import AttentionTrace, MemoryTensors, tokens_sha256

_TEXT_CHARACTERS = 200


@dataclass(frozen=True)
class Run:
    """One recorded run.

    Attributes:
        model: name of the model.
        weights: one line on where the weights come from.
        forward: one line on what computed the forward pass.
        token_ids: prompt, then the tokens that were decoded.
        prefill_tokens: tokens of the prompt.
        causal: whether a query saw only earlier tokens.
        scale: factor of the scores before the softmax.
        layers: which layers of the model were recorded.
        model_layers: how many layers the model has.
        tensors: ``layer.{i}.query`` and so on, [heads, tokens, head_dim] float32.
    """

    model: str
    weights: str
    forward: str
    token_ids: Sequence[int]
    prefill_tokens: int
    causal: bool
    scale: float
    layers: Sequence[int]
    model_layers: int
    tensors: dict[str, NDArray[Any]]

    def trace(self, text: str, text_name: str) -> AttentionTrace:
        """Return the trace, with a line of provenance for each fact in ``source``.

        Raises:
            TraceError: queries, keys and values whose shapes do not make a trace.
        """
        query, key, value = (self.tensors[f"layer.0.{k}"] for k in ("query", "key", "value"))
        ids = np.asarray(self.token_ids, dtype=np.int32)
        source = [
            f"weights: {self.weights}",
            f"text: {text_name}, sha256 {hashlib.sha256(text.encode()).hexdigest()}",
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
            decode_tokens=len(ids) - self.prefill_tokens,
            scale=self.scale,
            tensors=MemoryTensors({**self.tensors, "token_ids": ids}),
            text=text if len(text) <= _TEXT_CHARACTERS else text[:_TEXT_CHARACTERS] + "…",
            tokens_sha256=tokens_sha256(ids),
            path=f"({self.model})",
        )
        if query.shape[0] % key.shape[0] or key.shape != value.shape:
            raise TraceError(
                f"{self.model}: queries {query.shape}, keys {key.shape}, values {value.shape}; "
                "expected keys and values of one shape, and query heads that they divide"
            )
        for name, shape in trace.expected_shapes().items():
            if self.tensors[name].shape != shape:
                raise TraceError(
                    f"{self.model}: '{name}' has shape {self.tensors[name].shape}, unlike layer 0 "
                    f"({shape}); a trace holds layers of one shape"
                )
        return trace
