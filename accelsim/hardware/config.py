"""Schema of ``hw_configs/accelerators`` and ``hw_configs/memories``: the schema is the manual."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config, Unit
from accelsim.hardware.counters import Size

PositiveInt = Annotated[int, Field(ge=1, le=1 << 20), Unit("units")]
# Bounds of what can be built: generous to a designer, and small enough that a model of the machine
# fits a computer. A field of another kind brings its own.
Hertz = Annotated[float, Field(ge=1e3, le=1e12), Unit("Hz")]
Channels = Annotated[int, Field(ge=1, le=1024), Unit("channels")]
Multipliers = Annotated[int, Field(ge=1, le=1 << 20), Unit("multipliers")]
Lines = Annotated[int, Field(ge=1, le=1 << 15), Unit("lines")]
Rows = Annotated[int, Field(ge=1, le=1 << 20), Unit("rows")]
Entries = Annotated[int, Field(ge=1, le=1 << 12), Unit("entries")]
PerCycle = Annotated[int, Field(ge=1, le=1 << 16), Unit("a cycle")]
Matrices = Annotated[int, Field(ge=0, le=1 << 12), Unit("matrices")]
Bits = Annotated[int, Field(ge=1, le=64), Unit("bits")]
Cycles = Annotated[int, Field(ge=0, le=100_000), Unit("cycles")]
Ticks = Annotated[int, Field(ge=0, le=100_000), Unit("ticks")]
Overhead = Annotated[int, Field(ge=0, le=10_000), Unit("cycles")]
Nanoseconds = Annotated[float, Field(ge=0, le=1e5), Unit("ns")]
SignedNanoseconds = Annotated[float, Field(ge=-1e5, le=1e5), Unit("ns")]
_LEAST_REFRESH_TICKS = 16
MAX_BANKS = 1024
"""Banks of a channel."""
_ROUNDING_GUARD = 1e-6
"""Part of a tick that a product of nanoseconds and clock may exceed a whole number by."""


def ticks_of(ns: float, clock_hz: float) -> int:
    """Whole ticks of a clock that last at least ``ns`` nanoseconds.

    Args:
        ns: of a data sheet; not negative.
        clock_hz: ticks in a second.
    """
    return math.ceil(ns * clock_hz * 1e-9 - _ROUNDING_GUARD)


class Timing(Config):
    """One row: at ``level``, ``before`` may follow ``after`` no earlier than so many ticks later.

    The ticks are ``max(at_least, ns rounded up) + cycles``: see :meth:`ticks`.
    """

    level: Literal["channel", "pseudochannel", "bankgroup", "bank"]
    after: str
    before: tuple[str, ...]
    ns: SignedNanoseconds | tuple[SignedNanoseconds, ...] = ()
    """Nanoseconds, each rounded up to whole ticks by itself and then added; a negative one is
    subtracted (read to write: CL + burst + 2 - CWL)."""
    at_least: Ticks = 0
    """Fewest ticks of the nanoseconds together (a standard's ``max(4 nCK, 4 ns)``)."""
    cycles: Annotated[int, Field(ge=-100_000, le=100_000), Unit("ticks")] | None = None
    """Ticks whatever the clock: bursts, command lengths, tables that count clocks."""
    window: Annotated[int, Field(ge=1, le=64), Unit("commands")] = 1
    """Counts the n-th last ``after`` command (4 for tFAW)."""
    source: str = ""
    """The standard's parameter behind the number, e.g. ``tRRD_S = 4 ns``."""

    def ticks(self, clock_hz: float) -> int:
        """Ticks between the two commands at a clock; never negative."""
        spans = self.ns if isinstance(self.ns, tuple) else (self.ns,)
        whole = sum(int(math.copysign(ticks_of(abs(ns), clock_hz), ns)) for ns in spans)
        return max(0, max(self.at_least, whole) + (self.cycles or 0))

    @model_validator(mode="after")
    def _says_how_long(self) -> Timing:
        if self.ns == ():
            if self.cycles is None:
                raise ValueError("a timing row needs 'ns' or 'cycles'")
            if self.cycles < 0:
                raise ValueError(f"cycles must not be negative without ns, got {self.cycles}")
        return self


class RamulatorDevice(Config):
    """How Ramulator 2.0 names a memory; for the export of request streams."""

    dram: str
    """``impl`` of the device."""
    organisation: dict[str, str | Annotated[int, Field(ge=0, le=1 << 40), Unit("of its kind")]]
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
    clock_hz: Hertz = 1e9
    """Ticks in a second: the command clock, or twice that with ``half_clock_ticks``. If it changes,
    nanoseconds keep their length and ticks do not."""
    transaction_bytes: Annotated[int, Field(ge=1, le=4096), Unit("bytes")] = 32
    """Bytes of one read or write burst."""
    pseudochannels: Annotated[int, Field(ge=1, le=64), Unit("pseudo-channels")] = 2
    bankgroups: Annotated[int, Field(ge=1, le=64), Unit("bank groups")] = 4
    """Per pseudo-channel."""
    banks: Annotated[int, Field(ge=1, le=256), Unit("banks")] = 4
    """Per bank group."""
    rows: Annotated[int, Field(ge=1, le=1 << 24), Unit("rows")] = 32768
    row_bytes: Annotated[int, Field(ge=1, le=1 << 20), Unit("bytes")] = 512
    """Bytes of one row of one bank that the address map reaches."""
    interleave_bytes: Annotated[int, Field(ge=1, le=1 << 20), Unit("bytes")] | None = None
    """Consecutive bytes of one bank before the address moves on to the next pseudo-channel and bank
    group; a whole row if not given (Ramulator's RoBaRaCoCh map)."""
    read_latency: Ticks = 11
    """Ticks from the RD command to the last data (CL + burst), beside ``read_latency_ns``."""
    read_latency_ns: Nanoseconds = 0.0
    """Part of the read latency that is given in time (CL); rounded up and added."""
    inflight_limit: Annotated[int, Field(ge=1, le=1 << 16), Unit("reads")] = 16
    """Reads accepted and not yet handed back, per channel."""
    queue_entries: Entries = 33
    """Entries of the controller's read queue, per channel."""
    command_buses: Literal[1, 2] = 1
    """1: one command a tick; 2: rows (ACT, PRE, PREA, REFab) and columns (RD, WR) have a bus each,
    as in HBM (JESD235D, JESD238), and a command on each may go in one tick."""
    half_clock_ticks: bool = False
    """A tick is half a clock, as HBM3 needs (JESD238): PRE and PREA may go in every tick, all other
    commands in odd ticks only (rising edges). Needs two command buses."""
    split_activation: Ticks = 0
    """ACT is two commands, of which the second (ACT-2 of LPDDR5) goes in the first tick that
    nothing else wants, at the latest so many ticks after the first (tAAD, JESD209-5B); no other ACT
    goes before it. 0: ACT is one command."""
    timing: tuple[Timing, ...] = ()
    refresh: bool = False
    """Issue all-bank refreshes every ``refresh_interval`` ticks."""
    refresh_interval: Annotated[int, Field(ge=0, le=1_000_000_000), Unit("ticks")] = 3900
    """Ticks (tREFI), unless ``refresh_interval_ns`` is given."""
    refresh_interval_ns: Annotated[float, Field(ge=0, le=1e9), Unit("ns")] | None = None
    """tREFI, rounded up to whole ticks."""
    bytes_per_tick: Annotated[float, Field(ge=1e-3, le=1 << 20), Unit("bytes")] = 16.0
    """Peak of one channel. ``kind: flat`` uses only this and ``flat_latency``."""
    flat_latency: Ticks = 20
    """Ticks from request to data of an unloaded flat memory."""
    ramulator: RamulatorDevice | None = None
    """The device of Ramulator 2.0 with this organisation and these timings, where there is one."""

    @property
    def read_ticks(self) -> int:
        """Ticks from the RD command to the last data."""
        return ticks_of(self.read_latency_ns, self.clock_hz) + self.read_latency

    @property
    def refresh_ticks(self) -> int:
        """Ticks from one refresh to the next (tREFI)."""
        if self.refresh_interval_ns is None:
            return self.refresh_interval
        return ticks_of(self.refresh_interval_ns, self.clock_hz)

    @model_validator(mode="after")
    def _commands_fit_together(self) -> MemoryConfig:
        banks = self.pseudochannels * self.bankgroups * self.banks
        if banks > MAX_BANKS:
            raise ValueError(
                f"pseudochannels x bankgroups x banks is {banks:,}; expected at most {MAX_BANKS:,} "
                "banks in a channel"
            )
        if self.refresh:
            recovery = [t.ticks(self.clock_hz) for t in self.timing if t.after == "REFab"]
            least = max([_LEAST_REFRESH_TICKS, *(2 * ticks for ticks in recovery)])
            if self.refresh_ticks < least:
                raise ValueError(
                    f"a refresh every {self.refresh_ticks} ticks leaves no time to read; expected "
                    f"at least {least} ticks, twice what a refresh takes"
                )
        if self.half_clock_ticks and self.command_buses != 2:
            raise ValueError("half_clock_ticks needs command_buses 2")
        if self.split_activation and self.command_buses != 1:
            raise ValueError("split_activation needs command_buses 1")
        return self


class AcceleratorConfig(Config):
    """What every accelerator has; each kind adds its own fields."""

    kind: str
    """Which accelerator, and so which schema: see :mod:`accelsim.hardware`."""
    description: str
    source: str
    """Where the numbers come from."""
    frequency_hz: Hertz = 1e9
    """Core clock."""
    channels: Channels
    """DRAM channels."""
    memory: str
    """Preset in ``hw_configs/memories``."""
    energy: str
    """Preset in ``hw_configs/energy``."""
    supports: tuple[Literal["value_dim", "layer_widths", "padded_lines", "latent"], ...] = ()
    """Vectors that it takes beside values as wide as keys: ``value_dim``: values narrower than
    keys; ``layer_widths``: other widths from layer to layer; ``padded_lines``: keys whose width
    does not divide the line of multipliers, of which it holds as many as fit; ``latent``: values
    that lie in the keys and are fetched with them. What is not named is refused."""

    @property
    def multiplier_count(self) -> int:
        """Multipliers of the whole machine; static power may grow with them."""
        raise NotImplementedError

    @property
    def buffer_bytes(self) -> float:
        """Bytes of all key and value buffers; static power may grow with them."""
        raise NotImplementedError

    @property
    def sizes(self) -> dict[str, Size]:
        """How large the machine is, by name: what leakage and area of its energy table may grow
        with (``per``). A kind adds what its blocks have."""
        return {
            "machine": Size(1.0, "machine"),
            "multiplier": Size(self.multiplier_count, "multiplier"),
            "buffer_byte": Size(self.buffer_bytes, "byte of key and value buffers"),
            "dram_channel": Size(self.channels, "DRAM channel"),
        }
