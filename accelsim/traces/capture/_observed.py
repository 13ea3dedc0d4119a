"""What was seen of a model's attention while it ran, and the layers of a trace made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces import Group, Indexer, LayerEntry, Mask
from accelsim.traces.capture._fitting import BiasBlock, fitting_bias, fitting_mask
from accelsim.traces.capture._recorder import Progress

_BIAS_BYTES = 1 << 31
"""Most bytes of biases on the scores that a capture holds at once."""


STACKS = ("encoder", "decoder", "vision", "language")
"""Stacks of a model that has several."""


@dataclass(frozen=True)
class Place:
    """Where an attention is in a model.

    Attributes:
        layer: number of the layer in its stack.
        group: the stack, of a model that has several.
        cross: whether its keys are those of the encoder.
    """

    layer: int
    group: Group | None = None
    cross: bool = False

    @property
    def aside(self) -> bool:
        """Whether its tokens are other than those that the trace counts."""
        return self.group in ("encoder", "vision")

    @property
    def order(self) -> tuple[bool, int, bool]:
        """Sorts places as a model runs them."""
        return (not self.aside, self.layer, self.cross)

    def __str__(self) -> str:
        words = (self.group, str(self.layer), "cross" if self.cross else None)
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Call:
    """One attention of one sequence, as a model computed it.

    Attributes:
        query: [query_heads, new, key_dim] float32.
        key: [kv_heads, at least the new keys, key_dim] float32; of a cross attention, all keys.
        value: [kv_heads, as many, value_dim] float32.
        output: [query_heads, new, value_dim] float32, before the output projection.
        seen: [new, keys], over all keys that the model held.
        scale: factor of the scores.
        causal: whether the model calls it causal.
        softcap: of the scores.
        sinks: of each query head.
        bias: added to the scaled scores, [query_heads, new or 1, keys] float32.
        cause: what may make it more than a trace holds.
    """

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    value: NDArray[np.float32]
    output: NDArray[np.float32]
    seen: NDArray[np.bool_]
    scale: float
    causal: bool
    softcap: float | None = None
    sinks: tuple[float, ...] | None = None
    bias: NDArray[np.float32] | None = None
    cause: str = ""


class Indexed(NamedTuple):
    """What an indexer ranked the new tokens of one pass by.

    Attributes:
        query: [index heads, new, dim] float32.
        key: [new, dim] float32.
        weight: [index heads, new] float32, with every factor of the scores in it.
        top_k: keys that a query chooses.
    """

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    weight: NDArray[np.float32]
    top_k: int


class Recorded(NamedTuple):
    """The layers of a trace.

    Attributes:
        tensors: ``layer.{i}.query`` and so on.
        outputs: of the model's own attention, by layer of the trace.
        entries: what is particular to each layer; empty where nothing is.
    """

    tensors: dict[str, NDArray[Any]]
    outputs: dict[int, NDArray[np.float32]]
    entries: tuple[LayerEntry, ...]


@dataclass
class _Facts:
    """What was seen of one place.

    Attributes:
        scale, softcap, sinks, causal, cause: of its first call.
        tokens: queries so far.
        keys: keys so far.
        first: of each call, first key of each query.
        end: of each call, one past the last.
        odd: calls in which keys between are hidden: position of the first query, of the first
            key, and what it sees.
        biases: of each call.
        parts: rows of query, key, value and output, call by call.
        sequences: sequences so far.
    """

    scale: float
    softcap: float | None
    sinks: tuple[float, ...] | None
    causal: bool
    cause: str
    tokens: int = 0
    keys: int = 0
    first: list[NDArray[np.int64]] = field(default_factory=list)
    end: list[NDArray[np.int64]] = field(default_factory=list)
    odd: list[tuple[int, int, NDArray[np.bool_]]] = field(default_factory=list)
    biases: list[BiasBlock] = field(default_factory=list)
    parts: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)

    def mask(self, causal: bool, cross: bool) -> Mask:
        """The simplest mask that says what its queries saw."""
        first, end = np.concatenate(self.first), np.concatenate(self.end)
        if not self.odd:
            whole = not first.any() and (end == self.keys).all()
            found = Mask(kind="full") if whole and cross else None
            found = found or (None if cross else fitting_mask(first, end, causal))
            if found is not None:
                return found
        return Mask(kind="stored")

    def bits(self) -> NDArray[np.uint8]:
        """What its queries saw, [tokens, bytes]."""
        bits = np.zeros((self.tokens, -(-self.keys // 8)), dtype=np.uint8)
        key = np.arange(self.keys)
        ends = zip(np.concatenate(self.first), np.concatenate(self.end), strict=True)
        for row, (first, end) in enumerate(ends):
            bits[row] = np.packbits((key >= first) & (key < end), bitorder="little")
        for start, past, seen in self.odd:
            whole = np.zeros((len(seen), self.keys), dtype=np.bool_)
            whole[:, past : past + seen.shape[1]] = seen
            bits[start : start + len(seen)] = np.packbits(whole, axis=1, bitorder="little")
        return bits

    def shape(self) -> dict[str, int]:
        """Sizes, as a layer's entry names them."""
        query, key, value = (self.parts[kind][0].shape for kind in ("query", "key", "value"))
        return {
            "query_heads": query[0], "kv_heads": key[0], "key_dim": query[2], "value_dim": value[2]
        }  # fmt: skip


