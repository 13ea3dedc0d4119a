"""The attention function that stands in for transformers' own while a model is recorded.

Models ask for attention by name, with queries and keys after positional encoding and before grouped
heads are repeated: what a trace holds. The function put under that name computes what the model's
own file defines as its eager attention, block by block of the queries, and keeps what went in and
what came out. No class is patched, and the name means the same as before afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import LayerEntry, Mask
from accelsim.traces.capture._recorder import Progress, Recorder

_SCORES = 1 << 23
"""Scores of a block: 32 MB in float32."""

# Arguments of an attention function that change nothing (in inference, on one sequence), or that
# the mask expresses too.
PLAIN = frozenset(
    (
        "dropout", "is_causal", "sliding_window", "output_attentions", "output_hidden_states",
        "position_ids", "cache_position", "use_cache", "deterministic", "logits_to_keep",
        "return_dict", "past_key_values", "num_items_in_batch",
    )
)  # fmt: skip
_SINKS = ("s_aux", "sinks")
_SHOWN = frozenset(("softcap", *_SINKS))
"""Those that a trace says in its own words."""
_IN_THE_MASK = frozenset(("indices", "block_indices"))
"""Those that the mask says too, where a model thinks that it runs under sdpa or eager."""
# Those by which a model is known to compute something else.
BEYOND = {
    "softcap": "soft-capped scores",
    "position_bias": "a bias on the scores",
    "s_aux": "learned sinks in the softmax",
    "sinks": "learned sinks in the softmax",
    "indices": "keys chosen by an indexer",
    "block_indices": "blocks of keys chosen by an indexer",
}


def check_known(model: str, options: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse arguments of an attention function that mean something not understood.

    Args:
        model: for errors.
        options: what the model gives its attention function beside queries, keys and values.
        known: names that are understood.

    Raises:
        TraceError: naming what the attention does, or the argument that is not known.
    """
    for name, value in options.items():
        if value is None or value is False or name in known:
            continue
        what = BEYOND.get(name, f"an argument '{name}' that accelsim does not know")
        raise TraceError(f"{model}: attention with {what} does not fit a trace or a policy")


@contextmanager
def standing_in(transformers: Any, name: str, function: Any) -> Iterator[None]:
    """Put a function under the name of one of transformers' own for a while."""
    interface = transformers.AttentionInterface
    before = interface._global_mapping.get(name)
    interface.register(name, function)
    try:
        yield
    finally:
        if before is None:
            interface._global_mapping.pop(name)
        else:
            interface.register(name, before)


@dataclass
class _Facts:
    """What was seen of one layer.

    Attributes:
        call: number of its call in a forward pass.
        scale, softcap, sinks: of its softmax.
        causal: whether the model calls it causal.
        first: [tokens], first key of each query.
        end: [tokens], one past the last.
        odd: where keys between are hidden: position of the first query of a call, and its rows
            [queries, bytes] of bits.
        cause: what may make it more than a trace holds.
    """

    call: int
    scale: float
    softcap: float | None
    sinks: tuple[float, ...] | None
    causal: bool
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    odd: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    cause: str = ""


