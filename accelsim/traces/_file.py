"""The file of a trace: safetensors, memory-mapped, never unpickled.

One ``.safetensors`` file, or the usual ``.safetensors.index.json`` beside its shards. Everything a
file can get wrong is reported with its path, the tensor or metadata key, and what was expected.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import files
from accelsim.errors import TraceError, did_you_mean
from accelsim.traces._layers import INDEX, LayerEntry, check_layer, read_layers, write_layers
from accelsim.traces._sequences import SequenceTensors, prefix, read_sequences, write_sequences
from accelsim.traces._shipped import trace_names, trace_path
from accelsim.traces._trace import IMAGE, SCHEMA, SCHEMA_2, SCORE, TOKEN_TYPES, AttentionTrace

FLOAT_TYPES = ("F16", "BF16", "F32")
_MAX_HEADER_BYTES = 100_000_000
_LIMIT = 1 << 31
_ROWS = 1024
_SCALES = (1e-9, 1e9)
REQUIRED = (
    "accelsim.schema",
    "model",
    "source",
    "tokens_sha256",
    "num_layers",
    "num_query_heads",
    "num_kv_heads",
    "head_dim",
    "causal",
    "prefill_tokens",
    "decode_tokens",
    "scale",
    "recorded_under",
)
"""Metadata that every trace has."""
_NUMPY = {
    "F16": np.float16, "F32": np.float32, "BF16": np.uint16, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
_OF_TOKENS = {"token_ids": "I32", "token_type": "I8", "frame": "I16"}
"""Tensors [tokens] that a trace may have, and their types."""


class MappedTensors:
    """Tensors of one or more safetensors files, mapped and read on demand."""

    def __init__(self, paths: list[Path]) -> None:
        self._place: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        self.metadata: dict[str, str] = {}
        for path in paths:
            self._open(path)

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._place)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._place[name][2]

    def dtype(self, name: str) -> str:
        """Safetensors name of the element type: F16, BF16, F32, I32, I16, I8, U8."""
        return self._place[name][1]

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor as an array; bfloat16 is widened to float32."""
        path, kind, shape, offset = self._place[name]
        size = math.prod(shape) * _BYTES[kind]
        raw = self._maps[path][offset : offset + size].view(_NUMPY[kind]).reshape(shape)
        if kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw

    def _open(self, path: Path) -> None:
        header, start, size = _read_header(path)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise TraceError(f"{path}: header key '__metadata__': expected a mapping of strings")
        for key, value in metadata.items():
            if self.metadata.setdefault(key, str(value)) != str(value):
                raise TraceError(
                    f"{path}: metadata {ascii(key)[:80]} differs from the other shards"
                )
        self._maps[path] = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        spans = []
        for name, entry in header.items():
            if not name.isprintable():
                raise TraceError(f"{path}: tensor {ascii(name)[:80]}: expected a printable name")
            kind, shape, begin = _check_entry(path, name, entry, size - start)
            if name in self._place:
                raise TraceError(f"{path}: tensor '{name[:80]}' is in two shards")
            self._place[name] = (path, kind, shape, start + begin)
            spans.append((begin, begin + math.prod(shape) * _BYTES[kind], name))
        _check_spans(path, spans, size - start)


class MemoryTensors:
    """Tensors held in memory, for synthetic traces and tests."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = dict(tensors)

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._tensors[name].shape

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor."""
        return self._tensors[name]


def load_trace(path: str | Path) -> AttentionTrace:
    """Open a trace; tensors are mapped, and read only when asked for.

    Args:
        path: a file, or the name of a trace that comes with accelsim.

    Raises:
        TraceError: the file is no ``attention-trace/1`` or ``/2``; names the key or tensor and what
            was expected.
    """
    named = isinstance(path, str) and not os.path.exists(path) and path in trace_names()
    path = trace_path(str(path)) if named else Path(path)
    try:
        if path.is_dir():
            raise TraceError(f"{path}: is a folder; expected a .safetensors file")
        if not path.exists():
            raise TraceError(f"{path}: no such file{did_you_mean(path.name, trace_names())}")
        if not path.is_file():
            raise TraceError(f"{path}: is not a regular file; expected a .safetensors file")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    paths = _shards(path) if path.name.endswith(".index.json") else [path]
    tensors = MappedTensors(paths)
    trace = _from_metadata(path, tensors)
    _check_tensors(str(path), trace, tensors)
    if trace.further:
        for number, other in enumerate(trace.further, 1):
            _check_tensors(other.path, other, SequenceTensors(tensors, number))
        _check_prefixes(path, tensors.names(), len(trace.further))
    return trace


