"""From the name of a quantity to the words and the unit that a reader sees."""

from __future__ import annotations

import re
from collections.abc import Iterable

from accelsim.exploration.metrics import METRICS

_UNITS = (
    ("op_per_s", "op/s"),
    ("bytes_per_s", "B/s"),
    ("gb_per_s", "GB/s"),
    ("cycles", "cycles"),
    ("bytes", "B"),
    ("mm2", "mm²"),
    ("hz", "Hz"),
    ("s", "s"),
    ("j", "J"),
    ("w", "W"),
)
_PLAIN = {"mean_kl": "nat", "speedup": "×", "energy_ratio": "×", "energy_ratio_with_idle": "×"}


def unit_of(name: str) -> str:
    """Return the unit that ends a name: ``unit_of("energy_j_by_part.dram") == "J"``.

    Empty for counts and fractions.
    """
    if name in METRICS:
        unit = METRICS[name].unit
        return "" if unit == "fraction" else unit
    for word in reversed(name.split(".")):
        stem = re.sub(r"_(low|high|by_\w+)$", "", word)
        if stem in _PLAIN:
            return _PLAIN[stem]
        for ending, unit in _UNITS:
            if stem == ending or stem.endswith(f"_{ending}"):
                return unit
    return ""


def heading(name: str) -> str:
    """Return a name with its unit: ``heading("latency_s") == "latency_s (s)"``."""
    unit = unit_of(name)
    return f"{name} ({unit})" if unit else name


def axis_label(name: str, values: Iterable[float]) -> tuple[str, float]:
    """Return what an axis says, and what its values are to be divided by.

    Seconds, joules and bytes get the prefix of their largest value, fractions percent:
    ``axis_label("energy_j", [0.002]) == ("energy, mJ", 0.001)``.
    """
    last = name.rpartition(".")[2]
    unit = unit_of(name)
    if (name in METRICS and METRICS[name].unit == "fraction") or name in _FRACTIONS:
        return f"{_plain(last, '')}, %", 0.01
    words = _plain(last, unit)
    if unit not in ("s", "J", "B", "W", "B/s", "op/s"):
        return f"{words}, {unit}" if unit else words, 1.0
    largest = max(map(abs, values), default=0.0)
    scales = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"),
              (1e-6, "µ"), (1e-9, "n"))  # fmt: skip
    scale, prefix = next((s for s in scales if largest >= s[0]), (1.0, ""))
    return f"{words}, {prefix}{unit}", scale


_FRACTIONS = (
    "accuracy.relative_output_error", "accuracy.kept_mass", "accuracy.kept_value_mass",
    "closed_loop.loss", "closed_loop.loss_low", "closed_loop.loss_high",
)  # fmt: skip
_ENDINGS = {"s": "_s", "J": "_j", "B": "_bytes", "W": "_w", "B/s": "_bytes_per_s", "mm²": "_mm2",
            "op/s": "_op_per_s", "cycles": "_cycles"}  # fmt: skip


def _plain(name: str, unit: str) -> str:
    """``dram_read_bytes`` to ``DRAM read``."""
    words = name.removesuffix(_ENDINGS.get(unit, "")).replace("_", " ")
    return words.replace("dram", "DRAM")
