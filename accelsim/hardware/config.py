"""Schema of ``hw_configs/accelerators`` and ``hw_configs/memories``: the schema is the manual."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config

PositiveInt = Annotated[int, Field(ge=1)]
Cycles = Annotated[int, Field(ge=0)]


class Timing(Config):
    """One row: at ``level``, ``before`` may follow ``after`` no earlier than ``cycles`` later."""

    level: Literal["channel", "pseudochannel", "bankgroup", "bank"]
    after: str
    before: tuple[str, ...]
    cycles: Cycles
    """Memory clock ticks."""
    window: PositiveInt = 1
    """Counts the n-th last ``after`` command (4 for tFAW)."""
    source: str = ""
    """The standard's parameter behind the number, e.g. ``tRRD_S = 4 ns``."""


class RamulatorDevice(Config):
    """How Ramulator 2.0 names a memory; for the export of request streams."""

    dram: str
    """``impl`` of the device."""
    organisation: dict[str, str | int]
    """Keys of ``org``."""
    timing: str
    """Preset of ``timing``."""

    def __hash__(self) -> int:
        """Hash, although ``organisation`` is a mapping."""
        return hash((self.dram, self.timing, tuple(sorted(self.organisation))))


class MemoryConfig(Config):
    """A memory: organisation of one channel, address bits, timing table, request queue."""

    kind: Literal["banked", "flat"] = "banked"
    description: str
    source: str
    """Where the numbers come from."""
    technology: str = "hbm2"
    """Names the table of DRAM energy, ``hw_configs/energy/dram-<technology>.yaml``."""
    clock_hz: Annotated[float, Field(gt=0)] = 1e9
    """Command clock."""
    transaction_bytes: PositiveInt = 32
    """Bytes of one read or write burst."""
    pseudochannels: PositiveInt = 2
    bankgroups: PositiveInt = 4
    """Per pseudo-channel."""
    banks: PositiveInt = 4
    """Per bank group."""
    rows: PositiveInt = 32768
    row_bytes: PositiveInt = 512
    """Bytes of one row of one bank that the address map reaches."""
    interleave_bytes: PositiveInt | None = None
    """Consecutive bytes of one bank before the address moves on to the next pseudo-channel and bank
    group; a whole row if not given (Ramulator's RoBaRaCoCh map)."""
    read_latency: Cycles = 11
    """Ticks from the RD command to the last data (CL + burst)."""
    inflight_limit: PositiveInt = 16
    """Reads accepted and not yet handed back, per channel."""
    queue_entries: PositiveInt = 33
    """Entries of the controller's read queue, per channel."""
    timing: tuple[Timing, ...] = ()
    refresh: bool = False
    """Issue all-bank refreshes every ``refresh_interval`` ticks."""
    refresh_interval: Cycles = 3900
    bytes_per_tick: Annotated[float, Field(gt=0)] = 16.0
    """Peak of one channel. ``kind: flat`` uses only this and ``flat_latency``."""
    flat_latency: Cycles = 20
    """Ticks from request to data of an unloaded flat memory."""
    ramulator: RamulatorDevice | None = None
    """The device of Ramulator 2.0 with this organisation and these timings, where there is one."""


class TopKConfig(Config):
    """The top-k engines."""

    parallelism: PositiveInt = 16
    """Comparators per array = scores examined per cycle (SpAtten Table I)."""
    pass_overhead: Cycles = 3
    """Cycles that each quick-select pass costs beyond its elements."""
    drain: Literal["serial", "pipelined"] = "serial"
    """``serial``: scores leave only after the search, one beat a cycle; ``pipelined``: they overlap
    the search of the next row."""
    source_of_passes: Literal["java-random", "recorded"] = "java-random"
    """``java-random``: the released test bench's generator; ``recorded``: over real scores."""
    engines: PositiveInt = 1
    """Engines that work in parallel; a second one serves the cascade token selection."""