def validate_trace(trace: AttentionTrace, on_layer: Callable[[int], None] = lambda i: None) -> None:
    """Read every tensor of a trace and check that its numbers are finite.

    Raises:
        TraceError: names the first tensor with NaN or infinity, and where.
    """
    for sequence in trace.sequences:
        _validate(sequence, on_layer)


def _validate(trace: AttentionTrace, on_layer: Callable[[int], None]) -> None:
    """Check one sequence."""
    for layer in range(trace.num_layers):
        own = trace.layer(layer)
        index = () if own.indexer is None else tuple(own.indexer.tensors(own.tokens))
        for kind in (*own.tensors(), *(("bias",) if own.bias_shape() else ()), *index):
            name = f"layer.{layer}.{kind}"
            finite = np.isfinite(trace.tensors.read(name))
            if not finite.all():
                place = [int(i) for i in np.argwhere(~finite)[0]]
                raise TraceError(
                    f"{trace.path}: tensor '{name}' holds NaN or infinity at {place}; "
                    "expected finite numbers"
                )
        _check_rows(trace, layer)
        on_layer(layer)
    _check_types(trace)
    for name, _ in trace.beside():
        if not np.isfinite(trace.tensors.read(name)).all():
            raise TraceError(
                f"{trace.path}: tensor '{name}' holds NaN or infinity; expected finite numbers"
            )
    for name, score in trace.scores.items():
        if not np.isfinite(score).all():
            raise TraceError(
                f"{trace.path}: tensor '{SCORE}{name}' holds NaN or infinity; expected finite "
                "numbers"
            )
    ids = trace.token_ids
    if ids is not None and trace.tokens_sha256 not in ("", tokens_sha256(ids)):
        raise TraceError(f"{trace.path}: metadata 'tokens_sha256' does not match 'token_ids'")


def _check_types(trace: AttentionTrace) -> None:
    """Check what the tokens are said to be."""
    kinds, frame = trace.token_type, trace.frame
    if kinds is None:
        if frame is not None:
            raise TraceError(f"{trace.path}: tensor 'frame': expected 'token_type' beside it")
        return
    wrong = (kinds < 0) | (kinds >= len(TOKEN_TYPES))
    if wrong.any():
        named = ", ".join(f"{i} {name}" for i, name in enumerate(TOKEN_TYPES))
        raise TraceError(
            f"{trace.path}: tensor 'token_type' holds {kinds[wrong][0]} at {int(wrong.argmax())}; "
            f"expected {named}"
        )
    if frame is not None and ((frame < 0) != (kinds < IMAGE)).any():
        at = int(((frame < 0) != (kinds < IMAGE)).argmax())
        raise TraceError(
            f"{trace.path}: tensor 'frame' holds {frame[at]} at {at}, a token of "
            f"{TOKEN_TYPES[kinds[at]]}; expected -1 of text, and 0 or more of images and videos"
        )


def _check_rows(trace: AttentionTrace, layer: int) -> None:
    """Check stored bits: each query sees a key, and none a later one where the trace is causal."""
    own = trace.layer(layer)
    if own.mask.kind != "stored":
        return
    for start in range(0, own.tokens, _ROWS):
        rows = np.arange(start, min(start + _ROWS, own.tokens))
        seen = trace.seen(layer, rows)
        if not seen.any(axis=1).all():
            row = int(rows[~seen.any(axis=1)][0])
            raise TraceError(f"{trace.path}: tensor 'layer.{layer}.mask': token {row} sees no key")
        later = np.arange(seen.shape[1])[None, :] > rows[:, None]
        forward = trace.causal and own.kind != "cross" and not own.aside
        if forward and (seen & later).any():
            raise TraceError(
                f"{trace.path}: tensor 'layer.{layer}.mask' shows later tokens; metadata 'causal' "
                "is true"
            )


def tokens_sha256(token_ids: NDArray[Any]) -> str:
    """SHA-256 of token ids as little-endian int32."""
    return hashlib.sha256(np.asarray(token_ids, dtype="<i4").tobytes()).hexdigest()


