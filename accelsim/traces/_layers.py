"""How each layer of a trace attends: what ``attention-trace/2`` adds to ``attention-trace/1``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pydantic
from numpy.typing import NDArray

from accelsim.configs import Config, Unit, validate
from accelsim.errors import ConfigError, TraceError, shorten

C = TypeVar("C", bound=Config)
Kind = Literal["self", "cross", "latent"]
Group = Literal["encoder", "decoder", "vision"]
ASIDE = frozenset(("encoder", "vision"))
"""Groups whose tokens are other than the prompt and decoded tokens that a trace counts."""
Count = Annotated[int, pydantic.Field(ge=1, le=(1 << 31) - 1), Unit("(a number)")]
# A thousand times beyond any model's, and far from where a product of two numbers overflows.
Positive = Annotated[float, pydantic.Field(ge=1e-9, le=1e9), Unit("(a factor or score)")]
Bounded = Annotated[float, pydantic.Field(ge=-1e9, le=1e9), Unit("a token")]

Distance = Annotated[int, pydantic.Field(ge=-(1 << 31), le=1 << 31), Unit("tokens")]
Bucket = Annotated[int, pydantic.Field(ge=0, le=(1 << 16) - 1), Unit("(a number)")]

MAX_LAYERS_TEXT = 16_000_000
"""Characters of the metadata key ``layers``: a thousand layers of a thousand heads."""
_MESSAGE = 200
_BIAS_NEEDS = {"alibi": {"slopes"}, "relative": {"first", "buckets"}}
_NEEDS = {"window": {"size", "side"}, "chunk": {"size"}, "prefix": {"length"}}
BACKWARD = frozenset(("causal", "window", "chunk"))
"""Kinds of masks under which no query sees a later token; a window on both sides is none."""


class Mask(Config):
    """Keys that each query may see.

    Attributes:
        kind: ``causal``: up to its own; ``full``: all; ``window``: those within ``size`` tokens;
            ``chunk``: those of its own chunk of ``size`` tokens, up to its own; ``prefix``: the
            first ``length`` tokens, and up to its own; ``stored``: the bits of the tensor
            ``layer.{i}.mask``.
        size: keys of a window, the query's own included; of a window on both sides, those on each
            side, the query's own included; tokens of a chunk.
        side: ``left``: the window ends with the query's own token; ``both``: it goes on after it.
        length: tokens of the prefix.
    """

    kind: Literal["causal", "full", "window", "chunk", "prefix", "stored"]
    size: Count | None = None
    side: Literal["left", "both"] | None = None
    length: Count | None = None

    @pydantic.model_validator(mode="after")
    def _says_what_it_needs(self) -> Mask:
        needed = _NEEDS.get(self.kind, set())
        given = {name for name in ("size", "side", "length") if getattr(self, name) is not None}
        if given != needed:
            wanted = " and ".join(sorted(needed)) or "nothing more"
            raise ValueError(f"mask '{self.kind}': expected {wanted} beside 'kind'")
        return self

    @property
    def backward(self) -> bool:
        """Whether no query sees a later token, as the kind tells; stored bits may differ."""
        return self.kind in BACKWARD and self.side != "both"

    def first(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """First key that each query sees; not for stored bits."""
        if self.kind == "window":
            return np.maximum(positions - (self.size or 1) + 1, 0)
        if self.kind == "chunk":
            return positions - positions % (self.size or 1)
        return np.zeros_like(positions)

    def end(self, positions: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
        """One past the last key that each query sees; not for stored bits.

        Args:
            positions: of the queries.
            tokens: keys that there are.
        """
        if self.kind == "full":
            return np.full_like(positions, tokens)
        if self.side == "both":
            return np.minimum(positions + (self.size or 1), tokens)
        if self.kind == "prefix":
            return np.minimum(np.maximum(positions + 1, self.length or 1), tokens)
        return positions + 1


class Bias(Config):
    """What is added to the scaled scores.

    Attributes:
        kind: ``alibi``: slope times (key position minus query position); ``relative``: a number of
            the table ``layer.{i}.bias`` [query_heads, buckets], by that distance; ``stored``: the
            numbers of ``layer.{i}.bias`` [query_heads, queries, keys].
        slopes: of ALiBi, of each query head.
        first: of a relative bias, the distance that the first of ``buckets`` is for.
        buckets: of a relative bias, the bucket of each distance from ``first`` on; smaller and
            larger distances are in the first and last of them.
    """

    kind: Literal["alibi", "relative", "stored"]
    slopes: tuple[Bounded, ...] | None = None
    first: Distance | None = None
    buckets: tuple[Bucket, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _says_what_it_needs(self) -> Bias:
        needed = _BIAS_NEEDS.get(self.kind, set())
        given = {name for name in ("slopes", "first", "buckets") if getattr(self, name) is not None}
        if given != needed:
            wanted = " and ".join(sorted(needed)) or "nothing more"
            raise ValueError(f"bias '{self.kind}': expected {wanted} beside 'kind'")
        if self.buckets == ():
            raise ValueError("bias 'relative': expected at least one of 'buckets'")
        return self

    def by_distance(self, away: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bucket of each distance of a relative bias: key position minus query position."""
        buckets = np.array(self.buckets or (0,), dtype=np.int64)
        return np.asarray(buckets[np.clip(away - (self.first or 0), 0, len(buckets) - 1)])


