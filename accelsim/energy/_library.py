"""Unit library: energy, leakage and area of arithmetic units and SRAMs, by size, width and node.

The numbers live in ``hw_configs/energy/library``; an energy table names units (``op``, ``bits``)
and counts, so each number is written once and every derived one follows from a rule named here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

from pydantic import Field

from accelsim.configs import C, Config, Unit, config_root, read_yaml, validate
from accelsim.errors import ConfigError, did_you_mean

Picojoules = Annotated[float, Field(gt=0, le=1e9), Unit("pJ")]
Milliwatts = Annotated[float, Field(ge=0, le=1e9), Unit("mW")]
SquareMicrometres = Annotated[float, Field(ge=0, le=1e11), Unit("µm²")]
SquareMillimetres = Annotated[float, Field(gt=0, le=1e5), Unit("mm²")]
Nanometres = Annotated[float, Field(ge=0.1, le=10_000), Unit("nm")]
Bytes = Annotated[float, Field(gt=0, le=1e12), Unit("bytes")]
Bits = Annotated[float, Field(gt=0, le=4096), Unit("bits")]
Reads = Annotated[float, Field(gt=0, le=1000), Unit("reads")]
Coefficient = Annotated[float, Field(ge=-1e6, le=1e6), Unit("of the fit")]

READINGS = ("cacti", "foundry")
"""Readings of SRAM and arithmetic: computed (CACTI 7.0; Horowitz or Aladdin), or as A3's foundry
tools gave them (HPCA 2020, Table I)."""
ARITHMETIC = ("horowitz", "aladdin", "foundry")
"""Tables of arithmetic units; the last is of the reading of its name. Horowitz and Aladdin differ
by 4 to 18 times, so the choice is the user's."""
MAC = "int-mac"
"""A multiply and the add of its product, of twice the width; where a table has no such row, the sum
of both."""
_EXPONENT = {"int-multiply": 2.0, MAC: 2.0, "fp-multiply": 2.0, "fp-divide": 2.0}
"""Growth with the width where one row is all there is; 1 for the others."""


class ArithmeticRow(Config):
    """One unit at one width."""

    op: str
    bits: Bits
    pj: Picojoules
    """Energy of one operation, picojoules."""
    leak_mw: Milliwatts | None = None
    area_um2: SquareMicrometres | None = None
    source: str
    assumed: bool = False


class Arithmetic(Config):
    """A reading of arithmetic units at one node."""

    description: str
    source: str
    node_nm: Nanometres
    rows: tuple[ArithmeticRow, ...]


class SramRow(Config):
    """One SRAM at one node."""

    bytes: Bytes
    line_bytes: Bytes
    read_pj: Picojoules
    """Energy of reading one line, picojoules."""
    leak_mw: Annotated[float, Field(gt=0, le=1e9), Unit("mW")]
    area_mm2: SquareMillimetres


class WritePerRead(Config):
    """What a write costs, in reads."""

    value: Reads
    high: Reads
    source: str


class SramLibrary(Config):
    """SRAMs by node, size and line."""

    description: str
    source: str
    write_per_read: WritePerRead
    nodes: dict[int, tuple[SramRow, ...]]


class FoundrySram(Config):
    """One SRAM of a foundry's generator; others follow CACTI's shape from it."""

    description: str
    source: str
    write_per_read: WritePerRead
    node_nm: Nanometres
    sram: SramRow


class ScalingRow(Config):
    """Coefficients of one node."""

    node_nm: Nanometres
    a: Coefficient
    b: Coefficient
    c: Coefficient
    area: Annotated[float, Field(gt=0, le=1e6), Unit("of the area")]


class Scaling(Config):
    """Scaling of logic between nodes."""

    description: str
    source: str
    supply_v: Annotated[float, Field(gt=0, le=100), Unit("V")]
    rows: tuple[ScalingRow, ...]


@lru_cache(maxsize=4)
def arithmetic(name: str) -> Arithmetic:
    """Return one table of the arithmetic units.

    Raises:
        ConfigError: no such table.
    """
    if name not in ARITHMETIC:
        raise ConfigError(
            f"unknown arithmetic '{name}'{did_you_mean(name, ARITHMETIC)} "
            f"(known: {', '.join(ARITHMETIC)})"
        )
    return _read(Arithmetic, f"arithmetic-{name}")


