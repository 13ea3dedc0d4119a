"""Energy tables: one number a line, each with unit and source, or with the units it is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accelsim.configs import Config, Unit
from accelsim.energy import _library as library
from accelsim.errors import ConfigError

Picojoules = Annotated[float, Field(ge=0, le=1e9), Unit("pJ")]
Milliwatts = Annotated[float, Field(ge=0, le=1e9), Unit("mW")]
SquareMillimetres = Annotated[float, Field(ge=0, le=1e5), Unit("mm²")]
EndOfRange = Annotated[float, Field(ge=0, le=1e9), Unit("in the entry's unit")]
Nanometres = Annotated[float, Field(ge=0.1, le=10_000), Unit("nm")]
Units = Annotated[float, Field(gt=0, le=1e12), Unit("units")]
Bytes = Annotated[float, Field(gt=0, le=1e12), Unit("bytes")]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class Term(Config):
    """``count`` units of the library (``hw_configs/energy/library``)."""

    op: str
    """An arithmetic unit (``int-multiply``, ``fp-add``, ``compare`` …) or ``sram``."""
    bits: Annotated[float, Field(gt=0, le=4096), Unit("bits")] = 1.0
    """Width of an arithmetic unit."""
    bytes: Bytes | None = None
    """Size of an SRAM."""
    line_bytes: Bytes = 64.0
    """Line of an SRAM."""
    access: Literal["read", "write"] = "read"
    """Which access of an SRAM is priced."""
    count: Units = 1.0

    @model_validator(mode="after")
    def _sram_has_a_size(self) -> Term:
        if self.op == "sram" and self.bytes is None:
            raise ValueError("an SRAM term needs 'bytes'")
        return self

    def pj(self, node_nm: float, reading: str) -> float:
        """Energy of ``count`` operations, or of ``count`` bytes of an SRAM access."""
        if self.op != "sram":
            return self.count * library.operation_pj(self.op, self.bits, node_nm, reading)
        row = library.sram(self.bytes or 0, self.line_bytes, node_nm)
        factor = library.sram_library().write_per_read.value if self.access == "write" else 1.0
        return self.count * factor * row.read_pj / row.line_bytes

    def leak_mw(self, node_nm: float) -> float:
        """Leakage of ``count`` units."""
        if self.op == "sram":
            return self.count * library.sram(self.bytes or 0, self.line_bytes, node_nm).leak_mw
        return self.count * library.operation_leak_mw(self.op, self.bits, node_nm)

    def area_mm2(self, node_nm: float) -> float:
        """Area of ``count`` units."""
        if self.op == "sram":
            return self.count * library.sram(self.bytes or 0, self.line_bytes, node_nm).area_mm2
        return self.count * library.operation_area_mm2(self.op, self.bits, node_nm)


class _Entry(Config):
    """What all entries share: a range, a source, a group that errs together."""

    low: EndOfRange | None = None
    """Lowest credible value, in the unit of the entry; its own value if not given."""
    high: EndOfRange | None = None
    """Highest credible value, in the unit of the entry; its own value if not given."""
    terms: tuple[Term, ...] = ()
    """Units of the library whose sum is the value; instead of a number."""
    group: str = ""
    """Entries of one group err together: their true values sit at the same place of their ranges.
    The entry's own if empty."""
    source: Text
    """Paper and table, and the arithmetic."""
    assumed: bool = False
    """The number rests on an assumption of ours; the result says so."""


class Dynamic(_Entry):
    """Energy of one event of a counter."""

    counter: Name
    """One that the machine declares (:attr:`accelsim.hardware.Accelerator.counters`)."""
    part: Literal["dram", "sram", "logic"]
    pj: Picojoules | None = None
    """Picojoules per unit; or ``terms``."""
    unit: Text
    """What one of the counter is: its unit (``MAC``, ``bit``), and more if need be; ``any``
    where it costs nothing."""

    @model_validator(mode="after")
    def _range_holds_value(self) -> Dynamic:
        _check_value(self.counter, "pj", self.pj, self)
        return self


class _Sized(_Entry):
    """An entry that grows with a size of the machine."""

    name: Text
    per: Name = "machine"
    """What it grows with: a size that the machine declares
    (:attr:`accelsim.hardware.config.AcceleratorConfig.sizes`)."""
    sized_for: Units = 1.0
    """How many of ``per`` the number stands for."""


