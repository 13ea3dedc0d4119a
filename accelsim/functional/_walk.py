"""The one walk over a recorded trace: steps and layers, in the order that a rule needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import TraceError
from accelsim.functional._record import PolicyRun, Record, Recording
from accelsim.traces import AttentionTrace

Order = Literal["steps", "layers", "tiles"]
"""``steps``: all layers of a token before the next token, as a decoder runs; ``layers``: all tokens
of a layer before the next layer, so that the tensors of one layer are in memory at a time;
``tiles``: all layers of some tokens before the next ones, for what is kept of each query and key
from layer to layer."""


class OpenLoopRule(ABC):
    """A rule at work on recorded tensors.

    Attributes:
        order: in which it must be asked.
        tile_tokens: tokens of a tile, where the order is ``tiles``.
    """

    order: Order = "steps"
    tile_tokens: int = 1

    @abstractmethod
    def attend(self, layer: int, positions: NDArray[np.int64], record: Recording) -> None:
        """Decide and compute, and note requests and figures.

        Args:
            layer: where.
            positions: queries that dense attention would have: the whole prompt (or encoder), or
                the tokens after it: one in the order ``steps``, all of them in ``layers``. In the
                order ``tiles``, some of either.
            record: takes what was found.
        """

    def keep_ratio(self, layer: int, figures: dict[str, float]) -> float:
        """Ratio of tokens that the schedule of a layer keeps."""
        return 1.0


def walk(trace: AttentionTrace, rule: OpenLoopRule, indices: bool = True) -> PolicyRun:
    """Ask a rule for every query of every layer.

    Args:
        trace: recorded queries, keys and values.
        rule: what decides.
        indices: record the token indexes of fetched keys and values in the workload.
    """
    record = Record(trace.alone("a rule of a machine"), indices)
    visit(trace, rule, record)
    return record.result(rule.keep_ratio)


def visit(trace: AttentionTrace, rule: OpenLoopRule, record: Recording) -> None:
    """Ask a rule for every query of every layer of a stack, in its order.

    Args:
        trace: of the stack.
        rule: what decides.
        record: takes what was found.
    """
    order = {"steps": _by_step, "layers": _by_layer, "tiles": _by_tile}[rule.order]
    for layer, positions in order(trace, rule.tile_tokens):
        rule.attend(layer, positions, record)


def _by_step(trace: AttentionTrace, size: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    prompt = np.arange(trace.prefill_tokens)
    tokens = np.arange(trace.prefill_tokens, trace.tokens)
    for positions in ([prompt] if len(prompt) else []) + np.split(tokens, len(tokens) or 1):
        for layer in range(trace.num_layers if len(positions) else 0):
            yield layer, positions


def _by_layer(trace: AttentionTrace, size: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    every = np.arange(trace.tokens)
    for layer in range(trace.num_layers):
        for positions in np.split(every, [trace.prefill_tokens]):
            if len(positions):
                yield layer, positions


def _by_tile(trace: AttentionTrace, size: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for half in np.split(np.arange(trace.tokens), [trace.prefill_tokens]):
        for start in range(0, len(half), size):
            for layer in range(trace.num_layers):
                yield layer, half[start : start + size]


def check_tokens(trace: AttentionTrace) -> None:
    """Refuse an empty trace.

    Raises:
        TraceError: the trace holds no tokens.
    """
    if trace.tokens < 1:
        raise TraceError(f"{trace.path}: trace has no tokens; expected at least one")


def finite_tensors(
    trace: AttentionTrace, layer: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return query, key and value of one layer.

    Raises:
        TraceError: one of them holds NaN or infinity.
    """
    tensors = trace.query(layer), trace.key(layer), trace.value(layer)
    for name, tensor in zip(("query", "key", "value"), tensors, strict=True):
        if not np.isfinite(tensor).all():
            raise TraceError(
                f"{trace.path}: tensor 'layer.{layer}.{name}' holds NaN or infinity; "
                "expected finite numbers"
            )
    return tensors
