"""AttentionTrace: queries, keys and values of a real model, read lazily from disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.traces._layers import INDEX, Layer, LayerEntry, Mask, resolved
from accelsim.traces._stacks import Stack, stacks_of

SCHEMA = "attention-trace/1"
SCHEMA_2 = "attention-trace/2"
"""Written only where the first cannot say how a layer attends."""

SYSTEM, TEXT, IMAGE, VIDEO = range(4)
"""What a token is, in the tensor ``token_type``."""

TOKEN_TYPES = ("system", "text", "image", "video")
"""Their names."""

SCORE = "score."
"""How the names of tensors with imported scores begin."""

CLASS = re.compile(r"vision\.layer\.([0-9]{1,9})\.cls")
"""Name of the attention of [CLS] in a layer of a vision tower."""

OWN_SCALE = "a scale of its own"
"""Of the layers whose scale is not that of the first; see :meth:`AttentionTrace.beyond`."""

OTHER_HEADS = "another number of query heads"
OTHER_KV_HEADS = "another number of KV heads"
OTHER_WIDTHS = "vectors of another width"
"""Of the layers whose heads, or whose keys and values, are not of the first's number or width."""


class TensorSource(Protocol):
    """Where the tensors of a trace come from: a mapped file, shards, or memory."""

    def names(self) -> set[str]:
        """Names of all tensors."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor; bfloat16 comes as float32."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        ...


class Index(NamedTuple):
    """What an indexer ranks keys by.

    Attributes:
        query: [index heads, tokens, dim] float32, after rotation.
        key: [tokens, dim] float32, likewise.
        weight: [index heads, tokens] float32, with every factor of the scores in it.
        top_k: keys that a query chooses.
        layer: whose indexer it is: another than the one asked for where layers share a choice.
    """

    query: NDArray[np.float32]
    key: NDArray[np.float32]
    weight: NDArray[np.float32]
    top_k: int
    layer: int

    def scores(self, positions: NDArray[np.int64], keys: int) -> NDArray[np.float64]:
        """Scores of the first ``keys`` keys for the queries at ``positions``, [rows, keys]."""
        total = np.zeros((len(positions), keys))
        key = self.key[:keys].T.astype(np.float64)
        for query, weight in zip(self.query, self.weight, strict=True):
            products = query[positions].astype(np.float64) @ key
            np.maximum(products, 0.0, out=products)
            products *= weight[positions].astype(np.float64)[:, None]
            total += products
        return total


@dataclass(frozen=True)
class AttentionTrace:
    """Recorded attention of one run of a model: a prefill, then decode steps.

    Attributes:
        model: name of the model.
        source: where weights and text come from.
        num_layers: recorded layers, 0 to num_layers - 1.
        num_query_heads: query heads per layer.
        num_kv_heads: key/value heads per layer; divides ``num_query_heads``.
        head_dim: elements of one query, key or value vector.
        causal: whether a query sees only tokens up to its own.
        prefill_tokens: tokens processed together at the start.
        decode_tokens: tokens processed one at a time after it.
        scale: factor of the scores before the softmax.
        recorded_under: ``dense`` or the YAML of the policy that ran inside the model.
        text: the text, or its beginning.
        tokens_sha256: SHA-256 of the token ids as little-endian int32.
        layers: what is particular to each layer, where that is more than the fields above say;
            else empty.
        proof_error: largest difference, relative to the largest output of the head, between the
            attention computed from this trace and what the model's own returned; ``None`` where
            the trace was not proven.
        path: the file, for messages.
        further: other sequences that ran in one batch with this one, of the same model; each has
            tokens and tensors of its own, and none of these.
    """

    model: str
    source: str
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    causal: bool
    prefill_tokens: int
    decode_tokens: int
    scale: float
    tensors: TensorSource = field(repr=False, compare=False)
    recorded_under: str = "dense"
    text: str = ""
    tokens_sha256: str = ""
    layers: tuple[LayerEntry, ...] = ()
    proof_error: float | None = None
    path: str = "(in memory)"
    further: tuple[AttentionTrace, ...] = field(default=(), repr=False)

    @property
    def sequences(self) -> tuple[AttentionTrace, ...]:
        """Every sequence of the batch, each as a trace of its own; of most traces one."""
        return (replace(self, further=()), *self.further) if self.further else (self,)

    def alone(self, for_what: str) -> AttentionTrace:
        """Return the trace.

        Args:
            for_what: what takes one sequence, for the error.

        Raises:
            TraceError: it is of several sequences.
        """
        if self.further:
            raise TraceError(
                f"{self.path}: is a batch of {len(self.sequences)} sequences; expected one, for "
                f"{for_what}"
            )
        return self

    @property
    def tokens(self) -> int:
        """All tokens: prefill + decode."""
        return self.prefill_tokens + self.decode_tokens

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_query_heads // self.num_kv_heads

    @property
    def has_values(self) -> bool:
        """Whether values were recorded; a trace on disk always has them."""
        return self.layer(0).kind == "latent" or "layer.0.value" in self.tensors.names()

    @property
    def token_ids(self) -> NDArray[np.int32] | None:
        """Token ids [tokens], or ``None`` if they were not recorded."""
        if "token_ids" not in self.tensors.names():
            return None
        return self.tensors.read("token_ids").astype(np.int32)

    @property
    def token_type(self) -> NDArray[np.int8] | None:
        """What each token is, :data:`TOKEN_TYPES` [tokens] int8, or ``None`` if not recorded."""
        if "token_type" not in self.tensors.names():
            return None
        return self.tensors.read("token_type").astype(np.int8)

    @property
    def frame(self) -> NDArray[np.int16] | None:
        """Image or frame of a video that each token is of, [tokens] int16; -1 of text."""
        if "frame" not in self.tensors.names():
            return None
        return self.tensors.read("frame").astype(np.int16)

    @property
    def scores(self) -> dict[str, NDArray[np.float32]]:
        """What another program gave to each token, [layers, tokens] by name: ``score.NAME``."""
        names = sorted(name for name in self.tensors.names() if name.startswith(SCORE))
        return {
            name.removeprefix(SCORE): self.tensors.read(name).astype(np.float32) for name in names
        }

    @property
    def embedding(self) -> NDArray[np.float32] | None:
        """What the first layer is given of each token, [tokens, width], or ``None``."""
        if "embedding" not in self.tensors.names():
            return None
        return self.tensors.read("embedding").astype(np.float32)

    def hidden(self, layer: int) -> NDArray[np.float32] | None:
        """What a layer is given, under the model's last norm, [tokens, width], or ``None``."""
        return self._read_if_there(layer, "hidden")

    def transition(self, layer: int) -> NDArray[np.float32] | None:
        """What attention and FFN do to each token, [2, tokens, 2], or ``None``.

        The norm of the module's output over that of its (normalised) input, and their cosine.
        """
        return self._read_if_there(layer, "transition")

    def class_attention(self) -> dict[int, NDArray[np.float32]]:
        """Attention of [CLS] to each patch in the layers of a vision tower, [heads, patches]."""
        found = (CLASS.fullmatch(name) for name in self.tensors.names())
        layers = sorted(int(match[1]) for match in found if match)
        return {n: self.tensors.read(f"vision.layer.{n}.cls").astype(np.float32) for n in layers}

    def layer(self, layer: int) -> Layer:
        """How a layer attends.

        Raises:
            TraceError: a layer that the trace does not hold.
        """
        self._check_layer(layer)
        found = self._resolved.get(layer)
        if found is None:
            entry = self.layers[layer] if self.layers else LayerEntry()
            found = resolved(layer, entry, self._common(), self.causal)
            self._resolved[layer] = found
        return found

    @cached_property
    def _resolved(self) -> dict[int, Layer]:
        """Layers that were asked for: a run asks for each some ten times."""
        return {}

    @property
    def plain(self) -> bool:
        """Whether all layers attend alike, as ``attention-trace/1`` says."""
        return all(entry == LayerEntry() for entry in self.layers)

    def stacks(self) -> list[Stack]:
        """Stacks in the order in which the model runs them; of most models one, the whole trace."""
        return stacks_of(self)

    def of_group(self, name: str) -> AttentionTrace:
        """One stack as a trace of its own.

        Args:
            name: ``encoder``, ``decoder``, ``vision`` or ``language``.

        Raises:
            TraceError: no such stack.
        """
        self.alone("one group")
        found = [stack for stack in self.stacks() if stack.name == name]
        if len(found) != 1:
            there = ", ".join(dict.fromkeys(stack.name for stack in self.stacks()))
            told = "several of other numbers of tokens" if found else there
            raise TraceError(f"{self.path}: group '{name}': the trace has {told}")
        return found[0].trace

    def beyond(self) -> dict[str, int]:
        """What the layers have that ``attention-trace/1`` has not, in words, and the first such."""
        found: dict[str, int] = {}
        first = self.layer(0)
        for index in range(self.num_layers if self.layers else 0):
            own = self.layer(index)
            words = own.beyond()
            if own.query_heads != first.query_heads:
                words.append(OTHER_HEADS)
            if own.kv_heads != first.kv_heads:
                words.append(OTHER_KV_HEADS)
            if own.widths != first.widths:
                words.append(OTHER_WIDTHS)
            if own.scale != first.scale:
                words.append(OWN_SCALE)
            plain = not own.aside and own.kind != "cross" and own.mask.kind in ("causal", "full")
            if plain and self.causal != (own.mask.kind == "causal"):
                words.append("causal and full layers side by side")
            for word in words:
                found.setdefault(word, index)
        return found

    def seen(self, layer: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Keys that queries may see, [rows, keys].

        Args:
            layer: where.
            positions: of the queries, [rows].
        """
        own = self.layer(layer)
        if own.mask.kind == "stored":
            bits = self.mask_bits(layer)[positions]
            seen = np.unpackbits(bits, axis=1, count=own.keys, bitorder="little")
            return seen.astype(np.bool_)
        key = np.arange(own.keys)[None, :]
        first, end = own.mask.first(positions), own.mask.end(positions, own.keys)
        return np.asarray((key >= first[:, None]) & (key < end[:, None]))

    def mask_bits(self, layer: int) -> NDArray[np.uint8]:
        """Bits of a stored mask, [tokens, bytes]: bit j mod 8 of byte j // 8 is key j."""
        return self.tensors.read(f"layer.{layer}.mask")

    def bias(
        self, layer: int, positions: NDArray[np.int64], first: int, end: int
    ) -> NDArray[np.float64] | None:
        """What is added to the scaled scores of queries, [query_heads, rows, end - first].

        Args:
            layer: where.
            positions: of the queries, [rows].
            first: key that the first column stands for.
            end: one past that of the last.

        Returns:
            ``None`` where the layer adds nothing.
        """
        bias = self.layer(layer).bias
        if bias is None:
            return None
        away = np.arange(first, end)[None, :] - positions[:, None]
        if bias.slopes is not None:
            return np.asarray(np.array(bias.slopes)[:, None, None] * away)
        if bias.kind == "stored":
            stored = self.tensors.read(f"layer.{layer}.bias")
            return stored[:, positions, first:end].astype(np.float64)
        table = self._read(layer, "bias")
        return table.astype(np.float64)[:, bias.by_distance(away)]

    def index(self, layer: int) -> Index | None:
        """What ranks the keys of a layer: its own indexer, or that whose choice it shares."""
        found = self.layer(layer).indexer
        if found is None:
            return None
        while found is None or found.shared:
            layer -= 1
            found = self.layer(layer).indexer
        query, key, weight = (self._read(layer, kind) for kind in INDEX)
        return Index(query, key, weight, found.top_k, layer)

    def query(self, layer: int) -> NDArray[np.float32]:
        """Queries of a layer, [query_heads, tokens, key_dim] float32, after rotation."""
        return self._read(layer, "query")

    def key(self, layer: int) -> NDArray[np.float32]:
        """Keys of a layer, [kv_heads, keys, key_dim] float32, after rotation."""
        return self._read(layer, "key")

    def value(self, layer: int) -> NDArray[np.float32]:
        """Values of a layer, [kv_heads, keys, value_dim] float32."""
        own = self.layer(layer)
        if own.kind == "latent":
            return self._read(layer, "key")[..., : own.value_dim]
        return self._read(layer, "value")

    def _read(self, layer: int, kind: str) -> NDArray[np.float32]:
        self._check_layer(layer)
        return self.tensors.read(f"layer.{layer}.{kind}").astype(np.float32, copy=False)

    def _read_if_there(self, layer: int, kind: str) -> NDArray[np.float32] | None:
        self._check_layer(layer)
        there = f"layer.{layer}.{kind}" in self.tensors.names()
        return self._read(layer, kind) if there else None

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.num_layers:
            raise TraceError(
                f"{self.path}: layer {layer}: expected 0 to {self.num_layers - 1}, as recorded"
            )

    def beside(self) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Name and shape of every optional tensor of floats that the trace has; ``None``: any size.

        Raises:
            TraceError: a name that no such tensor may have.
        """
        for name in sorted(self.tensors.names()):
            own = re.fullmatch(r"layer\.([0-9]{1,9})\.(transition|hidden)", name)
            if name == "embedding":
                yield name, (self.tokens, None)
            elif CLASS.fullmatch(name):
                yield name, (None, None)
            elif own:
                if int(own[1]) >= self.num_layers or self.layer(int(own[1])).aside:
                    raise TraceError(
                        f"{self.path}: tensor '{name}': expected a layer of the tokens that the "
                        "trace counts"
                    )
                yield name, (2, self.tokens, 2) if own[2] == "transition" else (self.tokens, None)

    def _common(self) -> Layer:
        """What the fields say of every layer."""
        return Layer(
            model_layer=0, kind="self", query_heads=self.num_query_heads,
            kv_heads=self.num_kv_heads, key_dim=self.head_dim, value_dim=self.head_dim,
            tokens=self.tokens, keys=self.tokens, scale=self.scale, softcap=None, sinks=None,
            stack=None, bias=None, mask=Mask(kind="causal" if self.causal else "full"),
        )  # fmt: skip

    def expected_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor that the schema asks for, layer by layer."""
        for layer in range(self.num_layers):
            own = self.layer(layer)
            for kind, shape in own.tensors().items():
                yield f"layer.{layer}.{kind}", shape
            bias = own.bias_shape()
            if bias is not None:
                yield f"layer.{layer}.bias", bias
            if own.mask.kind == "stored":
                yield f"layer.{layer}.mask", (own.tokens, -(-own.keys // 8))
            if own.indexer is not None:
                for kind, sizes in own.indexer.tensors(own.tokens).items():
                    yield f"layer.{layer}.{kind}", sizes
