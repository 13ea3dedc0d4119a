"""Rules that are part of a machine and run only on it: what A3 and MNNFast do to real tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


class Recorded(NamedTuple):
    """One layer, as recorded or as a machine holds it; all float64.

    Attributes:
        query: [query_heads, tokens, head_dim].
        key: [kv_heads, tokens, head_dim].
        value: [kv_heads, tokens, head_dim].
    """

    query: Float
    key: Float
    value: Float


class Outcome(NamedTuple):
    """What a rule did to one layer of one step.

    Attributes:
        counts: name to per-KV-head arrays, as in :class:`accelsim.workloads.RivalWorkload`.
        scored: [query_heads, rows], keys that got an exact dot product.
        used: [query_heads, rows], values multiplied.
        used_values: [kv_heads], values that at least one query used.
        metrics: [1] of :data:`accelsim.attention.kernels.METRICS`.
    """

    counts: Mapping[str, Sequence[NDArray[np.int64]]]
    scored: NDArray[np.int64]
    used: NDArray[np.int64]
    used_values: NDArray[np.int64]
    metrics: NDArray[Any]


class MachineRule(ABC):
    """A pruning rule that a machine brings with it."""

    @property
    def fetch_skipped(self) -> bool:
        """Whether values that no query uses are fetched all the same."""
        return True

    @property
    @abstractmethod
    def element_bits(self) -> int:
        """Bits of a key or value element in memory."""

    @abstractmethod
    def hold(self, recorded: Recorded) -> tuple[Recorded, dict[str, float]]:
        """Return a layer as the machine holds it, and figures of accuracy of its own."""

    @abstractmethod
    def attend(
        self, recorded: Recorded, held: Recorded, visible: NDArray[np.int64],
        positions: NDArray[np.int64], context: int, scale: float,
    ) -> Outcome:  # fmt: skip
        """Run the queries of one layer in one step.

        Args:
            recorded: for the dense reference.
            held: by the machine.
            visible: keys that each row may see, [rows].
            positions: token of each row.
            context: tokens so far.
            scale: of the scores.
        """
