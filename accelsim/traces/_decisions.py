"""Decisions: which tokens of a trace stay in the cache, recorded elsewhere, in a file beside it.

A sidecar is one safetensors file, memory-mapped and never unpickled: for each layer, the decoding
steps at which the kept set changes, and for each change and KV head the ascending tokens that stay.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import files
from accelsim.errors import TraceError, did_you_mean
from accelsim.traces._file import MappedTensors, canonical, digest_of_file
from accelsim.traces._trace import AttentionTrace

DECISIONS_SCHEMA = "attention-decisions/1"
_REQUIRED = (
    "accelsim.schema", "press", "source", "model", "tokens_sha256", "trace_sha256", "num_layers",
    "num_kv_heads", "prefill_tokens", "decode_tokens",
)  # fmt: skip
_PARTS = ("steps", "rows", "kept")
_MAX_LAYERS = 10_000
_MAX_COUNT = 1 << 24

Indexes = NDArray[np.int32]


@dataclass(frozen=True)
class SelectionCost:
    """What a selection rule asks for beside the attention, summed over the KV heads of one layer.

    Counted once for each change of the kept set, for the context that it selects from.

    Attributes:
        vectors: keys and values that are read to be ranked, of head_dim elements each.
        products: multiplications.
        sorted: scores that are given to a top-k or an arg-min.
    """

    vectors: int
    products: int
    sorted: int


@dataclass(frozen=True)
class LayerDecisions:
    """Kept sets of one layer.

    Attributes:
        steps: [changes] int32, ascending decoding steps before whose query a set takes effect; step
            0 is the first query after the prompt. None: everything is kept.
        rows: [changes * kv_heads + 1] int32; set ``c`` of KV head ``h`` is
            ``kept[rows[i]:rows[i + 1]]`` with ``i = c * kv_heads + h``.
        kept: [sum of the sets] int32, tokens, ascending in each set.
    """

    steps: Indexes
    rows: Indexes
    kept: Indexes

    def set_of(self, change: int, head: int, kv_heads: int) -> Indexes:
        """Tokens that a KV head keeps from a change on; what comes after it stays too."""
        row = change * kv_heads + head
        return self.kept[self.rows[row] : self.rows[row + 1]]


@dataclass(frozen=True)
class Decisions:
    """Recorded decisions over one trace.

    Attributes:
        press: what decided, as ``--press`` takes it.
        source: the rule with all its parameters, and what ran it.
        model: name of the model.
        tokens_sha256: of the token ids of the trace.
        trace_sha256: of the file of the trace; empty for a text of which no trace was written.
        num_kv_heads: KV heads of each layer.
        prefill_tokens: tokens of the prompt.
        decode_tokens: tokens after it.
        layers: kept sets.
        ratio: part of the cache that was asked to be removed; ``None`` where the rule takes none.
        cost: of one selection of one layer; ``None``: not declared.
        path: the file, for messages.
    """

    press: str
    source: str
    model: str
    tokens_sha256: str
    trace_sha256: str
    num_kv_heads: int
    prefill_tokens: int
    decode_tokens: int
    layers: tuple[LayerDecisions, ...]
    ratio: float | None = None
    cost: SelectionCost | None = None
    path: str = "(in memory)"

    @property
    def num_layers(self) -> int:
        """Layers of the trace."""
        return len(self.layers)

    @property
    def selections(self) -> int:
        """Changes of kept sets, summed over the layers."""
        return sum(len(layer.steps) for layer in self.layers)

    def kept_fraction(self) -> float:
        """Part of the prompt's keys that stay before the first decoded query, over all heads."""
        whole = self.num_layers * self.num_kv_heads * self.prefill_tokens
        stay = 0
        for layer in self.layers:
            first = len(layer.steps) > 0 and layer.steps[0] == 0
            kept = int(layer.rows[self.num_kv_heads]) if first else 0
            stay += kept if first else self.num_kv_heads * self.prefill_tokens
        return stay / whole if whole else 1.0

    def why_not(self, trace: AttentionTrace) -> str:
        """Say why the decisions are not those of a trace, or return an empty string."""
        explain = self.why_not_shape(
            trace.num_layers, trace.num_kv_heads, trace.prefill_tokens, trace.decode_tokens
        )
        if explain:
            return explain
        if self.tokens_sha256 != trace.tokens_sha256:
            return f"decisions {self.path} are of other tokens; expected those of this trace"
        file = Path(trace.path)
        if self.trace_sha256 and file.is_file() and digest_of_file(file) != self.trace_sha256:
            return (
                f"decisions {self.path} are of another trace of these tokens (by "
                f"{self.model[:60]}); expected 'trace_sha256' to be that of this file"
            )
        return ""

    def why_not_shape(self, layers: int, kv_heads: int, prefill: int, decode: int) -> str:
        """Say why the decisions do not fit a model and a text, or return an empty string."""
        own = (self.num_layers, self.num_kv_heads, self.prefill_tokens, self.decode_tokens)
        asked = (layers, kv_heads, prefill, decode)
        if own == asked:
            return ""
        words = "{} layers, {} KV heads, {} + {} tokens"
        return (
            f"decisions {self.path} are of {self.model[:60]} with {words.format(*own)}; expected "
            f"{words.format(*asked)}"
        )