class Indexer(Config):
    """What chose the keys of each query, where a model has learned to (DSA's lightning indexer).

    Score of key s for query t: the sum over index heads of weight times ``relu(query . key)``; the
    ``top_k`` best of the keys up to its own are chosen, all where there are no more. Give ``heads``
    and ``dim``, or ``shared``.

    Attributes:
        top_k: keys that a query chooses.
        heads: index heads: queries and weights of a token. Its index key is one.
        dim: elements of an index query and of an index key.
        shared: the layer attends to what the nearest layer before it with an indexer of its own
            chose.
    """

    top_k: Count
    heads: Count | None = None
    dim: Count | None = None
    shared: bool = False

    @pydantic.model_validator(mode="after")
    def _is_one_or_the_other(self) -> Indexer:
        if [self.heads is None, self.dim is None] != [self.shared] * 2:
            raise ValueError("indexer: expected 'heads' and 'dim', or 'shared', beside 'top_k'")
        return self

    def tensors(self, tokens: int) -> dict[str, tuple[int, ...]]:
        """Kind and shape of its tensors; none where it is shared."""
        if self.heads is None or self.dim is None:
            return {}
        return {
            "index_query": (self.heads, tokens, self.dim),
            "index_key": (tokens, self.dim),
            "index_weight": (self.heads, tokens),
        }


INDEX = ("index_query", "index_key", "index_weight")
"""Kinds of tensors of an indexer."""

OF_LAYERS = ("transition", "hidden")
"""Kinds of tensors of a layer that a trace may have beside those that its attention needs."""


class LayerEntry(Config):
    """One layer in the metadata key ``layers``; what is left out is as the other keys say.

    Attributes:
        group: stack of a model that has several: ``encoder``, ``decoder``, or ``vision``, a tower
            beside a language model.
        model_layer: number of the layer in the model; that in the trace if left out.
        kind: ``self``; ``cross``: keys and values of ``key_tokens`` tokens of another sequence;
            ``latent``: the values are the first ``value_dim`` elements of the keys.
        query_heads: query heads.
        kv_heads: key/value heads; divides ``query_heads``.
        key_dim: elements of a query and of a key.
        value_dim: elements of a value; those of a key if left out.
        query_tokens: tokens of an ``encoder`` or ``vision`` layer beside the stack whose prompt and
            decoded tokens the trace counts.
        key_tokens: keys of a cross layer.
        scale: factor of the scores before the softmax.
        softcap: c of ``c * tanh(score / c)``, after scaling.
        sinks: of each query head, a score that takes part in the softmax and has no value.
        bias: added after scaling and soft cap.
        mask: keys that a query may see; ``causal`` or ``full`` as the key ``causal`` says, ``full``
            in a cross layer and with ``query_tokens``.
        indexer: what chose the keys of a ``stored`` mask, or would in a longer context.
    """

    group: Group | None = None
    model_layer: (
        Annotated[int, pydantic.Field(ge=0, le=(1 << 31) - 1), Unit("(a number)")] | None
    ) = None
    kind: Kind = "self"
    query_heads: Count | None = None
    kv_heads: Count | None = None
    key_dim: Count | None = None
    value_dim: Count | None = None
    query_tokens: Count | None = None
    key_tokens: Count | None = None
    scale: Positive | None = None
    softcap: Positive | None = None
    sinks: tuple[Bounded, ...] | None = None
    bias: Bias | None = None
    mask: Mask | None = None
    indexer: Indexer | None = None


