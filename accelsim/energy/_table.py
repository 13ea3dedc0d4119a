"""Energy tables: one number a line, each with unit and source, or with the units it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

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
Reading = Literal["cacti", "foundry"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Ends = tuple[float, float, float]
"""Low end, printed value and high end of a range."""


class Library(NamedTuple):
    """Where units are taken from: SRAM by reading, arithmetic by table."""

    sram: Reading
    arithmetic: Literal["horowitz", "aladdin", "foundry"]


LIBRARIES = (
    Library("cacti", "horowitz"),
    Library("cacti", "aladdin"),
    Library("foundry", "foundry"),
)
"""All of them: one gives the value of an entry, and all the ends of its range."""
OWN = "own"
"""Reading of a table that names no units of the library: numbers of its own."""


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

    def pj(self, node_nm: float, units: Library) -> float:
        """Energy of ``count`` operations, or of ``count`` bytes of an SRAM access."""
        if self.op != "sram":
            return self.count * library.operation_pj(self.op, self.bits, node_nm, units.arithmetic)
        row = library.sram(self.bytes or 0, self.line_bytes, node_nm, units.sram)
        write = self.access == "write"
        factor = library.write_per_read(units.sram).value if write else 1.0
        return self.count * factor * row.read_pj / row.line_bytes

    def leak_mw(self, node_nm: float, units: Library) -> float:
        """Leakage of ``count`` units."""
        if self.op == "sram":
            row = library.sram(self.bytes or 0, self.line_bytes, node_nm, units.sram)
            return self.count * row.leak_mw
        return self.count * library.operation_leak_mw(self.op, self.bits, node_nm, units.sram)

    def area_mm2(self, node_nm: float, units: Library) -> float:
        """Area of ``count`` units."""
        if self.op == "sram":
            row = library.sram(self.bytes or 0, self.line_bytes, node_nm, units.sram)
            return self.count * row.area_mm2
        return self.count * library.operation_area_mm2(self.op, self.bits, node_nm, units.sram)


class Printed(Config):
    """What a paper prints for a whole module, under the reading that the paper is of."""

    value: Annotated[float, Field(ge=0, le=1e9), Unit("in the entry's unit")]
    source: Text


class _Entry(Config):
    """What all entries share: a range, a source, a group that errs together."""

    low: EndOfRange | None = None
    """Lowest credible value, in the unit of the entry; its own value if not given."""
    high: EndOfRange | None = None
    """Highest credible value, in the unit of the entry; its own value if not given."""
    terms: tuple[Term, ...] = ()
    """Units of the library whose sum is the value; instead of a number."""
    by_reading: Mapping[Reading, Printed] | None = None
    """What replaces number or terms under a reading: a module that its paper prints as a whole."""
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
    reading: Reading | None = None
    """Where SRAM and arithmetic of ``terms`` come from: ``cacti`` (CACTI 7.0, and ``arithmetic``)
    or ``foundry`` (A3, HPCA 2020, Table I); the others bound the range. ``cacti`` if not given; a
    table without units of the library has no reading but its own."""
    arithmetic: Literal["horowitz", "aladdin"] = "horowitz"
    """Arithmetic units of the reading ``cacti``."""
    left_out: tuple[Text, ...] = ()
    """What has no source, and so is in no total."""
    dynamic: tuple[Dynamic, ...] = ()
    static: tuple[Static, ...] = ()
    area: tuple[ModuleArea, ...] = ()

    @model_validator(mode="after")
    def _can_be_evaluated(self) -> EnergyTable:
        if self.reading is not None and self.reading_name == OWN:
            raise ValueError(
                f"'reading': expected none, got '{self.reading}': no entry has 'terms' of the "
                "library, so its numbers are of no reading but their own"
            )
        if self.reading == "foundry" and self.arithmetic != "horowitz":
            raise ValueError(
                f"'arithmetic': expected 'horowitz', got '{self.arithmetic}': reading 'foundry' "
                "brings arithmetic of its own"
            )
        try:
            if self.target_node_nm is not None:
                library.energy_factor(self.node_nm, self.target_node_nm)
            _ = self.dynamic_ranges, self.static_ranges, self.area_ranges
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def reading_name(self) -> str:
        """Reading of the on-chip numbers: ``cacti``, ``cacti, aladdin arithmetic``, ``foundry``, or
        ``own``. Energies and areas of different ones do not compare machines."""
        entries = (*self.dynamic, *self.static, *self.area)
        if not any(entry.terms or entry.by_reading for entry in entries):
            return OWN
        other = "" if self.arithmetic == "horowitz" else f", {self.arithmetic} arithmetic"
        return f"{self.reading or 'cacti'}{other}"

    @property
    def library(self) -> Library:
        """Where its units are taken from."""
        if self.reading == "foundry":
            return Library("foundry", "foundry")
        return Library("cacti", self.arithmetic)

    def under(self, reading: Reading) -> EnergyTable:
        """The same table under a reading; itself where it has none but its own."""
        if self.reading_name == OWN:
            return self
        changed = {"reading": reading, "arithmetic": "horowitz"}
        return self.model_validate(self.model_dump() | changed)

    @cached_property
    def dynamic_ranges(self) -> tuple[Ends, ...]:
        """:meth:`dynamic_pj` of each entry."""
        return tuple(map(self.dynamic_pj, self.dynamic))

    @cached_property
    def static_ranges(self) -> tuple[Ends, ...]:
        """:meth:`static_mw` of each entry."""
        return tuple(map(self.static_mw, self.static))

    @cached_property
    def area_ranges(self) -> tuple[Ends, ...]:
        """:meth:`module_mm2` of each entry."""
        return tuple(map(self.module_mm2, self.area))

    def dynamic_pj(self, entry: Dynamic) -> Ends:
        """Low, value and high of an entry at the target node, picojoules."""
        factor = 1.0 if entry.part == "dram" else self._factor()
        return self._range(entry, entry.pj, Term.pj, factor)

    def static_mw(self, entry: Static) -> Ends:
        """Low, value and high of an entry at the target node, milliwatts."""
        factor = 1.0 if entry.part == "dram_background" else self._factor()
        return self._range(entry, entry.mw, Term.leak_mw, factor)

    def module_mm2(self, entry: ModuleArea) -> Ends:
        """Low, value and high of an entry at the target node, mm²."""
        factor = library.area_factor(self.node_nm, self._node())
        return self._range(entry, entry.mm2, Term.area_mm2, factor)

    def _range(
        self,
        entry: _Entry,
        number: float | None,
        of_term: Callable[[Term, float, Library], float],
        factor: float,
    ) -> Ends:
        """Value under the table's reading; its ends under all of them, and as given.

        What is printed in a table is at the table's node, and scales by ``factor``; units of the
        library are asked for at the target node.
        """

        def under(units: Library) -> float:
            printed = (entry.by_reading or {}).get(units.sram)
            if printed is not None:
                return printed.value * factor
            if number is not None:
                return number * factor
            return sum(of_term(term, self._node(), units) for term in entry.terms)

        value = under(self.library)
        ends = [value, *(under(units) for units in LIBRARIES)]
        ends += [end * factor for end in (entry.low, entry.high) if end is not None]
        return min(ends), value, max(ends)

    def _node(self) -> float:
        return self.node_nm if self.target_node_nm is None else self.target_node_nm

    def _factor(self) -> float:
        return library.energy_factor(self.node_nm, self._node())


def _check_value(name: str, unit: str, value: float | None, entry: _Entry) -> None:
    if (value is None) == (not entry.terms):
        raise ValueError(f"'{name}': give either '{unit}' or 'terms'")
    low, high = entry.low, entry.high
    if value is not None and (
        (low is not None and low > value) or (high is not None and high < value)
    ):
        raise ValueError(f"'{name}': expected low <= {value:g} <= high, got {low} and {high}")