def layer_decisions(sets: Sequence[tuple[int, Sequence[NDArray[Any]]]]) -> LayerDecisions:
    """Pack the kept sets of a layer.

    Args:
        sets: for each change, its step and the ascending tokens of each KV head.
    """
    each = [np.asarray(tokens, dtype=np.int32) for _, heads in sets for tokens in heads]
    lengths = [len(tokens) for tokens in each]
    return LayerDecisions(
        np.array([step for step, _ in sets], dtype=np.int32),
        np.cumsum([0, *lengths], dtype=np.int64).astype(np.int32),
        np.concatenate(each, dtype=np.int32) if each else np.zeros(0, dtype=np.int32),
    )


def save_decisions(decisions: Decisions, path: str | Path) -> None:
    """Write a sidecar; the file appears whole or not at all.

    Raises:
        TraceError: sets that do not follow the schema, or a folder that cannot be written.
    """
    from safetensors.numpy import save

    metadata = {
        "accelsim.schema": DECISIONS_SCHEMA,
        "press": decisions.press,
        "source": decisions.source,
        "model": decisions.model,
        "tokens_sha256": decisions.tokens_sha256,
        "trace_sha256": decisions.trace_sha256,
        "num_layers": str(decisions.num_layers),
        "num_kv_heads": str(decisions.num_kv_heads),
        "prefill_tokens": str(decisions.prefill_tokens),
        "decode_tokens": str(decisions.decode_tokens),
    }
    if decisions.ratio is not None:
        metadata["ratio"] = repr(float(decisions.ratio))
    if decisions.cost is not None:
        metadata["cost"] = json.dumps(dataclasses.asdict(decisions.cost))
    tensors = {}
    for number, layer in enumerate(decisions.layers):
        _check_layer(str(path), number, layer, decisions)
        for part in _PARTS:
            tensors[f"layer.{number}.{part}"] = np.ascontiguousarray(getattr(layer, part))
    payload = canonical(save(tensors, metadata))
    with files.whole_file(path, TraceError) as stream:
        stream.write(payload)


