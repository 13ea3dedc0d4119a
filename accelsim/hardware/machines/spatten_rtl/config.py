"""Schema of SpAtten as released (``kind: spatten-rtl``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, model_validator

from accelsim.configs import Config, Unit
from accelsim.hardware.config import (
    AcceleratorConfig,
    Channels,
    Cycles,
    Hertz,
    Lines,
    Multipliers,
    Overhead,
    PerCycle,
)
from accelsim.hardware.counters import Size
from accelsim.hardware.machines._spatten import BITS_ON_CHIP, spatten_sizes

_AS_RELEASED: dict[str, tuple[Any, str]] = {
    "buffer_banks": (1, "fills a buffer as one ring (section 2.3)"),
    "key_prefetch_depth": (0, "fetches no keys ahead (section 2.4)"),
    "requant_bits": ("forced", "fetches keys of 10, 12 and -1 bit in two passes (section 4.2)"),
    "softmax_latency": (0, "has a wire for a softmax (section 2.10)"),
    "query_traffic": (False, "gets its queries with the requests (section 8.1)"),
    "output_traffic": (False, "does not write its outputs to DRAM (section 8.1)"),
    "topk.drain": ("serial", "drains a row of scores before it searches the next (section 3.1)"),
    "topk.engines": (1, "has one top-k engine (section 3.1)"),
}
"""Fields of older files that could make another machine of the release: what the release does, as
such a file says it and in words. A file that says just that is read; the field is gone."""


class TopKConfig(Config):
    """The top-k engine: a FIFO that waits for as long as a search would take (section 3.1)."""

    parallelism: PerCycle = 16
    """Comparators per array = scores examined per cycle (SpAtten Table I)."""
    pass_overhead: Overhead = 3
    """Cycles that each quick-select pass costs beyond its elements."""
    source_of_passes: Literal["java-random", "recorded"] = "java-random"
    """``java-random``: the released test bench's generator; ``recorded``: over real scores."""


class SpattenRtlConfig(AcceleratorConfig):
    """SpAtten as its authors released it, at any scale (docs/accelerators/spatten.md)."""

    kind: Literal["spatten-rtl"]
    frequency_hz: Hertz = 1e9
    """Core clock (SpAtten Table III: 1 GHz)."""
    multipliers: Multipliers = 512
    """Multipliers in each of the two matrix units; a multiple of 64."""
    buffer_lines: Lines = 256
    """Lines of the key buffer, and of the value buffer; one line holds ``multipliers`` elements."""
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
    index_pattern: Literal["random-table", "sequential"] = "random-table"
    """Which token indexes are fetched: the released pseudo-random table (section 2.5), or the first
    tokens in order. The latter lie in the event engine where a KV cache would have them, in the
    cycle engine at the addresses of the test bench (section 5.1)."""
    softmax_parallelism: PerCycle = 8
    """Lanes of the softmax: leakage and area grow with them, cycles do not (section 2.10)."""
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
            self.topk.parallelism,
        )

    @property
    def vectors_per_line(self) -> int:
        """Key vectors in one buffer line = scores per beat (S)."""
        return self.multipliers // 64

    @property
    def capacity_vectors(self) -> int:
        """Key vectors that fit the buffer."""
        return self.vectors_per_line * self.buffer_lines

    @model_validator(mode="before")
    @classmethod
    def _is_the_release(cls, data: Any) -> Any:
        """Say of a field that made another machine what the release does, and who has it."""
        if not isinstance(data, Mapping):
            return data
        kept = dict(data)
        topk = dict(data["topk"]) if isinstance(data.get("topk"), Mapping) else {}
        if topk:
            kept["topk"] = topk
        if data.get("index_pattern") == "workload":
            _refuse("index_pattern: workload", "fetches the tokens of a table (section 2.5)")
        for key, (released, words) in _AS_RELEASED.items():
            part, name = (topk, key[5:]) if key.startswith("topk.") else (kept, key)
            if name in part:
                given = part.pop(name)
                if type(given) is not type(released) or given != released:
                    _refuse(key, words)
        return kept

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


def _refuse(key: str, words: str) -> NoReturn:
    raise ValueError(
        f"no key '{key}': SpAtten as released {words}; leave it out, or take 'kind: spatten', "
        "which does otherwise"
    )