def save_trace(trace: AttentionTrace, path: str | Path, dtype: Any = np.float16) -> None:
    """Write a trace; the file appears whole or not at all, and its bytes depend only on the trace.

    It is ``attention-trace/1`` where that says how each layer attends and what tokens are, else
    ``/2``.

    Args:
        trace: what to write.
        path: target, ``.safetensors``.
        dtype: element type of the stored queries, keys and values: float16 or float32.

    Raises:
        TraceError: numbers that ``dtype`` cannot hold, or a folder that cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    beside = any(True for _ in trace.beside())
    first = trace.plain and trace.token_type is None and not trace.scores and not beside
    metadata = {
        "accelsim.schema": SCHEMA if first and not trace.further else SCHEMA_2,
        "model": trace.model,
        "source": trace.source,
        "tokens_sha256": trace.tokens_sha256,
        "num_layers": str(trace.num_layers),
        "num_query_heads": str(trace.num_query_heads),
        "num_kv_heads": str(trace.num_kv_heads),
        "head_dim": str(trace.head_dim),
        "causal": "true" if trace.causal else "false",
        "prefill_tokens": str(trace.prefill_tokens),
        "decode_tokens": str(trace.decode_tokens),
        "scale": repr(float(trace.scale)),
        "recorded_under": trace.recorded_under,
        "text": trace.text,
    }
    if not trace.plain:
        metadata["layers"] = write_layers(trace.layers)
    if trace.proof_error is not None:
        # Two digits: the others depend on the machine.
        metadata["proof_error"] = f"{trace.proof_error:.1e}"
    if trace.further:
        metadata["sequences"] = write_sequences(trace)
    tensors: dict[str, NDArray[Any]] = {}
    for number, sequence in enumerate(trace.sequences):
        own = _stored(sequence, path, dtype)
        tensors |= {prefix(number) + name: tensor for name, tensor in own.items()}
    payload = canonical(save(tensors, metadata))
    with files.whole_file(path, TraceError) as stream:
        stream.write(payload)


def _stored(trace: AttentionTrace, path: Path, dtype: Any) -> dict[str, NDArray[Any]]:
    """Tensors of one sequence, as they are written."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, shape in trace.expected_shapes():
        kind = np.uint8 if name.endswith(".mask") else dtype
        with np.errstate(over="ignore"):  # an overflow becomes infinity, which is refused below
            stored = np.ascontiguousarray(trace.tensors.read(name), dtype=kind)
        if stored.shape != shape or not np.isfinite(stored).all():
            raise TraceError(f"{path}: tensor '{name}': expected finite {np.dtype(kind)} {shape}")
        tensors[name] = stored
    for name in _OF_TOKENS:
        own = getattr(trace, name)
        if own is not None:
            tensors[name] = np.ascontiguousarray(own)
    for name, _ in trace.beside():
        # Ratios of norms and probabilities of little bytes are kept as they are.
        kind = dtype if name == "embedding" or name.endswith(".hidden") else np.float32
        with np.errstate(over="ignore"):
            tensors[name] = np.ascontiguousarray(trace.tensors.read(name), dtype=kind)
        if not np.isfinite(tensors[name]).all():
            raise TraceError(f"{path}: tensor '{name}': expected finite {np.dtype(kind)}")
    for name, score in trace.scores.items():
        tensors[SCORE + name] = np.ascontiguousarray(score)
    return tensors


def digest_of_file(path: Path) -> str:
    """SHA-256 of the contents of a file; one that did not change since is not read again.

    Raises:
        TraceError: it cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, (status.st_ino, status.st_mtime_ns, status.st_size))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=64)
def _digest(path: Path, stamp: tuple[int, int, int]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_target(path: str | Path) -> None:
    """Check that a trace can be written to a path, before the work of making it.

    Raises:
        TraceError: another suffix than .safetensors, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise TraceError(f"{path}: expected a name that ends in .safetensors")
    files.check_target(path, TraceError)