@lru_cache(maxsize=1)
def sram_library() -> SramLibrary:
    """Return the SRAM table."""
    return _read(SramLibrary, "sram-cacti")


@lru_cache(maxsize=1)
def foundry_sram() -> FoundrySram:
    """Return the one SRAM of the foundry reading."""
    return _read(FoundrySram, "sram-foundry")


def write_per_read(reading: str) -> WritePerRead:
    """Return what a write costs, in reads."""
    return foundry_sram().write_per_read if reading == "foundry" else sram_library().write_per_read


@lru_cache(maxsize=1)
def scaling() -> Scaling:
    """Return the scaling rows."""
    return _read(Scaling, "stillmaker-baas")


@lru_cache(maxsize=1024)
def operation_pj(op: str, bits: float, node_nm: float, name: str = "horowitz") -> float:
    """Energy of one operation at a width and node, picojoules.

    The width goes by a straight line in log-log between two rows, beyond them with the slope of the
    nearest two, and by width (adders) or its square (multipliers, dividers) where there is one row.
    A unit that the table has no row for is taken from the other tables, Horowitz first.

    Args:
        op, bits: unit and width.
        node_nm: to scale to.
        name: table, one of :data:`ARITHMETIC`.

    Raises:
        ConfigError: unknown unit, or a node without scaling data.
    """
    for other in (name, *ARITHMETIC):
        table = arithmetic(other)
        rows = [(row.bits, row.pj) for row in table.rows if row.op == op]
        if rows:
            return _by_width(rows, bits, op) * energy_factor(table.node_nm, node_nm)
        if op == MAC:
            add = operation_pj("int-add", 2 * bits, node_nm, name)
            return operation_pj("int-multiply", bits, node_nm, name) + add
    known = sorted({row.op for each in ARITHMETIC for row in arithmetic(each).rows})
    raise ConfigError(
        f"no arithmetic unit '{op}'{did_you_mean(op, known)} (known: {', '.join(known)})"
    )


def operation_leak_mw(op: str, bits: float, node_nm: float, reading: str = "cacti") -> float:
    """Leakage of one unit, milliwatts (Aladdin or foundry; Horowitz prints none), scaled as energy;
    0 where no table has it."""
    return _printed(op, bits, node_nm, reading, "leak_mw", energy_factor)


def operation_area_mm2(op: str, bits: float, node_nm: float, reading: str = "cacti") -> float:
    """Area of one unit, mm² (Aladdin or foundry; areas of Horowitz' talk could not be verified).

    Raises:
        ConfigError: no table has it.
    """
    area = _printed(op, bits, node_nm, reading, "area_um2", area_factor) * 1e-6
    if not area:
        raise ConfigError(f"no area is known for the unit '{op}'")
    return area


def _printed(
    op: str,
    bits: float,
    node_nm: float,
    reading: str,
    field: str,
    factor: Callable[[float, float], float],
) -> float:
    """A field of a unit from the foundry's table, in its reading, else from Aladdin's."""
    for name in ("foundry", "aladdin") if reading == "foundry" else ("aladdin",):
        table = arithmetic(name)
        rows = [(r.bits, getattr(r, field)) for r in table.rows if r.op == op and getattr(r, field)]
        if rows:
            return _by_width(rows, bits, op) * factor(table.node_nm, node_nm)
    if op == MAC:
        parts = (("int-multiply", bits), ("int-add", 2 * bits))
        return sum(_printed(o, b, node_nm, reading, field, factor) for o, b in parts)
    return 0.0


