"""Several sequences that ran in one batch, as one trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from numpy.typing import NDArray

from accelsim.configs import Config, Unit
from accelsim.errors import TraceError
from accelsim.traces._layers import LayerEntry, given_of, read_entries

if TYPE_CHECKING:
    from accelsim.traces._trace import AttentionTrace, TensorSource

Tokens = Annotated[int, pydantic.Field(ge=0, le=10**9 - 1), Unit("tokens")]
Error = Annotated[float, pydantic.Field(ge=0, le=1e9), Unit("of the largest output")]
_MOST = 4096
"""Sequences of a batch at most, as of a shape."""


class SequenceEntry(Config):
    """What the header says of a sequence behind the first.

    Attributes:
        prefill_tokens: as of the trace.
        decode_tokens: likewise.
        tokens_sha256: likewise.
        text: likewise.
        proof_error: likewise.
        layers: how its layers attend, where not as those of the first sequence.
    """

    prefill_tokens: Tokens
    decode_tokens: Tokens
    tokens_sha256: str = ""
    text: str = ""
    proof_error: Error | None = None
    layers: list[LayerEntry] | None = None


class SequenceTensors:
    """Tensors of one sequence behind the first: those whose names begin with ``sequence.N.``.

    Args:
        source: of the whole file.
        number: of the sequence, from 1.
    """

    def __init__(self, source: TensorSource, number: int) -> None:
        self._source, self._prefix = source, prefix(number)

    def names(self) -> set[str]:
        """Names of its tensors, without the beginning."""
        return self._names

    @cached_property
    def _names(self) -> set[str]:
        there = (n for n in self._source.names() if n.startswith(self._prefix))
        return {name.removeprefix(self._prefix) for name in there}

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor."""
        return self._source.read(self._prefix + name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._source.shape(self._prefix + name)

    def dtype(self, name: str) -> str:
        """Safetensors name of the element type, of a tensor in a file."""
        return str(self._source.dtype(self._prefix + name))  # type: ignore[attr-defined]


def prefix(number: int) -> str:
    """How the names of the tensors of a sequence begin; those of the first (0) have nothing."""
    return f"sequence.{number}." if number else ""


def batch_of(traces: Sequence[AttentionTrace]) -> AttentionTrace:
    """Return several sequences of one model as a batch.

    Args:
        traces: each of one sequence, of any length.

    Returns:
        The first, with the others in :attr:`~accelsim.traces.AttentionTrace.further`.

    Raises:
        TraceError: no trace, or one of another model, of other layers or heads, or that is a batch.
    """
    if not 0 < len(traces) <= _MOST:
        raise TraceError(f"a batch of {len(traces)} sequences: expected 1 to {_MOST}")
    first = traces[0]
    for number, trace in enumerate(traces):
        if trace.further:
            raise TraceError(f"{trace.path}: is a batch already; expected one sequence")
        for name in _ALIKE:
            own, other = getattr(trace, name), getattr(first, name)
            if own != other:
                raise TraceError(
                    f"{trace.path}: sequence {number} of a batch has {name} {own}; expected "
                    f"{other}, as of the first"
                )
        kinds = [(own.query_heads, own.kv_heads, own.widths, own.stack) for own in _layers(trace)]
        if kinds != [(o.query_heads, o.kv_heads, o.widths, o.stack) for o in _layers(first)]:
            raise TraceError(
                f"{trace.path}: sequence {number} of a batch has layers of other heads or widths "
                "than the first"
            )
    return replace(first, further=tuple(traces[1:]))


_ALIKE = (
    "model", "num_layers", "num_query_heads", "num_kv_heads", "head_dim", "causal", "scale",
    "recorded_under",
)  # fmt: skip


def _layers(trace: AttentionTrace) -> list[Any]:
    return [trace.layer(index) for index in range(trace.num_layers)]


def write_sequences(trace: AttentionTrace) -> str:
    """Return the header's text of the sequences behind the first."""
    entries = []
    for other in trace.further:
        entry: dict[str, Any] = {
            "prefill_tokens": other.prefill_tokens, "decode_tokens": other.decode_tokens,
            "tokens_sha256": other.tokens_sha256, "text": other.text,
        }  # fmt: skip
        if other.proof_error is not None:
            entry["proof_error"] = float(f"{other.proof_error:.1e}")
        if other.layers != trace.layers:
            every = other.layers or (LayerEntry(),) * other.num_layers
            entry["layers"] = given_of(every)
        entries.append(entry)
    return json.dumps(entries, separators=(",", ":"))


def read_sequences(text: str, first: AttentionTrace) -> tuple[AttentionTrace, ...]:
    """Parse the header's text of the sequences behind the first.

    Raises:
        TraceError: no list of what :class:`SequenceEntry` says.
    """
    place = f"{first.path}: metadata 'sequences'"
    several = f"1 to {_MOST - 1} mappings, one a sequence behind the first"
    entries = read_entries(text, SequenceEntry, place, "sequence", 1, range(1, _MOST), several)
    found = []
    for number, entry in enumerate(entries, 1):
        if entry.prefill_tokens + entry.decode_tokens == 0:
            raise TraceError(f"{place}: sequence {number} has zero tokens; expected at least one")
        layers = first.layers if entry.layers is None else tuple(entry.layers)
        if layers and len(layers) != first.num_layers:
            raise TraceError(
                f"{place}: sequence {number} has {len(layers)} layers; expected {first.num_layers}"
            )
        found.append(
            replace(
                first,
                prefill_tokens=entry.prefill_tokens,
                decode_tokens=entry.decode_tokens,
                tokens_sha256=entry.tokens_sha256,
                text=entry.text,
                proof_error=entry.proof_error,
                layers=layers,
                tensors=SequenceTensors(first.tensors, number),
                path=f"{first.path}: sequence {number}",
            )
        )
    return tuple(found)
