"""The compiled blocks of the published SpAtten, by their names in results."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks.softmax import Softmax
from accelsim.hardware.blocks.top_k import TopK
from accelsim.hardware.blocks.weighted_sum import WeightedSum
from accelsim.hardware.machines.spatten.config import SpattenConfig

SEARCHES = 2
"""Searches of tokens that the selector takes: one runs while another waits (section 7)."""


Ints = NDArray[np.int64]
Selecting = tuple[Any, Ints, Any, Ints, Any, Ints, Any]
"""What :func:`.pipeline.select` takes of the blocks."""


class Unit(Protocol):
    """A compiled block.

    Attributes:
        state: one record, with ``free``, ``busy`` and the cycles of each stall.
    """

    state: Any

    @property
    def stalls(self) -> tuple[str, ...]:
        """Reasons, as in its state."""
        ...

    @property
    def peak_operations_per_cycle(self) -> int:
        """As in results."""
        ...


class Units:
    """The blocks that a query passes, in that order, and the selector.

    Args:
        config: of the machine.
        head_dims: elements of a vector, of all layers. The adder trees are as deep as the deepest
            of them needs, in every layer.
    """

    def __init__(self, config: SpattenConfig, head_dims: set[int]) -> None:
        dots = [config.dot_product(head_dim) for head_dim in head_dims]
        self.dot_product = max(dots, key=lambda dot: dot.head_dim)
        most = max(dot.scores for dot in dots)
        self.softmax = Softmax(config.softmax_parallelism, config.softmax_fifo)
        self.top_k = TopK(config.topk.parallelism, config.topk.rows)
        self.selector = TopK(config.topk.parallelism, SEARCHES)
        self.weighted_sum = WeightedSum(config.multipliers, most)
        self.by_name: dict[str, Unit] = {
            "qk_unit": self.dot_product,
            "softmax": self.softmax,
            "topk": self.top_k,
            "selector": self.selector,
            "pv_unit": self.weighted_sum,
        }

    @property
    def selecting(self) -> Selecting:
        """States and queues of softmax, top-k, selector; the state of the weighted sum."""
        return (
            self.softmax.state,
            self.softmax.ring,
            self.top_k.state,
            self.top_k.buffers,
            self.selector.state,
            self.selector.buffers,
            self.weighted_sum.state,
        )