class AcceleratorConfig(Config):
    """What every accelerator has; each kind adds its own fields."""

    kind: str
    """Which accelerator, and so which schema: see :mod:`accelsim.hardware`."""
    description: str
    source: str
    """Where the numbers come from."""
    frequency_hz: Annotated[float, Field(gt=0)] = 1e9
    """Core clock."""
    channels: PositiveInt
    """DRAM channels."""
    memory: str
    """Preset in ``hw_configs/memories``."""
    energy: str
    """Preset in ``hw_configs/energy``."""

    @property
    def multiplier_count(self) -> int:
        """Multipliers of the whole machine; static power may grow with them."""
        raise NotImplementedError

    @property
    def buffer_bytes(self) -> float:
        """Bytes of all key and value buffers; static power may grow with them."""
        raise NotImplementedError

    @property
    def sizes(self) -> dict[str, float]:
        """How large the machine is, by name of a unit that leakage and area may grow with.

        A size that an accelerator does not have is absent; entries that grow with it then stand for
        the machine that the table was made for.
        """
        return {
            "machine": 1.0,
            "multiplier": float(self.multiplier_count),
            "buffer_byte": self.buffer_bytes,
            "dram_channel": float(self.channels),
        }


class SpattenConfig(AcceleratorConfig):
    """SpAtten as its authors released it, and variants of it."""

    kind: Literal["spatten-rtl"]
    frequency_hz: Annotated[float, Field(gt=0)] = 1e9
    """Core clock (SpAtten Table III: 1 GHz)."""
    multipliers: PositiveInt = 512
    """Multipliers in each of the two matrix units; a multiple of 64."""
    buffer_lines: PositiveInt = 256
    """Lines of the key buffer, and of the value buffer; one line holds ``multipliers`` elements."""
    buffer_banks: Literal[1, 2] = 1
    """2: half of each buffer is filled while the other is read (double buffering)."""
    channels: PositiveInt = 16
    """DRAM channels."""
    fetch_channels: PositiveInt = 32
    """Channels of the matrix fetcher."""
    memory: str = "hbm2-spatten"
    """Preset in ``hw_configs/memories``."""
    energy: str = "spatten-40nm"
    """Preset in ``hw_configs/energy``."""
    rounding: PositiveInt = 32
    """Fetched vectors are rounded up to a multiple of this (specification section 6.2)."""
    key_prefetch_depth: Cycles = 0
    """Queue on the dot-product branch of the key fork: items that may be fetched ahead (0 as
    released)."""
    index_pattern: Literal["random-table", "workload", "sequential"] = "random-table"
    """Which token indexes are fetched: the released pseudo-random table, or the workload's own."""
    requant_bits: Literal["forced", "as-recorded"] = "forced"
    """``forced``: 10, 12 and -1 bit keys become 8 bit plus an LSB pass, as in the released test
    bench; ``as-recorded``: the workload's planes."""
    softmax_latency: Cycles = 0
    """Cycles from the last score to the first probability (0: pass-through as released)."""
    softmax_parallelism: PositiveInt = 8
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
        """Bytes of both buffers: elements are 12 bit on chip (SpAtten Table I)."""
        return 2 * self.multipliers * self.buffer_lines * 1.5

    @property
    def sizes(self) -> dict[str, float]:
        """See :attr:`AcceleratorConfig.sizes`."""
        return super().sizes | {
            "fetch_channel": self.fetch_channels,
            "softmax_lane": self.softmax_parallelism,
            "topk_comparator": self.topk.parallelism * self.topk.engines,
        }

    @property
    def vectors_per_line(self) -> int:
        """Key vectors in one buffer line = scores per beat (S)."""
        return self.multipliers // 64

    @property
    def capacity_vectors(self) -> int:
        """Key vectors that fit the buffer."""
        return self.vectors_per_line * self.buffer_lines

    @model_validator(mode="after")
    def _can_be_built(self) -> SpattenConfig:
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