@dataclass(frozen=True)
class Layer:
    """How one layer attends, nothing left open.

    Attributes:
        model_layer, kind, query_heads, kv_heads, key_dim, value_dim, scale, softcap, bias, mask,
            indexer: of :class:`LayerEntry`.
        stack: ``group`` of :class:`LayerEntry`.
        tokens: queries.
        keys: keys; other than ``tokens`` in a cross layer only.
        sinks: [query_heads] float64, or ``None``.
    """

    model_layer: int
    stack: Group | None
    kind: Kind
    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    tokens: int
    keys: int
    scale: float
    softcap: float | None
    sinks: NDArray[np.float64] | None
    bias: Bias | None
    mask: Mask
    indexer: Indexer | None = None

    @property
    def slopes(self) -> NDArray[np.float64] | None:
        """Of ALiBi, [query_heads] float64, or ``None``."""
        return None if self.bias is None or self.bias.slopes is None else np.array(self.bias.slopes)

    @property
    def aside(self) -> bool:
        """Whether its tokens are other than those that the trace counts."""
        return self.stack in ASIDE

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.query_heads // self.kv_heads

    @property
    def widths(self) -> tuple[int, int, bool]:
        """Elements of a key and of a value, and whether the value lies in the key."""
        return self.key_dim, self.value_dim, self.kind == "latent"

    def tensors(self) -> dict[str, tuple[int, int, int]]:
        """Kind and shape of the tensors that hold vectors."""
        shapes = {
            "query": (self.query_heads, self.tokens, self.key_dim),
            "key": (self.kv_heads, self.keys, self.key_dim),
        }
        if self.kind != "latent":
            shapes["value"] = (self.kv_heads, self.keys, self.value_dim)
        return shapes

    def bias_shape(self) -> tuple[int, ...] | None:
        """Shape of the tensor of its bias, if it has one."""
        if self.bias is None or self.bias.kind == "alibi":
            return None
        if self.bias.kind == "stored":
            return (self.query_heads, self.tokens, self.keys)
        return (self.query_heads, max(self.bias.buckets or (0,)) + 1)

    def beyond(self) -> list[str]:
        """What this layer has that plain causal or full attention has not, in words."""
        mask, found = self.mask, []
        if self.aside:
            beside = {"encoder": "its decoder", "vision": "a language model"}
            name = "an encoder" if self.stack == "encoder" else "a vision tower"
            found.append(f"{name} beside {beside[str(self.stack)]}")
        if self.kind != "self":
            found.append(f"{self.kind} attention")
        if mask.kind not in ("causal", "full"):
            kinds = {"window": "sliding windows", "chunk": "chunks", "prefix": "a prefix"}
            name = kinds.get(mask.kind, "stored masks")
            found.append(f"{name} on both sides" if mask.side == "both" else name)
        if self.softcap is not None:
            found.append("soft-capped scores")
        if self.sinks is not None:
            found.append("sinks")
        if self.bias is not None:
            kinds = {"alibi": "ALiBi", "relative": "a relative bias", "stored": "a stored bias"}
            found.append(kinds[self.bias.kind])
        if self.value_dim != self.key_dim and self.kind != "latent":
            found.append("values of another width than keys")
        return found


def read_layers(text: str, count: int, where: str) -> tuple[LayerEntry, ...]:
    """Read the metadata key ``layers``.

    Args:
        text: JSON, a list of one mapping a layer.
        count: layers of the trace.
        where: the file, for errors.

    Raises:
        TraceError: in one line.
    """
    place, one = f"{where}: metadata 'layers'", f"{count} mappings, one a layer"
    return tuple(read_entries(text, LayerEntry, place, "layer", 0, range(count, count + 1), one))


def read_entries(
    text: str,
    entry: type[C],
    place: str,
    word: str,
    first: int,
    counts: range,
    expected: str,
) -> list[C]:
    """Read a metadata key that is a JSON list of mappings.

    Args:
        text: of the key.
        entry: what each mapping says.
        place: file and key, for errors.
        word: what an entry is of.
        first: number of the first.
        counts: how many there may be.
        expected: the same in words.

    Raises:
        TraceError: in one line.
    """
    try:
        found = json.loads(text) if len(text) <= MAX_LAYERS_TEXT else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) not in counts:
        raise TraceError(f"{place}: expected a JSON list of {expected}")
    entries = []
    for number, given in enumerate(found, first):
        if not isinstance(given, dict):
            raise TraceError(f"{place}: {word} {number}: expected a mapping")
        try:
            entries.append(validate(entry, given, f"{word} {number}"))
        except ConfigError as error:
            raise TraceError(f"{place}: {shorten(str(error), _MESSAGE)}") from None
    return entries


