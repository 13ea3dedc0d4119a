"""Validation: simulated numbers beside reference numbers, case by case."""

from __future__ import annotations

import importlib
from pathlib import Path

from accelsim.errors import ConfigError, did_you_mean
from accelsim.hardware import ENGINES
from accelsim.validation._base import Bar, Case, Failure, OnCase, Options, Report, silent

SUITES: dict[str, str] = {
    "timing": "cycles of streams and requests against the authors' RTL",
    "dram": "cycles of read streams against Ramulator, memory by memory",
    "traffic": "DRAM bytes of the released workloads against the RTL's rules",
    "engines": "event engine against cycle engine on random workloads",
    "gpu": "latency of attention calls against kernels measured on GPUs",
    "functional": "compiled kernels against plain references",
}
"""Suites by name, each a module of this package with a function ``run``, and what they compare."""

__all__ = ["SUITES", "Bar", "Case", "Failure", "Report", "validate"]


def validate(
    suite: str,
    engine: str = "event",
    cases: str | Path | None = None,
    count: int | None = None,
    on_case: OnCase = silent,
) -> Report:
    """Run one suite.

    Args:
        suite: one of :data:`SUITES`.
        engine: engine under test, for ``timing`` and ``traffic``.
        cases: case file (``timing``, ``dram``, ``gpu``) or folder of workload files (``traffic``)
            instead of those that accelsim ships.
        count: random workloads (``engines``) or random heads (``functional``).
        on_case: called before each case with its number, how many there are, and its identifier.

    Raises:
        ConfigError: no such suite or engine, or an option that the suite does not take.
        AccelsimError: a case file that cannot be used, with file, line and column.
    """
    if suite not in SUITES:
        raise ConfigError(
            f"unknown suite '{suite}'{did_you_mean(suite, SUITES)} (known: {', '.join(SUITES)})"
        )
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine '{engine}'{did_you_mean(engine, ENGINES)}")
    module = importlib.import_module(f"accelsim.validation.{suite}")
    for name, value in (("cases", cases), ("count", count)):
        if value is not None and name not in module.TAKES:
            raise ConfigError(f"suite '{suite}' does not take --{name}")
    path = None if cases is None else Path(cases)
    report: Report = module.run(Options(engine, path, count, on_case))
    return report