class Observed:
    """Collects the attention of a model, pass by pass.

    Args:
        model: for errors.
        wanted: layers to keep, as the model numbers them; all if ``None``.
        num_layers: of the model, of those that run in every pass.
        steps: forward passes.
        progress: called after each attention.
        stack: the only one to keep, of :data:`STACKS`; all if ``None``. One whose tokens are other
            than those of the passes is kept as a model of its own.

    Attributes:
        prefix: whether the model may decode although it reads its prompt in both directions.
        alone: whether what is kept is a stack whose tokens are other than those of the passes.
        on_tower: told of each attention of a vision tower, kept or not.
    """

    def __init__(
        self,
        model: str,
        wanted: Sequence[int] | None,
        num_layers: int,
        steps: int,
        progress: Progress,
        stack: str | None = None,
    ) -> None:
        self.model, self.num_layers, self.decodes = model, num_layers, steps > 1
        self.seen_tokens = self._new = self._passes = self._done = self._bias_bytes = 0
        self.called: list[Place] = []
        self._wanted, self._progress, self._total = wanted, progress, num_layers * steps
        self._facts: dict[Place, _Facts] = {}
        self._indexes: dict[Place, list[Indexed]] = {}
        self._sharing: set[Place] = set()
        self._stack = stack
        self._last: tuple[Place, Call] | None = None
        self.prefix = False
        self.alone = stack in ("encoder", "vision")
        self.on_tower: Callable[[Place, Call], None] | None = None

    def _kept(self, place: Place) -> bool:
        """Whether a place is to be recorded."""
        right = self._stack is None or self._stack == (place.group or "language")
        return right and (self._wanted is None or place.layer in self._wanted)

    def begin(self, new: int) -> None:
        """Start a forward pass of ``new`` tokens; 0: of as many as its first attention has."""
        self.called = []
        self.seen_tokens += new
        self._new = new
        self._passes += 1

    def end(self) -> None:
        """Check a forward pass.

        Raises:
            TraceError: no layer called, or not those of the pass before.
        """
        self._last = None
        called = {place for place in self.called if not place.aside}
        if not called or called != {place for place in self._facts if not place.aside}:
            raise TraceError(
                f"{self.model}: {len(called)} of {self.num_layers} layers call transformers' "
                "attention interface, or are of a kind that accelsim knows; expected each that "
                "attends once a pass"
            )

    def check_stacks(self, there: Sequence[str]) -> None:
        """Refuse a model one of whose stacks was not seen.

        Args:
            there: names of those that it has.

        Raises:
            TraceError: names it, where it is to be recorded.
        """
        seen = {place.group or "language" for place in self._facts}
        for stack in there:
            if stack not in seen and self._stack in (None, stack):
                other = next((name for name in there if name in seen), "")
                raise TraceError(
                    f"{self.model}: no layer of its {stack} calls transformers' attention "
                    f"interface; expected --group {other}, to record that alone"
                )

    def add(self, place: Place, call: Call) -> None:
        """Keep an attention.

        Raises:
            TraceError: a second of its place in a pass with other probabilities, or other than in
                the pass before.
        """
        where = f"{self.model}: layer {place}"
        new, keys = call.seen.shape
        if place.aside:
            if self._passes > 1:
                raise TraceError(f"{where} runs again while decoding; expected one pass of it")
        elif place in self.called:
            self._widen(place, call)
            return
        elif not place.cross:
            self._check_self(where, call)
        if not call.seen.any(axis=1).all():
            raise TraceError(f"{where}: a query sees no key; expected at least its own")
        if place.group == "vision" and self.on_tower is not None:
            self.on_tower(place, call)
        self.called.append(place)
        facts = self._facts.setdefault(
            place, _Facts(call.scale, call.softcap, call.sinks, call.causal, call.cause)
        )
        if any(getattr(facts, n) != getattr(call, n) for n in ("scale", "softcap", "sinks")):
            raise TraceError(
                f"{where} changes its scale, soft cap or sinks from pass to pass; a trace holds "
                "one of each a layer"
            )
        self._keep_rules(facts, call, 0 if place.cross else facts.tokens + new - keys)
        if self._kept(place):
            self._keep_rows(place, facts, call)
        self._last = place, call
        facts.tokens += new
        facts.keys = keys if place.cross else facts.tokens
        if not place.aside:
            self._done += 1
        stage = "prefill" if self._passes == 1 else "decode"
        self._progress(stage, min(self._done, self._total), self._total)

    def index(self, place: Place, found: Indexed) -> None:
        """Keep what the indexer of a layer ranked its new tokens by."""
        parts = self._indexes.setdefault(place, [])
        if self._kept(place):
            query, key, weight = (np.array(tensor) for tensor in found[:3])
            parts.append(Indexed(query, key, weight, found.top_k))

    def shares_index(self, place: Place) -> None:
        """Note that a layer attends to what the last indexer before it chose."""
        self._sharing.add(place)

    def _indexer(
        self, index: int, place: Place, tensors: dict[str, NDArray[Any]]
    ) -> Indexer | None:
        """What chose the keys of a layer; its tensors are added, where it is the layer's own."""
        if place in self._sharing:
            before = [own for own in self._indexes if own.layer < place.layer]
            nearest = max(before, key=lambda own: own.layer, default=None)
            if nearest is None or not self._indexes[nearest]:
                return None  # not among the recorded layers
            return Indexer(top_k=self._indexes[nearest][0].top_k, shared=True)
        parts = self._indexes.get(place)
        if not parts:
            return None
        for kind, axis in (("query", 1), ("key", 0), ("weight", 1)):
            joined = np.concatenate([getattr(part, kind) for part in parts], axis=axis)
            tensors[f"layer.{index}.index_{kind}"] = joined
        heads, _, dim = parts[0].query.shape
        return Indexer(top_k=parts[0].top_k, heads=heads, dim=dim)

    def _widen(self, place: Place, call: Call) -> None:
        """Take in a second call of a place, whose values stand beside those of the first.

        Two attentions with the same probabilities are one whose values are as wide as both: so
        DiffLlama computes halves of its values.

        Raises:
            TraceError: other probabilities.
        """
        before, first = self._last if self._last is not None else (None, call)
        alike = before == place and all(
            np.array_equal(getattr(first, name), getattr(call, name))
            for name in ("query", "key", "seen")
        )
        told = ("scale", "softcap", "sinks")
        alike = alike and all(getattr(first, n) == getattr(call, n) for n in told)
        biased = first.bias is not None or call.bias is not None
        if biased and not np.array_equal(first.bias, call.bias):  # type: ignore[arg-type]
            alike = False
        if not alike:
            raise TraceError(
                f"{self.model}: layer {place} calls its attention twice a pass, with other "
                "queries, keys or masks; a trace holds one attention a layer"
            )
        if self._kept(place):
            parts, new = self._facts[place].parts, call.seen.shape[0]
            value = call.value if place.cross else call.value[:, -new:]
            for kind, more in (("value", value), ("output", call.output)):
                parts[kind][-1] = np.concatenate([parts[kind][-1], more], axis=2)

    def _check_self(self, where: str, call: Call) -> None:
        if self.decodes and not (call.causal or self.prefix):
            raise TraceError(
                f"{self.model}: its attention is bidirectional, which does not decode; expected "
                "--decode 0"
            )
        new, keys = call.seen.shape
        if not self._new:
            self.seen_tokens = self._new = new
        if new != self._new or keys > self.seen_tokens:
            raise TraceError(
                f"{where}: {new} queries and {keys} keys after {self.seen_tokens} tokens; expected "
                f"{self._new} queries and no more keys"
            )

    def _keep_rules(self, facts: _Facts, call: Call, past: int) -> None:
        """Keep what the queries saw, and what was added to their scores."""
        keys = call.seen.shape[1]
        first = call.seen.argmax(axis=1)
        end = keys - call.seen[:, ::-1].argmax(axis=1)
        facts.first.append(past + first)
        facts.end.append(past + end)
        if (call.seen.sum(axis=1) != end - first).any():
            facts.odd.append((facts.tokens, past, call.seen.copy()))
        if call.bias is not None and (facts.biases or call.bias.any()):
            self._bias_bytes += call.bias.nbytes
            if self._bias_bytes > _BIAS_BYTES:
                raise TraceError(
                    f"{self.model}: what it adds to its scores takes over {_BIAS_BYTES >> 30} GB; "
                    "expected fewer tokens or fewer --layers"
                )
            facts.biases.append(BiasBlock(facts.tokens, past, call.seen.copy(), call.bias))

    def _keep_rows(self, place: Place, facts: _Facts, call: Call) -> None:
        """Keep the vectors of the new tokens."""
        new = call.seen.shape[0]
        parts = {"query": call.query, "output": call.output}
        if not place.cross:
            parts |= {"key": call.key[:, -new:], "value": call.value[:, -new:]}
        elif "key" not in facts.parts:
            parts |= {"key": call.key, "value": call.value}
        elif not np.array_equal(facts.parts["key"][0], call.key):
            raise TraceError(
                f"{self.model}: layer {place} changes its keys from pass to pass; a trace holds "
                "one set of them"
            )
        for kind, rows in parts.items():
            facts.parts.setdefault(kind, []).append(np.array(rows, dtype=np.float32))

    def places(self) -> list[Place]:
        """What was recorded, in the order of the trace.

        Raises:
            TraceError: a layer that was asked for does not attend.
        """
        found = sorted(self._facts, key=lambda place: place.order)
        if self._stack is not None:
            found = [p for p in found if self._stack == (p.group or "language")]
        there = sorted({place.layer for place in found})
        for layer in self._wanted or ():
            if layer not in there:
                shown = ", ".join(str(n) for n in there)
                raise TraceError(
                    f"{self.model}: layer {layer} has no attention to record; expected some of "
                    f"{shown[:80]}"
                )
        return [place for place in found if self._kept(place)]

    def labels(self) -> list[str]:
        """Names of what was recorded, for people."""
        return [str(place) for place in self.places()]

    def attentions(self) -> int:
        """How many attentions the model has."""
        return len(self._facts) if self._grouped() else self.num_layers

    def _grouped(self) -> bool:
        return any(place.group for place in self._facts)

    def main(self) -> int:
        """Which layer of the trace is the first of the tokens that it counts."""
        return next(i for i, place in enumerate(self.places()) if not self._beside(place))

    def _beside(self, place: Place) -> bool:
        """Whether the tokens of a place are other than those that the trace counts."""
        return place.aside and not self.alone

    def tokens(self) -> int:
        """Tokens that the trace counts."""
        return self._facts[self.places()[self.main()]].tokens

    def causal(self) -> bool:
        """Whether no query saw a later token."""
        after = np.arange(self.tokens()) + 1
        own = [self._facts[p] for p in self.places() if not (self._beside(p) or p.cross)]
        # Of one token, the model says what it is.
        return all(
            bool((np.concatenate(one.end) <= after).all()) and (one.causal or len(after) > 1)
            for one in own
        )

    def scale(self) -> float:
        """Factor of the scores of that layer."""
        return self._facts[self.places()[self.main()]].scale

    def causes(self) -> tuple[str, ...]:
        """For each recorded layer, what may make it more than a trace holds."""
        return tuple(self._facts[place].cause for place in self.places())

    def finish(self) -> Recorded:
        """Join what was kept, which is gone then."""
        places = self.places()
        tensors: dict[str, NDArray[Any]] = {}
        outputs: dict[int, NDArray[np.float32]] = {}
        entries = []
        common = self._facts[places[self.main()]].shape()
        for index, place in enumerate(places):
            facts = self._facts[place]
            entry = self._entry(place, facts, common)
            indexer = self._indexer(index, place, tensors)
            if indexer is not None:
                entry = entry.model_copy(update={"indexer": indexer})
            if entry.mask is not None and entry.mask.kind == "stored":
                tensors[f"layer.{index}.mask"] = facts.bits()
            if facts.biases:
                bias, table = fitting_bias(facts.biases, facts.tokens, facts.keys)
                entry = entry.model_copy(update={"bias": bias})
                if table is not None:
                    tensors[f"layer.{index}.bias"] = table
                facts.biases.clear()
            entries.append(entry)
            for kind in ("query", "key", "value", "output"):
                rows = np.concatenate(facts.parts[kind], axis=1)
                facts.parts[kind].clear()
                if kind == "output":
                    outputs[index] = rows
                else:
                    tensors[f"layer.{index}.{kind}"] = rows
        plain = all(entry == LayerEntry() for entry in entries)
        return Recorded(tensors, outputs, () if plain else tuple(entries))

    def _entry(self, place: Place, facts: _Facts, common: dict[str, int]) -> LayerEntry:
        causal, own = self.causal(), facts.shape()
        differs: dict[str, Any] = {
            n: v for n, v in own.items() if n != "value_dim" and v != common[n]
        }
        if own["value_dim"] != own["key_dim"]:
            differs["value_dim"] = own["value_dim"]
        group, beside = None if self.alone else place.group, self._beside(place)
        if group or (not self._grouped() and len(self._facts) < self.num_layers):
            differs["model_layer"] = place.layer
        if facts.scale != self.scale():
            differs["scale"] = facts.scale
        if beside:
            differs["query_tokens"] = facts.tokens
        if place.cross:
            differs |= {"kind": "cross", "key_tokens": facts.keys}
        mask = facts.mask(causal and not beside, place.cross)
        if mask.kind != ("causal" if causal and not (beside or place.cross) else "full"):
            differs["mask"] = mask
        return LayerEntry(group=group, softcap=facts.softcap, sinks=facts.sinks, **differs)
