"""From the name of a quantity to the words and the unit that a reader sees."""

from __future__ import annotations

import re

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
