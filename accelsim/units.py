"""Numbers as people read them, always with a unit."""

from __future__ import annotations

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_SMALLEST = ((1e-9, "n"), (1e-12, "p"))


def si(value: float | int | None, unit: str) -> str:
    """Format with three significant digits and an SI prefix.

    >>> si(1.5e6, "B")
    '1.50 MB'
    """
    if value is None:
        return "–"
    if value == 0:
        return f"0 {unit}"
    scales = (*_PREFIXES, *_SMALLEST)
    factor, prefix = next((x for x in scales if abs(value) >= x[0] * 0.9995), scales[-1])
    scaled = value / factor
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f} {prefix}{unit}"


def ratio(value: float | None) -> str:
    """Format a ratio.

    >>> ratio(12.3)
    '12.3×'
    """
    if value is None:
        return "–"
    return f"{value:.3g}×" if value < 1000 else f"{value:,.0f}×"


def percent(value: float | None) -> str:
    """Format a fraction as percent with three significant digits."""
    return "–" if value is None else f"{100 * value:.3g} %"


def shown(value: float | int | None, unit: str) -> str:
    """Format a number of any unit; cycles and counts in full.

    >>> shown(1234567, "cycles")
    '1,234,567 cycles'
    """
    if value is None:
        return "–"
    if unit == "fraction":
        return percent(value)
    if unit in ("", "cycles"):
        return f"{value:,.0f} {unit}".rstrip()
    return si(value, unit)


def in_full(value: float | int) -> str:
    """Format a number without unit or prefix: in full if whole, else six significant digits.

    >>> in_full(1234567.0), in_full(0.12345678)
    ('1,234,567', '0.123457')
    """
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return f"{int(value):,}" if whole else f"{value:.6g}"
