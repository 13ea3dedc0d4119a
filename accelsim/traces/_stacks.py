"""Stacks of a model that has several: an encoder beside its decoder, a tower beside a text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from accelsim.traces._layers import INDEX, OF_LAYERS, Layer, LayerEntry

if TYPE_CHECKING:
    from accelsim.traces._trace import AttentionTrace, TensorSource

_OF_TOKENS = ("token_ids", "token_type", "frame")
_SCORE = "score."


class Stack(NamedTuple):
    """Layers whose queries are of the same tokens.

    Attributes:
        name: ``encoder`` or ``vision``; ``decoder`` or ``language`` of the tokens that the whole
            trace counts.
        layers: numbers of its layers in the whole trace.
        trace: the stack as a trace of its own.
    """

    name: str
    layers: tuple[int, ...]
    trace: AttentionTrace

    @property
    def aside(self) -> bool:
        """Whether its tokens are other than those that the whole trace counts."""
        return self.name in ("encoder", "vision")


class StackTensors:
    """Tensors of some layers of a trace, with the numbers that they have in their stack.

    Args:
        source: of the whole trace.
        layers: numbers there.
        tokens: whether the tensors of the tokens are of this stack.
    """

    def __init__(self, source: TensorSource, layers: tuple[int, ...], tokens: bool) -> None:
        self._source, self._layers = source, layers
        self._tokens = _OF_TOKENS if tokens else ()

    def names(self) -> set[str]:
        """Names of all tensors."""
        there = self._source.names()
        own = {
            f"layer.{index}.{kind}"
            for index, layer in enumerate(self._layers)
            for kind in ("query", "key", "value", "bias", "mask", *INDEX, *OF_LAYERS)
            if f"layer.{layer}.{kind}" in there
        }
        scores = {
            name
            for name in there
            if self._tokens and (name.startswith((_SCORE, "vision.")) or name == "embedding")
        }
        return own | scores | (there & set(self._tokens))

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor."""
        if name.startswith(_SCORE):
            return self._source.read(name)[list(self._layers)]
        return self._source.read(self._there(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        if name.startswith(_SCORE):
            return (len(self._layers), *self._source.shape(name)[1:])
        return self._source.shape(self._there(name))

    def _there(self, name: str) -> str:
        if not name.startswith("layer."):
            return name
        _, index, kind = name.split(".")
        return f"layer.{self._layers[int(index)]}.{kind}"


def stacks_of(trace: AttentionTrace) -> list[Stack]:
    """Stacks in the order in which the model runs them: those that others read first.

    A tower whose layers have different numbers of tokens is several stacks.
    """
    owns = [trace.layer(index) for index in range(trace.num_layers)]
    if not any(own.aside for own in owns):
        return [Stack(_name(owns), tuple(range(trace.num_layers)), trace)]
    alike: dict[tuple[str, int], list[int]] = {}
    for index, own in enumerate(owns):
        alike.setdefault((str(own.stack), own.tokens) if own.aside else ("", 0), []).append(index)
    counted = alike.pop(("", 0), None)
    found = [
        Stack(name, tuple(layers), _stack(trace, owns, layers, tokens))
        for (name, tokens), layers in alike.items()
    ]
    if counted is not None:
        found.append(Stack(_name(owns), tuple(counted), _stack(trace, owns, counted, None)))
    return found


def _name(owns: list[Layer]) -> str:
    return "decoder" if any(own.stack in ("encoder", "decoder") for own in owns) else "language"


def _stack(
    trace: AttentionTrace, owns: list[Layer], layers: list[int], tokens: int | None
) -> AttentionTrace:
    """Some layers as a trace; ``tokens`` of a stack whose tokens the whole one does not count."""
    first, aside = owns[layers[0]], tokens is not None
    entries = []
    for index in layers:
        entry, own = trace.layers[index], owns[index]
        same = {
            "query_heads": own.query_heads == first.query_heads,
            "kv_heads": own.kv_heads == first.kv_heads,
            "key_dim": own.key_dim == first.key_dim,
            "scale": own.scale == first.scale,
        }
        changes = {name: None if is_so else getattr(own, name) for name, is_so in same.items()}
        changes |= {"group": None, "query_tokens": None, "model_layer": own.model_layer}
        changes["value_dim"] = entry.value_dim
        entries.append(LayerEntry(**{**_given(entry), **changes}))
    return replace(
        trace,
        num_layers=len(layers),
        num_query_heads=first.query_heads,
        num_kv_heads=first.kv_heads,
        head_dim=first.key_dim,
        scale=first.scale,
        causal=trace.causal and not aside,
        prefill_tokens=trace.prefill_tokens if tokens is None else tokens,
        decode_tokens=0 if aside else trace.decode_tokens,
        layers=tuple(entries),
        tensors=StackTensors(trace.tensors, tuple(layers), not aside),
        tokens_sha256="" if aside else trace.tokens_sha256,
        further=(),
    )


def _given(entry: LayerEntry) -> dict[str, Any]:
    """What an entry says, parts as they are."""
    return {name: getattr(entry, name) for name in entry.model_fields_set}