def canonical(payload: bytes) -> bytes:
    """Sort the metadata in a safetensors header: the library writes it in hash order."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload[8 + length :]


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
                raise TraceError(f"{path}: not a safetensors file, or truncated in its header")
            text = stream.read(length)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise TraceError(f"{path}: not a safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise TraceError(f"{path}: not a safetensors file (its header is not a mapping)")
    return header, 8 + length, size


def _check_entry(
    path: Path, name: str, entry: Any, data_bytes: int
) -> tuple[str, tuple[int, ...], int]:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        good = all(type(n) is int and 0 <= n < _LIMIT for n in shape)
        good = good and type(begin) is int and type(end) is int and len(shape) <= 8
        good = good and type(kind) is str
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        raise TraceError(f"{path}: tensor '{name[:80]}': malformed header entry")
    if kind not in _BYTES:
        raise TraceError(
            f"{path}: tensor '{name[:80]}' has type {ascii(kind)[:20]}; "
            f"expected {', '.join(FLOAT_TYPES)} (or those of the optional tensors)"
        )
    if not 0 <= begin <= end or end - begin != math.prod(shape) * _BYTES[kind]:
        raise TraceError(f"{path}: tensor '{name[:80]}': its size does not fit its shape {shape}")
    if end > data_bytes:
        raise TraceError(
            f"{path}: truncated: tensor '{name[:80]}' ends at byte {end} of the data, "
            f"the file has {data_bytes}"
        )
    return kind, shape, begin


def _check_spans(path: Path, spans: list[tuple[int, int, str]], data_bytes: int) -> None:
    """Tensors must follow one another without overlap or hole, as the format asks."""
    place = 0
    for begin, end, name in sorted(spans):
        if begin != place:
            fault = "overlaps the tensor before it" if begin < place else "leaves a hole before it"
            raise TraceError(
                f"{path}: tensor '{name[:80]}' {fault}: starts at byte {begin}, expected {place}"
            )
        place = end
    if place != data_bytes:
        raise TraceError(f"{path}: {data_bytes} bytes of data; expected {place}, as in its header")


def _shards(index: Path) -> list[Path]:
    try:
        table = json.loads(files.read_text(index, TraceError))
        names = sorted(set(table["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TraceError(f"{index}: expected a safetensors index with a 'weight_map'") from None
    paths = []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise TraceError(f"{index}: shard {ascii(name)[:80]}: expected a file name beside it")
        if not (index.parent / name).is_file():
            raise TraceError(f"{index}: shard {ascii(name)[:80]} is missing")
        paths.append(index.parent / name)
    if not paths:
        raise TraceError(f"{index}: 'weight_map' names no shards")
    return paths


def _from_metadata(path: Path, tensors: MappedTensors) -> AttentionTrace:
    meta = tensors.metadata
    if meta.get("accelsim.schema") not in (SCHEMA, SCHEMA_2):
        found = meta.get("accelsim.schema")
        raise TraceError(
            f"{path}: metadata 'accelsim.schema' is "
            f"{'missing' if found is None else ascii(found[:40])}; expected '{SCHEMA}' or "
            f"'{SCHEMA_2}'"
        )
    printable = [key for key in meta if key.isprintable()]
    for key in REQUIRED:
        if key not in meta:
            raise TraceError(f"{path}: metadata '{key}' is missing{did_you_mean(key, printable)}")

    def integer(key: str, low: int) -> int:
        text = meta[key]
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= low):
            raise TraceError(
                f"{path}: metadata '{key}' is {text[:40]!a}; expected an integer of at least {low}"
            )
        return int(text)

    if meta["causal"] not in ("true", "false"):
        raise TraceError(f"{path}: metadata 'causal': expected true or false")
    try:
        scale = float(meta["scale"])
    except ValueError:
        scale = math.nan
    # A thousand times beyond any model's, and far from where a product of two numbers overflows.
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise TraceError(
            f"{path}: metadata 'scale' is {meta['scale'][:40]!a}; expected a number > 0, "
            f"{_SCALES[0]:g} to {_SCALES[1]:g}"
        )
    if not _names_policy(meta["recorded_under"]):
        raise TraceError(
            f"{path}: metadata 'recorded_under' is {meta['recorded_under'][:40]!a}; expected "
            "'dense' or the YAML of a policy"
        )
    layers: tuple[LayerEntry, ...] = ()
    if meta["accelsim.schema"] == SCHEMA_2 and "layers" in meta:
        layers = read_layers(meta["layers"], integer("num_layers", 1), str(path))
    trace = AttentionTrace(
        model=meta["model"],
        source=meta["source"],
        num_layers=integer("num_layers", 1),
        num_query_heads=integer("num_query_heads", 1),
        num_kv_heads=integer("num_kv_heads", 1),
        head_dim=integer("head_dim", 1),
        causal=meta["causal"] == "true",
        prefill_tokens=integer("prefill_tokens", 0),
        decode_tokens=integer("decode_tokens", 0),
        scale=scale,
        tensors=tensors,
        recorded_under=meta["recorded_under"],
        text=meta.get("text", ""),
        tokens_sha256=meta["tokens_sha256"],
        layers=layers,
        proof_error=_proof_error(path, meta),
        path=str(path),
    )
    if trace.tokens == 0:
        raise TraceError(
            f"{path}: zero tokens; expected prefill_tokens + decode_tokens of at least 1"
        )
    if trace.num_query_heads % trace.num_kv_heads:
        raise TraceError(
            f"{path}: num_query_heads ({trace.num_query_heads}) is not a multiple of num_kv_heads "
            f"({trace.num_kv_heads})"
        )
    if meta["accelsim.schema"] == SCHEMA_2 and "sequences" in meta:
        trace = dataclasses.replace(trace, further=read_sequences(meta["sequences"], trace))
    return trace


def _names_policy(text: str) -> bool:
    """Whether a text can name a policy: it is none of the words for nothing, and no number."""
    try:
        float(text.lower().replace(".nan", "nan").replace(".inf", "inf"))
    except ValueError:
        return text.strip().lower() not in ("", "~", "null", "none", "true", "false")
    return False


def _check_prefixes(path: Path, names: set[str], further: int) -> None:
    """Refuse tensors of a sequence that the header does not count."""
    for name in sorted(names):
        number = name.split(".")[1] if name.startswith("sequence.") else "1"
        if not (number.isdigit() and 1 <= int(number[:9]) <= further):
            raise TraceError(
                f"{path}: tensor '{name[:80]}': metadata 'sequences' has {further} entries"
            )


def _check_tensors(
    path: str, trace: AttentionTrace, tensors: MappedTensors | SequenceTensors
) -> None:
    names = tensors.names()
    for layer, entry in enumerate(trace.layers):
        place = f"{path}: metadata 'layers': layer {layer}"
        check_layer(trace.layer(layer), entry, trace.causal, trace.prefill_tokens, place)
        if entry.indexer is not None and entry.indexer.shared:
            before = [e.indexer for e in trace.layers[:layer] if e.indexer and not e.indexer.shared]
            if not before or before[-1].top_k != entry.indexer.top_k:
                raise TraceError(
                    f"{place}: 'indexer' is shared; expected a layer before it with an indexer of "
                    f"top_k {entry.indexer.top_k}"
                )
    for name, shape in trace.expected_shapes():
        if name not in names:
            raise TraceError(f"{path}: tensor '{name}' is missing{did_you_mean(name, names)}")
        bits = name.endswith(".mask")
        if tensors.shape(name) != shape:
            axes = "[tokens, bytes]" if bits else "[heads, tokens, head_dim]"
            axes = "[heads, …]" if name.endswith(".bias") else axes
            axes = "(of its indexer)" if name.endswith(INDEX) else axes
            raise TraceError(
                f"{path}: tensor '{name}' has shape {list(tensors.shape(name))}; "
                f"expected {list(shape)} {axes}"
            )
        kinds = ("U8",) if bits else FLOAT_TYPES
        if tensors.dtype(name) not in kinds:
            raise TraceError(f"{path}: tensor '{name}': expected {', '.join(kinds)}")
    for name, kind in _OF_TOKENS.items():
        if name in names and (tensors.dtype(name), tensors.shape(name)) != (kind, (trace.tokens,)):
            width = 8 * _BYTES[kind]
            raise TraceError(f"{path}: tensor '{name}': expected int{width} [{trace.tokens}]")
    for name, wanted in trace.beside():
        found = tensors.shape(name)
        fits = len(found) == len(wanted) and all(
            n == size if size is not None else n > 0 for n, size in zip(found, wanted, strict=True)
        )
        if not fits or tensors.dtype(name) not in FLOAT_TYPES:
            told = ", ".join("any" if size is None else str(size) for size in wanted)
            raise TraceError(
                f"{path}: tensor '{name}' is {tensors.dtype(name)} {list(found)}; expected "
                f"{', '.join(FLOAT_TYPES)} [{told}]"
            )
    size = (trace.num_layers, trace.tokens)
    for name in sorted(names):
        if name.startswith(SCORE) and (tensors.dtype(name), tensors.shape(name)) != ("F32", size):
            raise TraceError(f"{path}: tensor '{name}': expected float32 {list(size)}")


def _proof_error(path: Path, meta: dict[str, str]) -> float | None:
    if "proof_error" not in meta:
        return None
    try:
        error = float(meta["proof_error"])
    except ValueError:
        error = math.nan
    if not 0 <= error < math.inf:
        raise TraceError(
            f"{path}: metadata 'proof_error' is {meta['proof_error'][:40]!a}; expected a number "
            "of at least 0"
        )
    return error