def load_decisions(path: str | Path) -> Decisions:
    """Read a sidecar, and check every index.

    Raises:
        TraceError: no ``attention-decisions/1`` file; names the key or tensor and what was
            expected.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise TraceError(f"{path}: no such file; expected recorded decisions (.safetensors)")
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: cannot be read ({error})") from None
    tensors = MappedTensors([path])
    meta = tensors.metadata
    found = meta.get("accelsim.schema")
    if found != DECISIONS_SCHEMA:
        given = "missing" if found is None else ascii(found[:40])
        raise TraceError(
            f"{path}: metadata 'accelsim.schema' is {given}; expected '{DECISIONS_SCHEMA}'"
        )
    for key in _REQUIRED:
        if key not in meta:
            raise TraceError(f"{path}: metadata '{key}' is missing{did_you_mean(key, meta)}")
    count = {
        key: _integer(path, meta, key, low, high)
        for key, low, high in (
            ("num_layers", 1, _MAX_LAYERS), ("num_kv_heads", 1, _MAX_LAYERS),
            ("prefill_tokens", 0, _MAX_COUNT), ("decode_tokens", 0, _MAX_COUNT),
        )
    }  # fmt: skip
    layers = tuple(_read_layer(path, tensors, number) for number in range(count["num_layers"]))
    unknown = tensors.names() - {f"layer.{i}.{p}" for i in range(len(layers)) for p in _PARTS}
    if unknown:
        raise TraceError(
            f"{path}: tensor '{min(unknown)[:80]}': expected layer.N.{{{', '.join(_PARTS)}}} of "
            f"{len(layers)} layers only"
        )
    decisions = Decisions(
        press=meta["press"],
        source=meta["source"],
        model=meta["model"],
        tokens_sha256=meta["tokens_sha256"],
        trace_sha256=meta["trace_sha256"],
        num_kv_heads=count["num_kv_heads"],
        prefill_tokens=count["prefill_tokens"],
        decode_tokens=count["decode_tokens"],
        layers=layers,
        ratio=_ratio(path, meta),
        cost=_cost(path, meta),
        path=str(path),
    )
    for number, layer in enumerate(layers):
        _check_layer(str(path), number, layer, decisions)
    return decisions


def _read_layer(path: Path, tensors: MappedTensors, number: int) -> LayerDecisions:
    parts = []
    for part in _PARTS:
        name = f"layer.{number}.{part}"
        if name not in tensors.names():
            raise TraceError(f"{path}: tensor '{name}' is missing")
        if tensors.dtype(name) != "I32" or len(tensors.shape(name)) != 1:
            raise TraceError(f"{path}: tensor '{name}': expected int32 with one axis")
        parts.append(tensors.read(name))
    return LayerDecisions(*parts)


def _check_layer(path: str, number: int, layer: LayerDecisions, of: Decisions) -> None:
    """Check that the sets of a layer are ascending tokens of the context.

    Raises:
        TraceError: names the tensor, and what was expected.
    """

    def fail(part: str, expected: str) -> TraceError:
        return TraceError(f"{path}: tensor 'layer.{number}.{part}': {expected}")

    steps, rows, kept = (np.asarray(getattr(layer, part), dtype=np.int64) for part in _PARTS)
    last = max(of.decode_tokens - 1, 0)
    if len(steps) and (steps[0] < 0 or steps[-1] > last or (np.diff(steps) <= 0).any()):
        raise fail("steps", f"expected ascending steps from 0 to {last}")
    if len(rows) != len(steps) * of.num_kv_heads + 1:
        raise fail(
            "rows", f"has {len(rows)} entries; expected {len(steps) * of.num_kv_heads + 1} "
            f"({len(steps)} changes of {of.num_kv_heads} KV heads, and one)",
        )  # fmt: skip
    if rows[0] != 0 or rows[-1] != len(kept) or (np.diff(rows) < 0).any():
        raise fail("rows", f"expected ascending pointers from 0 to {len(kept)}")
    sizes = np.diff(rows)
    ends = np.repeat(np.repeat(of.prefill_tokens + steps, of.num_kv_heads), sizes)
    outside = (kept < 0) | (kept >= ends)
    if outside.any():
        at = int(np.argmax(outside))
        raise fail("kept", f"token {kept[at]}; expected 0 to {ends[at] - 1}, the context")
    falls = np.flatnonzero(np.diff(kept) <= 0) + 1
    # Where a set begins, a token may be smaller than the one before it.
    falls = falls[~np.isin(falls, rows)]
    if len(falls):
        at = int(falls[0])
        raise fail("kept", f"token {kept[at]} after {kept[at - 1]}; expected ascending, each once")


def _integer(path: Path, meta: dict[str, str], key: str, low: int, high: int) -> int:
    text = meta[key]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise TraceError(
            f"{path}: metadata '{key}' is {text[:40]!a}; expected an integer from {low} to {high}"
        )
    return int(text)


def _ratio(path: Path, meta: dict[str, str]) -> float | None:
    if "ratio" not in meta:
        return None
    try:
        ratio = float(meta["ratio"])
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise TraceError(
            f"{path}: metadata 'ratio' is {meta['ratio'][:40]!a}; expected a number in [0, 1)"
        )
    return ratio


def _cost(path: Path, meta: dict[str, str]) -> SelectionCost | None:
    if "cost" not in meta:
        return None
    names = [field.name for field in dataclasses.fields(SelectionCost)]
    try:
        given = json.loads(meta["cost"])
        good = sorted(given) == sorted(names)
        good = good and all(type(given[n]) is int and 0 <= given[n] < 1 << 62 for n in names)
    except (ValueError, TypeError, KeyError, RecursionError):
        good = False
    if not good:
        raise TraceError(
            f"{path}: metadata 'cost' is {meta['cost'][:40]!a}; expected JSON with counts "
            f"{', '.join(names)}"
        )
    return SelectionCost(**given)


def segments(layer: LayerDecisions, prefill_tokens: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Positions of queries under each change: first, and one past the last.

    Args:
        layer: whose changes.
        prefill_tokens: position of the first query after the prompt.
        tokens: of the whole text.
    """
    starts = [prefill_tokens + int(step) for step in layer.steps]
    yield from zip(starts, [*starts[1:], tokens][: len(starts)], strict=True)
