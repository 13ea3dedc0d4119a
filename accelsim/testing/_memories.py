"""What holds of every DRAM channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accelsim import configs
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import StreamResult, read_stream


class MemoryContract:
    """Reads streams of addresses through one channel.

    Attributes:
        memory: preset name or YAML file.
        overrides: dotted key to value, as for ``--set``.
        reads: of a stream.
    """

    memory: ClassVar[str]
    overrides: ClassVar[Mapping[str, Any]] = {}
    reads: ClassVar[int] = 2000

    @property
    def config(self) -> MemoryConfig:
        """The channel."""
        return configs.load(MemoryConfig, self.memory, "memories", self.overrides)

    def stream(self, addresses: NDArray[np.int64], **fields: Any) -> StreamResult:
        """Read byte addresses as fast as the controller takes them."""
        return read_stream(self.config.model_copy(update=fields), addresses, "controller")

    @property
    def in_order(self) -> NDArray[np.int64]:
        """One burst after the other."""
        return np.arange(self.reads) * self.config.transaction_bytes

    @property
    def scattered(self) -> NDArray[np.int64]:
        """Bursts anywhere in 256 MiB, the same in every run."""
        burst = self.config.transaction_bytes
        places = np.random.default_rng(0).integers(0, (1 << 28) // burst, self.reads)
        return places * burst

    def test_no_stream_beats_the_bus(self) -> None:
        """Bytes a tick stay at or below the peak."""
        for addresses in (self.in_order, self.scattered):
            moved = len(addresses) * self.config.transaction_bytes
            assert moved <= self.stream(addresses).cycles * self.config.bytes_per_tick

    def test_each_read_is_a_hit_a_miss_or_a_conflict(self) -> None:
        """And has one RD command; rows are opened for all that is no hit."""
        if self.config.kind == "flat":
            return
        for addresses in (self.in_order, self.scattered):
            found = self.stream(addresses)
            assert found.row_hits + found.row_misses + found.row_conflicts == len(addresses)
            assert found.commands["RD"] == len(addresses)
            assert found.commands["ACT"] >= found.row_misses

    def test_rows_in_order_are_faster_than_scattered_ones(self) -> None:
        """Open rows are worth something."""
        if self.config.kind == "flat":
            return
        one, other = self.stream(self.in_order), self.stream(self.scattered)
        assert one.row_hits > other.row_hits
        assert one.cycles < other.cycles

    def test_one_read_takes_the_latency(self) -> None:
        """Data comes no earlier than the read latency after its command."""
        found = self.stream(np.zeros(1, np.int64))
        least = self.config.flat_latency if self.config.kind == "flat" else self.config.read_ticks
        assert found.average_latency >= least - 1

    def test_the_same_stream_takes_the_same_time(self) -> None:
        """Nothing depends on what ran before."""
        assert self.stream(self.scattered) == self.stream(self.scattered)

    def test_twice_the_reads_take_about_twice_the_time(self) -> None:
        """And not less than what they add."""
        twice = np.concatenate([self.scattered, self.scattered + (1 << 28)])
        one, two = self.stream(self.scattered).cycles, self.stream(twice).cycles
        assert 1.8 * one <= two <= 2.2 * one