@lru_cache(maxsize=1024)
def sram(size_bytes: float, line_bytes: float, node_nm: float, reading: str = "cacti") -> SramRow:
    """Energy of a line, leakage and area of one SRAM.

    Straight lines in log-log between sizes (the end slopes go on beyond them); for a width that is
    not tabulated the rows of the nearest width, energy in proportion to the width. A node that is
    not tabulated is scaled from the nearest one as logic. The foundry reading has one SRAM: its
    ratio to the same SRAM of CACTI holds for every size, line and node.

    Raises:
        ConfigError: a node without scaling data.
    """
    computed = _cacti(size_bytes, line_bytes, node_nm)
    if reading != "foundry":
        return computed
    printed = foundry_sram()
    anchor = printed.sram
    same = _cacti(anchor.bytes, anchor.line_bytes, printed.node_nm)
    return SramRow(
        bytes=size_bytes,
        line_bytes=line_bytes,
        read_pj=computed.read_pj * anchor.read_pj / same.read_pj,
        leak_mw=computed.leak_mw * anchor.leak_mw / same.leak_mw,
        area_mm2=computed.area_mm2 * anchor.area_mm2 / same.area_mm2,
    )


def _cacti(size_bytes: float, line_bytes: float, node_nm: float) -> SramRow:
    library = sram_library()
    node = min(library.nodes, key=lambda known: abs(known - node_nm))
    rows = library.nodes[node]
    widths = sorted({row.line_bytes for row in rows}, key=lambda w: abs(math.log(w / line_bytes)))
    width = next(w for w in widths if sum(row.line_bytes == w for row in rows) > 1)
    exact = [r for r in rows if (r.bytes, r.line_bytes) == (size_bytes, line_bytes)]
    chosen = exact or [row for row in rows if row.line_bytes == width]
    wide = 1.0 if exact else line_bytes / width
    energy, area = energy_factor(node, node_nm), area_factor(node, node_nm)

    def at(name: str) -> float:
        return _log_log([(row.bytes, getattr(row, name)) for row in chosen], size_bytes)

    return SramRow(
        bytes=size_bytes,
        line_bytes=line_bytes,
        read_pj=at("read_pj") * wide * energy,
        leak_mw=at("leak_mw") * energy,
        area_mm2=at("area_mm2") * area,
    )


def energy_factor(from_nm: float, to_nm: float) -> float:
    """Energy at ``to_nm`` over energy at ``from_nm`` (Stillmaker & Baas 2017).

    Raises:
        ConfigError: a node without scaling data.
    """
    if from_nm == to_nm:
        return 1.0
    volt = scaling().supply_v
    rows = [(row.node_nm, row.a * volt**2 + row.b * volt + row.c) for row in scaling().rows]
    return _at_node(rows, to_nm) / _at_node(rows, from_nm)


def area_factor(from_nm: float, to_nm: float) -> float:
    """Area at ``to_nm`` over area at ``from_nm``; raises as :func:`energy_factor`."""
    if from_nm == to_nm:
        return 1.0
    rows = [(row.node_nm, row.area) for row in scaling().rows]
    return _at_node(rows, to_nm) / _at_node(rows, from_nm)


def _at_node(rows: list[tuple[float, float]], node_nm: float) -> float:
    ordered = sorted(rows)
    if not ordered[0][0] <= node_nm <= ordered[-1][0]:
        raise ConfigError(
            f"node {node_nm:g} nm has no scaling data: Stillmaker & Baas 2017 covers "
            f"{ordered[0][0]:g} to {ordered[-1][0]:g} nm"
        )
    for (low, first), (high, second) in itertools.pairwise(ordered):
        if node_nm <= high:
            return first + (second - first) * (node_nm - low) / (high - low)
    raise AssertionError("unreachable: the range was checked")  # pragma: no cover


def _by_width(rows: list[tuple[float, float]], bits: float, op: str) -> float:
    if len(rows) > 1:
        return _log_log(rows, bits)
    width, value = rows[0]
    return value * float((bits / width) ** _EXPONENT.get(op, 1.0))


def _log_log(rows: list[tuple[float, float]], x: float) -> float:
    ordered = sorted(rows)
    if len(ordered) == 1:
        return ordered[0][1]
    pairs = list(itertools.pairwise(ordered))
    (x0, y0), (x1, y1) = next((p for p in pairs if x <= p[1][0]), pairs[-1])
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    return float(y0 * (x / x0) ** slope)


def _read(model: type[C], name: str) -> C:
    path = config_root() / "energy" / "library" / f"{name}.yaml"
    return validate(model, read_yaml(path), str(path))