class InterfaceRecorder:
    """Records every layer of a model that calls the attention interface once a forward pass.

    Args:
        model: for errors.
        layers: layers to record, as the model numbers them; all that attend if ``None``.
        num_layers: of the model.
        tokens: of the run: (prompt, decoding steps).
        progress: called after each layer.
    """

    def __init__(
        self,
        model: str,
        layers: Sequence[int] | None,
        num_layers: int,
        tokens: tuple[int, int],
        progress: Progress,
    ) -> None:
        self.model, self._wanted, self._num_layers = model, layers, num_layers
        self._tokens, self._decodes = sum(tokens), tokens[1] > 0
        self._recorder = Recorder(
            range(num_layers), progress, num_layers * (1 + tokens[1]), self._tokens
        )
        self._facts: dict[int, _Facts] = {}
        self._called: list[int] = []
        self._seen_tokens = 0

    def begin(self, new: int) -> None:
        """Start a forward pass of ``new`` tokens."""
        self._called = []
        self._seen_tokens += new

    def end(self) -> None:
        """Check a forward pass.

        Raises:
            TraceError: no layer called, or not those of the pass before.
        """
        if not self._called or sorted(self._called) != sorted(self._facts):
            raise TraceError(
                f"{self.model}: {len(self._called)} of {self._num_layers} layers call "
                "transformers' attention interface; expected each that attends once a pass"
            )

    def __call__(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Any, None]:
        """Compute and keep the attention of a layer: [1, heads, tokens, head_dim] in."""
        import torch

        layer = self._layer_of(module)
        check_known(self.model, options, PLAIN | _SHOWN | _IN_THE_MASK)
        given = options.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if given is None else given)
        if self._decodes and not causal:
            raise TraceError(
                f"{self.model}: its attention is bidirectional, which does not decode; expected "
                "--decode 0"
            )
        new = query.shape[2]
        seen = self._seen(torch, attention_mask, new, key.shape[2], causal)
        wanted = self._wanted is None or layer in self._wanted
        output = self._output(torch, module, query, key, value, seen, scaling, options)
        self._called.append(layer)
        scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
        self._note(layer, scale, options, causal, seen.cpu().numpy())
        self._facts[layer].cause = _cause(module, options)
        if wanted:
            q, k, v = (t[0, :, -new:].float().cpu().numpy() for t in (query, key, value))
            rows = output[0].transpose(0, 1).float().cpu().numpy()
            self._recorder.add(layer, q, k, v, rows)
        return output, None

    def layers(self) -> list[int]:
        """Layers that were recorded, as the model numbers them.

        Raises:
            TraceError: one that was asked for does not attend.
        """
        found = sorted(self._facts) if self._wanted is None else list(self._wanted)
        for layer in found:
            if layer not in self._facts:
                shown = ", ".join(str(n) for n in sorted(self._facts))
                raise TraceError(
                    f"{self.model}: layer {layer} has no attention to record; expected some of "
                    f"{shown[:80]}"
                )
        return found

    def causal(self) -> bool:
        """Whether no query saw a later token."""
        after = np.arange(self._tokens) + 1
        # Of one token, the model says what it is.
        return all(
            bool((facts.end <= after).all()) and (facts.causal or self._tokens > 1)
            for facts in (self._facts[layer] for layer in self.layers())
        )

    def causes(self) -> tuple[str, ...]:
        """For each recorded layer, what may make it more than a trace holds."""
        return tuple(self._facts[layer].cause for layer in self.layers())

    def outputs(self) -> dict[int, NDArray[np.float32]]:
        """Attention outputs by layer of the trace."""
        return {i: self._recorder.outputs[n] for i, n in enumerate(self.layers())}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Tensors of the trace, the bits of stored masks among them."""
        kept: dict[str, NDArray[Any]] = {}
        for i, n in enumerate(self.layers()):
            for kind in ("query", "key", "value"):
                kept[f"layer.{i}.{kind}"] = self._recorder.tensors[f"layer.{n}.{kind}"]
            if self._mask(n).kind == "stored":
                kept[f"layer.{i}.mask"] = self._bits(self._facts[n])
        return kept

    def scale(self) -> float:
        """Factor of the scores of the first recorded layer."""
        return self._facts[self.layers()[0]].scale

    def entries(self) -> tuple[LayerEntry, ...]:
        """What is particular to each recorded layer; empty where nothing is."""
        layers, tensors, causal = self.layers(), self._recorder.tensors, self.causal()
        hybrid = len(self._facts) < self._num_layers

        def shape(layer: int) -> dict[str, int]:
            query, key, value = (
                tensors[f"layer.{layer}.{kind}"].shape for kind in ("query", "key", "value")
            )
            sizes = {"query_heads": query[0], "kv_heads": key[0], "key_dim": query[2]}
            return sizes | {"value_dim": value[2]}

        common = shape(layers[0])
        common["value_dim"] = common["key_dim"]
        plain = Mask(kind="causal" if causal else "full")
        entries = []
        for layer in layers:
            facts, mask, own = self._facts[layer], self._mask(layer), shape(layer)
            differs: dict[str, Any] = {n: v for n, v in own.items() if v != common[n]}
            if own["value_dim"] == own["key_dim"]:
                differs.pop("value_dim", None)
            if hybrid:
                differs["model_layer"] = layer
            if facts.scale != self.scale():
                differs["scale"] = facts.scale
            if mask != plain:
                differs["mask"] = mask
            entries.append(LayerEntry(softcap=facts.softcap, sinks=facts.sinks, **differs))
        return tuple(entries) if any(entry != LayerEntry() for entry in entries) else ()

    def _layer_of(self, module: Any) -> int:
        layer = getattr(module, "layer_idx", None)
        layer = layer if isinstance(layer, int) else len(self._called)
        if layer in self._called:
            raise TraceError(
                f"{self.model}: layer {layer} calls its attention twice a pass; a trace holds one "
                "attention a layer"
            )
        if not 0 <= layer < self._num_layers:
            raise TraceError(
                f"{self.model}: an attention of layer {layer}; expected 0 to {self._num_layers - 1}"
            )
        return layer

    def _seen(self, torch: Any, mask: Any, new: int, keys: int, causal: bool) -> Any:
        """Keys that the new queries see, [new, keys] bool."""
        if keys > self._seen_tokens:
            raise TraceError(
                f"{self.model}: {keys} keys after {self._seen_tokens} tokens; expected no more"
            )
        if mask is None:
            seen = torch.ones((new, keys), dtype=torch.bool)
            return seen.tril(keys - new) if causal and new > 1 else seen
        mask = mask[..., :keys]
        if mask.dtype.is_floating_point:
            hidden = mask < -1e9
            if not (hidden | (mask == 0)).all():
                raise TraceError(
                    f"{self.model}: attention with a bias on the scores does not fit a trace"
                )
            mask = ~hidden
        seen = mask.bool()[0]
        if not (seen == seen[:1]).all():
            raise TraceError(
                f"{self.model}: its heads see different keys; a trace holds one mask a layer"
            )
        seen = seen[0]
        if not seen.any(dim=1).all():
            raise TraceError(f"{self.model}: a query sees no key; expected at least its own")
        return seen

    def _output(
        self,
        torch: Any,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        seen: Any,
        scaling: float | None,
        options: dict[str, Any],
    ) -> Any:
        """The model's own attention, [1, tokens, heads, value_dim]."""
        own = inspect.unwrap(type(module).forward).__globals__.get("eager_attention_forward")
        if own is None:
            from transformers.integrations import sdpa_attention

            own = sdpa_attention.sdpa_attention_forward
        hidden = torch.finfo(query.dtype).min
        heads, new, keys = query.shape[1], query.shape[2], key.shape[2]
        size = max(_SCORES // (heads * keys), 1)
        given = {"dropout": 0.0, **options}
        if scaling is not None:
            given["scaling"] = scaling
        parts = []
        for start in range(0, new, size):
            rows = slice(start, start + size)
            mask = torch.zeros((1, 1, *seen[rows].shape), dtype=query.dtype)
            mask.masked_fill_(~seen[rows], hidden)
            parts.append(own(module, query[:, :, rows], key, value, mask, **given)[0])
        return torch.cat(parts, dim=1)

    def _note(
        self, layer: int, scale: float, options: dict[str, Any], causal: bool, seen: NDArray[Any]
    ) -> None:
        """Keep how a layer attends.

        Raises:
            TraceError: it is not as in the pass before.
        """
        softcap = options.get("softcap")
        sinks = next((options[n] for n in _SINKS if options.get(n) is not None), None)
        facts = _Facts(
            len(self._called),
            scale,
            None if softcap is None else float(softcap),
            None if sinks is None else tuple(sinks.detach().float().flatten().tolist()),
            causal,
            *np.zeros((2, self._tokens), dtype=np.int64),
        )
        before = self._facts.setdefault(layer, facts)
        if any(getattr(before, n) != getattr(facts, n) for n in ("scale", "softcap", "sinks")):
            raise TraceError(
                f"{self.model}: layer {layer} changes its scale, soft cap or sinks from pass to "
                "pass; a trace holds one of each a layer"
            )
        new, keys = seen.shape
        past, start = self._seen_tokens - keys, self._seen_tokens - new
        first = seen.argmax(axis=1)
        end = keys - seen[:, ::-1].argmax(axis=1)
        before.first[start : start + new] = past + first
        before.end[start : start + new] = past + end
        if (seen.sum(axis=1) != end - first).any():
            whole = np.zeros((new, self._tokens), dtype=np.bool_)
            whole[:, past : past + keys] = seen
            before.odd[start] = np.packbits(whole, axis=1, bitorder="little")

    def _mask(self, layer: int) -> Mask:
        facts = self._facts[layer]
        found = None if facts.odd else fitting_mask(facts.first, facts.end, self.causal())
        return found or Mask(kind="stored")

    def _bits(self, facts: _Facts) -> NDArray[np.uint8]:
        bits = np.zeros((self._tokens, -(-self._tokens // 8)), dtype=np.uint8)
        key = np.arange(self._tokens)
        for row, (first, end) in enumerate(zip(facts.first, facts.end, strict=True)):
            bits[row] = np.packbits((key >= first) & (key < end), bitorder="little")
        for start, rows in facts.odd.items():
            bits[start : start + len(rows)] = rows
        return bits


def fitting_mask(first: NDArray[np.int64], end: NDArray[np.int64], causal: bool) -> Mask | None:
    """Return the simplest mask under which each query sees keys ``first`` to ``end - 1``.

    Args:
        first: [tokens].
        end: [tokens].
        causal: which of causal and full is the simpler.

    Returns:
        ``None`` where no kind but stored bits fits.
    """
    tokens = len(first)
    position = np.arange(tokens)
    size = int((position - first).max()) + 1
    plain = [Mask(kind="causal"), Mask(kind="full")]
    candidates = plain if causal else plain[::-1]
    candidates.append(Mask(kind="window", size=size, side="left"))
    candidates.append(Mask(kind="window", size=size, side="both"))
    if first.any():
        candidates.append(Mask(kind="chunk", size=int(first[first > 0][0])))
    candidates.append(Mask(kind="prefix", length=int(end[0])))
    for mask in candidates:
        if (mask.first(position) == first).all() and (mask.end(position, tokens) == end).all():
            return mask
    return None


def _cause(module: Any, options: dict[str, Any]) -> str:
    """What may make an attention more than its arguments say, from what else is known of it."""
    named = {
        "sliding_window": "a sliding window",
        "softcap": "soft-capped scores",
        "attn_logit_softcapping": "soft-capped scores",
        "s_aux": "sinks",
        "sinks": "sinks",
        "indexer": "an indexer",
        "position_bias": "a bias on the scores",
        "rel_attn_bias": "a bias on the scores",
        "alibi": "a bias on the scores",
    }
    found = {
        text
        for name, text in named.items()
        if options.get(name) is not None or getattr(module, name, None) is not None
    }
    return ", ".join(sorted(found)) or "a bias, sinks or a mask inside its own attention function"