def write_layers(entries: Sequence[LayerEntry]) -> str:
    """Return the metadata key ``layers``, JSON of what is given only."""
    return json.dumps(given_of(entries), separators=(",", ":"))


def given_of(entries: Sequence[LayerEntry]) -> list[dict[str, Any]]:
    """What entries say beside what is left out, as plain JSON values."""
    return [entry.model_dump(exclude_none=True, exclude_defaults=True) for entry in entries]


def check_layer(layer: Layer, entry: LayerEntry, causal: bool, prompt: int, place: str) -> None:
    """Check that what a layer says fits together.

    Args:
        layer: in full.
        entry: as given.
        causal: of the trace.
        prompt: tokens that the model read together.
        place: file and layer, for errors.

    Raises:
        TraceError: in one line.
    """

    def refuse(fault: str) -> None:
        raise TraceError(f"{place}: {fault}")

    if layer.query_heads % layer.kv_heads:
        refuse(f"query_heads ({layer.query_heads}) is no multiple of kv_heads ({layer.kv_heads})")
    for name, values in (("sinks", layer.sinks), ("bias.slopes", layer.slopes)):
        if values is not None and len(values) != layer.query_heads:
            refuse(f"{name} has {len(values)} numbers; expected {layer.query_heads} (query heads)")
    if layer.aside != (entry.query_tokens is not None):
        refuse("'query_tokens' belongs to groups 'encoder' and 'vision'; expected both or neither")
    cross = layer.kind == "cross"
    if cross != (entry.key_tokens is not None):
        refuse("'key_tokens' belongs to kind 'cross'; expected both or neither")
    if cross and layer.aside:
        refuse(f"kind 'cross' in group '{entry.group}'; expected it in the decoder")
    stored = entry.bias is None or entry.bias.kind == "stored"
    if cross and (layer.mask.kind not in ("full", "stored") or not stored):
        refuse("kind 'cross': expected mask 'full' or 'stored', and no bias or a stored one")
    if layer.kind == "latent" and (entry.value_dim is None or layer.value_dim > layer.key_dim):
        refuse("kind 'latent': expected value_dim (the latent's width), at most key_dim")
    if layer.indexer is not None and (cross or layer.aside or not causal):
        refuse("'indexer': expected it in a layer of a causal model that sees its own tokens")
    if layer.indexer is not None and layer.mask.kind not in ("causal", "stored"):
        refuse(f"'indexer' beside mask '{layer.mask.kind}'; expected 'causal' or 'stored'")
    if layer.aside:
        prompt = layer.tokens
    elif entry.mask is not None and not cross:
        kind = layer.mask.kind
        if not _may_be(layer.mask, causal):
            refuse(f"mask '{kind}' shows later tokens; metadata 'causal' is true")
        if (kind == "full" or layer.mask.side == "both") and prompt < layer.tokens:
            refuse(f"mask '{kind}' shows later tokens; expected decode_tokens of 0")
    if (layer.mask.length or 0) > prompt:
        refuse(f"mask 'prefix' of {layer.mask.length} tokens; expected at most {prompt} (prefill)")


def _may_be(mask: Mask, causal: bool) -> bool:
    return not causal or mask.backward or mask.kind == "stored"


def resolved(index: int, entry: LayerEntry, defaults: Layer, causal: bool) -> Layer:
    """Return a layer with what its entry leaves out taken from the keys of the whole trace."""

    def own(name: str, default: Any) -> Any:
        value = getattr(entry, name)
        return default if value is None else value

    key_dim = own("key_dim", defaults.key_dim)
    forward = causal and entry.kind != "cross" and entry.group not in ASIDE
    plain = Mask(kind="causal" if forward else "full")
    tokens = own("query_tokens", defaults.tokens)
    return Layer(
        model_layer=own("model_layer", index),
        stack=entry.group,
        kind=entry.kind,
        query_heads=own("query_heads", defaults.query_heads),
        kv_heads=own("kv_heads", defaults.kv_heads),
        key_dim=key_dim,
        value_dim=own("value_dim", key_dim),
        tokens=tokens,
        keys=own("key_tokens", tokens),
        scale=own("scale", defaults.scale),
        softcap=entry.softcap,
        sinks=None if entry.sinks is None else np.array(entry.sinks),
        bias=entry.bias,
        mask=own("mask", plain),
        indexer=entry.indexer,
    )