class Static(_Sized):
    """Power that is drawn as long as the machine runs."""

    part: Literal["leakage", "dram_background"] = "leakage"
    mw: Milliwatts | None = None
    """Milliwatts; or ``terms``."""

    @model_validator(mode="after")
    def _range_holds_value(self) -> Static:
        _check_value(self.name, "mw", self.mw, self)
        return self


class ModuleArea(_Sized):
    """Silicon of one module."""

    mm2: SquareMillimetres | None = None
    """Square millimetres; or ``terms``."""

    @model_validator(mode="after")
    def _range_holds_value(self) -> ModuleArea:
        _check_value(self.name, "mm2", self.mm2, self)
        return self


class EnergyTable(Config):
    """Energies, leakage and areas of one technology."""

    description: str
    source: str
    node_nm: Nanometres
    """Technology node of the on-chip numbers."""
    target_node_nm: Nanometres | None = None
    """Scale all on-chip numbers to this node (Stillmaker & Baas 2017); DRAM stays as it is."""
    arithmetic: Literal["horowitz", "aladdin"] = "horowitz"
    """Which reading of the arithmetic units ``terms`` refer to; the other bounds the range."""
    dynamic: tuple[Dynamic, ...] = ()
    static: tuple[Static, ...] = ()
    area: tuple[ModuleArea, ...] = ()

    @model_validator(mode="after")
    def _node_has_data(self) -> EnergyTable:
        try:
            if self.target_node_nm is not None:
                library.energy_factor(self.node_nm, self.target_node_nm)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        try:
            for entry in self.dynamic:
                self.dynamic_pj(entry)
            for static in self.static:
                self.static_mw(static)
            for module in self.area:
                self.module_mm2(module)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def dynamic_pj(self, entry: Dynamic) -> tuple[float, float, float]:
        """Low, value and high of an entry at the target node, picojoules."""
        if entry.part == "dram":
            return _range(entry, entry.pj or 0.0, [], 1.0)
        if entry.pj is not None:
            return _range(entry, entry.pj, [], self._factor())
        node = self._node()
        readings = [sum(t.pj(node, name) for t in entry.terms) for name in library.READINGS]
        value = readings[library.READINGS.index(self.arithmetic)]
        return _range(entry, value, readings, self._factor())

    def static_mw(self, entry: Static) -> tuple[float, float, float]:
        """Low, value and high of an entry at the target node, milliwatts."""
        if entry.mw is not None:
            factor = 1.0 if entry.part == "dram_background" else self._factor()
            return _range(entry, entry.mw, [], factor)
        value = sum(term.leak_mw(self._node()) for term in entry.terms)
        return _range(entry, value, [], self._factor())

    def module_mm2(self, entry: ModuleArea) -> tuple[float, float, float]:
        """Low, value and high of an entry at the target node, mm²."""
        factor = library.area_factor(self.node_nm, self._node())
        if entry.mm2 is not None:
            return _range(entry, entry.mm2, [], factor)
        value = sum(term.area_mm2(self._node()) for term in entry.terms)
        return _range(entry, value, [], factor)

    def _node(self) -> float:
        return self.node_nm if self.target_node_nm is None else self.target_node_nm

    def _factor(self) -> float:
        return library.energy_factor(self.node_nm, self._node())


def _range(
    entry: _Entry, value: float, readings: list[float], factor: float
) -> tuple[float, float, float]:
    """Ends of an entry; ``low`` and ``high`` are printed at the table's node, so they scale."""
    scaled = value if entry.terms else value * factor
    ends = [*readings, scaled]
    if entry.low is not None:
        ends.append(entry.low * factor)
    if entry.high is not None:
        ends.append(entry.high * factor)
    return min(ends), scaled, max(ends)


def _check_value(name: str, unit: str, value: float | None, entry: _Entry) -> None:
    if (value is None) == (not entry.terms):
        raise ValueError(f"'{name}': give either '{unit}' or 'terms'")
    low, high = entry.low, entry.high
    if value is not None and (
        (low is not None and low > value) or (high is not None and high < value)
    ):
        raise ValueError(f"'{name}': expected low <= {value:g} <= high, got {low} and {high}")
