"""Schema of SpAtten as released (``kind: spatten-rtl``)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config, Unit
from accelsim.hardware.config import (
    AcceleratorConfig,
    Channels,
    Cycles,
    Hertz,
    Lines,
    Matrices,
    Multipliers,
    Overhead,
    PerCycle,
)
from accelsim.hardware.counters import Size
from accelsim.hardware.machines._spatten import BITS_ON_CHIP, spatten_sizes


class TopKConfig(Config):
    """The top-k engines."""

    parallelism: PerCycle = 16
    """Comparators per array = scores examined per cycle (SpAtten Table I)."""
    pass_overhead: Overhead = 3
    """Cycles that each quick-select pass costs beyond its elements."""
    drain: Literal["serial", "pipelined"] = "serial"
    """``serial``: scores leave only after the search, one beat a cycle; ``pipelined``: they overlap
    the search of the next row."""
    source_of_passes: Literal["java-random", "recorded"] = "java-random"
    """``java-random``: the released test bench's generator; ``recorded``: over real scores."""
    engines: Annotated[int, Field(ge=1, le=1024), Unit("engines")] = 1
    """Engines that work in parallel; a second one serves the cascade token selection."""


class SpattenRtlConfig(AcceleratorConfig):
    """SpAtten as its authors released it, and variants of it."""

    kind: Literal["spatten-rtl"]
    frequency_hz: Hertz = 1e9
    """Core clock (SpAtten Table III: 1 GHz)."""
    multipliers: Multipliers = 512
    """Multipliers in each of the two matrix units; a multiple of 64."""
    buffer_lines: Lines = 256
    """Lines of the key buffer, and of the value buffer; one line holds ``multipliers`` elements."""
    buffer_banks: Literal[1, 2] = 1
    """2: half of each buffer is filled while the other is read (double buffering)."""
    channels: Channels = 16
    """DRAM channels."""
    fetch_channels: Annotated[int, Field(ge=1, le=4096), Unit("channels")] = 32
    """Channels of the matrix fetcher."""
    memory: str = "hbm2-spatten"
    """Preset in ``hw_configs/memories``."""
    energy: str = "spatten-40nm"
    """Preset in ``hw_configs/energy``."""
    rounding: Annotated[int, Field(ge=1, le=1 << 16), Unit("vectors")] = 32
    """Fetched vectors are rounded up to a multiple of this (specification section 6.2)."""
    key_prefetch_depth: Matrices = 0
    """Queue on the dot-product branch of the key fork: items that may be fetched ahead (0 as
    released)."""
    index_pattern: Literal["random-table", "workload", "sequential"] = "random-table"
    """Which token indexes are fetched: the released pseudo-random table, or the workload's own."""
    requant_bits: Literal["forced", "as-recorded"] = "forced"
    """``forced``: 10, 12 and -1 bit keys become 8 bit plus an LSB pass, as in the released test
    bench; ``as-recorded``: the workload's planes."""
    softmax_latency: Cycles = 0
    """Cycles from the last score to the first probability (0: pass-through as released)."""
    softmax_parallelism: PerCycle = 8
    """Scores that the softmax takes per cycle."""
    query_traffic: bool = False
    """Queries are fetched from DRAM at 12 bits."""
    output_traffic: bool = False
    """Attention outputs are written to DRAM at 12 bits."""
    reset_cycles: Cycles = 16
    """Counted in the reported total."""
    topk: TopKConfig = TopKConfig()

    @property
    def multiplier_count(self) -> int:
        """Multipliers of both matrix units."""
        return 2 * self.multipliers

    @property
    def buffer_bytes(self) -> float:
        """Bytes of both buffers."""
        return 2 * self.multipliers * self.buffer_lines * BITS_ON_CHIP / 8

    @property
    def sizes(self) -> dict[str, Size]:
        """See :attr:`AcceleratorConfig.sizes`."""
        return super().sizes | spatten_sizes(
            self.fetch_channels,
            self.softmax_parallelism,
            self.topk.parallelism * self.topk.engines,
        )

    @property
    def vectors_per_line(self) -> int:
        """Key vectors in one buffer line = scores per beat (S)."""
        return self.multipliers // 64

    @property
    def capacity_vectors(self) -> int:
        """Key vectors that fit the buffer."""
        return self.vectors_per_line * self.buffer_lines

    @model_validator(mode="after")
    def _can_be_built(self) -> SpattenRtlConfig:
        if self.multipliers % 64:
            raise ValueError(f"multipliers must be a multiple of 64, got {self.multipliers}")
        if self.channels & (self.channels - 1):
            raise ValueError(f"channels must be a power of two, got {self.channels}")
        if self.fetch_channels % self.vectors_per_line:
            raise ValueError(
                f"fetch_channels ({self.fetch_channels}) must be a multiple of multipliers/64 "
                f"({self.vectors_per_line})"
            )
        if self.index_pattern == "random-table":
            need = max(self.fetch_channels, 2 * self.vectors_per_line)
            if self.rounding % need:
                raise ValueError(
                    f"rounding {self.rounding} would deadlock the released fetcher: it must be a "
                    f"multiple of fetch_channels ({self.fetch_channels}) and of multipliers/32 "
                    f"({2 * self.vectors_per_line}) (specification section 6.2)"
                )
        return self
