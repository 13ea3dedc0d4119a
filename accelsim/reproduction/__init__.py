"""Reproduction: every figure of SpAtten's evaluation that a simulator can speak to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from accelsim.errors import ConfigError, did_you_mean
from accelsim.reproduction import (
    design_space,
    e2e,
    ladder,
    power_area,
    reductions,
    rivals,
    roofline,
    speedup,
    table3,
    table4,
)
from accelsim.reproduction._base import Figure, Row
from accelsim.reproduction._plots import draw
from accelsim.reproduction._runs import run_all

FIGURES: dict[str, Figure] = {
    module.FIGURE.name: module.FIGURE
    for module in (
        speedup,
        reductions,
        ladder,
        design_space,
        roofline,
        power_area,
        table3,
        rivals,
        e2e,
        table4,
    )
}
"""Figures by name, in the order in which they are shown."""
SCHEMA = "accelsim.reproduction/1"

__all__ = ["FIGURES", "SCHEMA", "Figure", "Row", "choose", "draw", "misses", "reproduce", "to_dict"]


def choose(only: Sequence[str] = ()) -> list[Figure]:
    """Return the figures named, or all.

    Raises:
        ConfigError: an unknown name; names the nearest.
    """
    for name in only:
        if name not in FIGURES:
            raise ConfigError(
                f"unknown figure '{name}'{did_you_mean(name, FIGURES)} "
                f"(known: {', '.join(FIGURES)})"
            )
    return [figure for name, figure in FIGURES.items() if not only or name in only]


def reproduce(
    only: Sequence[str] = (),
    workers: int | None = None,
    on_total: Callable[[int], None] = lambda total: None,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, list[Row]]:
    """Simulate what the figures need, each point once, and compare.

    Args:
        only: names of figures; all if empty.
        workers: processes; one a core if ``None``.
        on_total: told the number of points.
        on_done: called after each.

    Raises:
        ConfigError: an unknown name.
    """
    figures = choose(only)
    jobs = list(dict.fromkeys(job for figure in figures for job in figure.jobs))
    on_total(len(jobs))
    outcomes = run_all(jobs, workers or os.cpu_count() or 1, on_done)
    return {figure.name: figure.rows(outcomes) for figure in figures}


def misses(results: dict[str, list[Row]]) -> list[tuple[str, Row]]:
    """Return the rows beyond a fifth, the largest first, with their figures.

    Neither other ways to count a number nor single benchmarks of a mean are among them.
    """
    found = [
        (name, row)
        for name, rows in results.items()
        for row in rows
        if row.is_miss and row.kind != "convention" and not row.single
    ]
    return sorted(found, key=lambda miss: -abs(math.log(miss[1].ratio or 1.0)))


def to_dict(results: dict[str, list[Row]]) -> dict[str, Any]:
    """Return the ``accelsim.reproduction/1`` document."""
    return {
        "schema": SCHEMA,
        "misses": [{"figure": name, **row.to_dict()} for name, row in misses(results)],
        "figures": {
            name: {
                "title": FIGURES[name].title,
                "source": f"SpAtten (HPCA 2021) {FIGURES[name].source}",
                "rows": [row.to_dict() for row in rows],
            }
            for name, rows in results.items()
        },
    }
