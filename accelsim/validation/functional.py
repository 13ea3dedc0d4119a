"""Compiled kernels of the functional model against plain references, on seeded random heads."""

from __future__ import annotations

from accelsim.validation._base import Bar, Case, Options, Report, worst_error

TAKES = ("count",)
_HEADS = 20
_TOLERANCE = 1e-12
"""Kernels sum in another order than NumPy; codes and pass counts must be equal."""


def run(options: Options) -> Report:
    """Compare every result of the kernels with its reference."""
    from accelsim.functional.cases import functional_cases

    heads = options.count or _HEADS
    options.on_case(1, 1, f"{heads} random heads")
    cases = [Case(*triple) for triple in functional_cases(seed=0, count=heads)]
    bars = [Bar("worst", worst_error(cases), _TOLERANCE)]
    return Report("functional", None, "norm, passes or checksum", cases, [], bars)
