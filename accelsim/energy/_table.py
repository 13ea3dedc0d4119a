"""Energy tables: one number a line, each with unit and source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config
from accelsim.errors import did_you_mean
from accelsim.hardware.activity import COUNTERS

DERIVED: dict[str, str] = {
    "dram_read_bits": "bits moved by DRAM read bursts",
    "dram_write_bits": "bits moved by DRAM write bursts",
}
"""Counters computed from an Activity rather than stored in it."""

NonNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Dynamic(Config):
    """Energy of one event of a counter."""

    counter: str
    """A name of ``hardware.activity.COUNTERS``, or ``dram_read_bits`` or ``dram_write_bits``."""
    part: Literal["dram", "sram", "logic"]
    pj: NonNegative
    """Picojoules per unit."""
    low: NonNegative | None = None
    """Lowest credible value, picojoules; ``pj`` if not given."""
    high: NonNegative | None = None
    """Highest credible value, picojoules; ``pj`` if not given."""
    unit: Text
    """What one unit of the counter is, e.g. ``MAC`` or ``bit``."""
    source: Text
    """Paper and table, and the arithmetic."""
    assumed: bool = False
    """The number rests on an assumption of ours; the result says so."""

    @model_validator(mode="after")
    def _counter_exists(self) -> Dynamic:
        known = {**COUNTERS, **DERIVED}
        if self.counter not in known:
            raise ValueError(f"unknown counter '{self.counter}'{did_you_mean(self.counter, known)}")
        _check_range(self.counter, self.low, self.pj, self.high)
        return self


class Static(Config):
    """Power that is drawn as long as the machine runs."""

    name: Text
    mw: NonNegative
    """Milliwatts."""
    low: NonNegative | None = None
    """Lowest credible value, milliwatts; ``mw`` if not given."""
    high: NonNegative | None = None
    """Highest credible value, milliwatts; ``mw`` if not given."""
    per: Literal["machine", "buffer_byte", "multiplier"] = "machine"
    """What the power grows with: nothing, the key and value buffers, or the multipliers."""
    sized_for: Annotated[float, Field(gt=0)] = 1.0
    """How many of ``per`` the number stands for."""
    source: Text
    assumed: bool = False
    """The number rests on an assumption of ours; the result says so."""

    @model_validator(mode="after")
    def _range_holds_value(self) -> Static:
        _check_range(self.name, self.low, self.mw, self.high)
        return self


class EnergyTable(Config):
    """Energies of one technology."""

    description: str
    source: str
    node_nm: Annotated[float, Field(gt=0)]
    """Technology node of the on-chip numbers."""
    dynamic: tuple[Dynamic, ...]
    static: tuple[Static, ...] = ()


def _check_range(name: str, low: float | None, value: float, high: float | None) -> None:
    if (low is not None and low > value) or (high is not None and high < value):
        raise ValueError(f"'{name}': expected low <= {value:g} <= high, got {low} and {high}")
