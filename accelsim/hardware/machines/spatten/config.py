"""Schema of SpAtten as published (``kind: spatten``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config, Unit
from accelsim.hardware.blocks.dot_product import DotProduct
from accelsim.hardware.config import (
    AcceleratorConfig,
    Bits,
    Channels,
    Cycles,
    Entries,
    Hertz,
    Matrices,
    Multipliers,
    Overhead,
    PerCycle,
)
from accelsim.hardware.counters import Size
from accelsim.hardware.machines._spatten import BITS_ON_CHIP, spatten_sizes

StoredBits = Annotated[int, Field(ge=2, le=64), Unit("bits")]
"""Width of a number in DRAM; one of sign and one of magnitude at least."""


class TopKConfig(Config):
    """The two top-k engines: one selects values, the other tokens and heads (SpAtten IV-B)."""

    parallelism: PerCycle = 16
    """Comparators per array = scores examined per cycle (SpAtten Table I)."""
    pass_overhead: Overhead = 3
    """Cycles that each quick-select pass costs beyond its elements (release, section 3.2)."""
    rows: Annotated[int, Field(ge=1, le=1024), Unit("rows")] = 2
    """Rows of scores inside: one is searched while the next comes in. Assumption: double
    buffering; the paper gives FIFOs of 64 entries of 16 (Table I), one row of 1,024 scores."""


class SpattenConfig(AcceleratorConfig):
    """SpAtten as published; what a block does and costs: docs/accelerators/spatten-published.md."""

    kind: Literal["spatten"]
    frequency_hz: Hertz = 1e9
    """Core clock (SpAtten Table III: 1 GHz)."""
    multipliers: Multipliers = 512
    """Multipliers in each of the two matrix units (SpAtten Table I)."""
    scores_per_cycle: PerCycle = 8
    """Most items that the adder tree gives in a cycle (SpAtten IV-E)."""
    buffer_lines: Annotated[int, Field(ge=2, le=1 << 15), Unit("lines")] = 256
    """Lines of ``multipliers`` elements of the key buffer, and of the value buffer: 196 KB each
    (SpAtten Table I). Half of them hold a tile."""
    channels: Channels = 16
    """DRAM channels (SpAtten Table I)."""
    fetch_channels: Annotated[int, Field(ge=1, le=4096), Unit("channels")] = 32
    """Ports of the matrix fetcher (SpAtten Table I: 32 x 16 crossbar)."""
    address_fifo: Entries = 64
    """Addresses waiting at each port (SpAtten Table I)."""
    response_fifo: Entries = 64
    """Responses held at each port until their beat is whole (SpAtten Table I)."""
    memory: str = "hbm2-nominal"
    """Preset in ``hw_configs/memories``."""
    energy: str = "spatten-40nm"
    """Preset in ``hw_configs/energy``."""
    key_prefetch_depth: Matrices = 2
    """Key matrices in the buffer beside the one in use (SpAtten V-C: double buffering)."""
    value_prefetch_depth: Matrices = 2
    """Value matrices in the buffer beside the one in use. Assumption: as for keys."""
    softmax_parallelism: PerCycle = 8
    """Scores that the softmax takes, and gives, per cycle (SpAtten Table I)."""
    softmax_fifo: Annotated[int, Field(ge=1, le=1 << 20), Unit("entries")] = 128
    """Entries, of ``softmax_parallelism`` scores each, that wait for the sum (SpAtten Table I)."""
    token_selection: Literal["per-query", "per-layer"] = "per-query"
    """When accumulated importances are searched (SpAtten IV-A: per query, in the pipeline)."""
    loop_order: Literal["key-outer", "query-outer"] = "key-outer"
    """For prompts whose keys take several tiles: ``key-outer`` passes all queries over a tile and
    spills partial results; ``query-outer`` fetches all tiles again for each query. Assumption: the
    paper ends at 1,024 tokens."""
    partial_bits: Bits = 32
    """Bits of an element of a partial result. Assumption: single precision."""
    stored_bits: Annotated[tuple[StoredBits, ...], Field(min_length=1)] = (4, 6, 8, 10, 12)
    """Widths of keys and values in DRAM that the bit-width converter takes (SpAtten III-D, IV-D:
    4, 8 and 12 bits, 6 and 10 as sums with an LSB plane)."""
    query_traffic: bool = True
    """Queries are fetched from DRAM at 12 bits (SpAtten Fig. 18)."""
    output_traffic: bool = True
    """Attention outputs are written to DRAM at 12 bits (SpAtten Fig. 18)."""
    reset_cycles: Cycles = 0
    """Counted in the reported total. Assumption: time counts from the first request."""
    topk: TopKConfig = TopKConfig()

    @property
    def multiplier_count(self) -> int:
        """Multipliers of both matrix units."""
        return 2 * self.multipliers

    @property
    def buffer_bytes(self) -> float:
        """Bytes of both buffers: elements are 12 bit on chip (SpAtten Table I)."""
        return 2 * self.multipliers * self.buffer_lines * BITS_ON_CHIP / 8

    def dot_product(self, head_dim: int) -> DotProduct:
        """The array for vectors of one width.

        Raises:
            WorkloadError: a width that it does not take.
        """
        padded = "padded_lines" in self.supports
        return DotProduct(self.multipliers, head_dim, self.scores_per_cycle, padded)

    def tile(self, head_dim: int) -> int:
        """Most key vectors in a tile: half of the key buffer, and what the softmax FIFO holds."""
        lines = self.buffer_lines // 2 * (self.multipliers // head_dim)
        return min(lines, self.softmax_fifo * self.softmax_parallelism)

    @property
    def sizes(self) -> dict[str, Size]:
        """See :attr:`AcceleratorConfig.sizes`."""
        engines = 2
        comparators = engines * self.topk.parallelism
        return super().sizes | spatten_sizes(
            self.fetch_channels, self.softmax_parallelism, comparators
        )

    def partial_size(self, value_dim: Any) -> Any:
        """Bytes of a partial result: its sums, maximum and sum of exponentials (section 2, one
        pass).

        Args:
            value_dim: elements of a value, a number or an array.
        """
        return (value_dim + 2) * self.partial_bits // 8

    @model_validator(mode="after")
    def _can_be_built(self) -> SpattenConfig:
        if self.multipliers & (self.multipliers - 1):
            raise ValueError(f"multipliers must be a power of two, got {self.multipliers}")
        if self.value_prefetch_depth < self.key_prefetch_depth:
            raise ValueError(
                f"value_prefetch_depth ({self.value_prefetch_depth}) must not be below "
                f"key_prefetch_depth ({self.key_prefetch_depth}): rows whose LSBs are awaited keep "
                "their place in the value buffer"
            )
        if self.channels & (self.channels - 1):
            raise ValueError(f"channels must be a power of two, got {self.channels}")
        return self
