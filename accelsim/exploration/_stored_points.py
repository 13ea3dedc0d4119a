"""Rows of a store as Python sees them: filter, best, Pareto set, pandas."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.exploration._arguments import checked
from accelsim.exploration._result import to_dataframe
from accelsim.exploration._store import read_rows

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]
_SHOWN = 20
"""Points that a notebook shows."""


@dataclass(frozen=True, repr=False)
class Results:
    """Finished points.

    Attributes:
        rows: one mapping per point: ``key``, ``status`` (``ok`` or ``failed``), ``feasible``, the
            axes, the metrics, ``config.*`` as JSON text.
        axes: keys that varied.
        goals: metric to ``minimize``, ``maximize`` or ``report``.
        store: where they are kept.
        excluded: points that constraints over keys dropped before they ran.
        notes: what to know about how they came about.
    """

    rows: list[Row]
    axes: list[str] = field(default_factory=list)
    goals: Mapping[str, str] = field(default_factory=dict)
    store: Path | None = None
    excluded: int = 0
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: how many points, of which axes, where."""
        where = "" if self.store is None else f", in {self.store}"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Results({len(self.rows)} points{failed} over {', '.join(self.axes)}{where})"

    def _repr_html_(self) -> str:
        """The axes and goals of the first points, for notebooks."""
        names = [*self.axes, *self.goals]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(str(row.get(n, '')))}</td>" for n in names)
            + "</tr>"
            for row in self.rows[:_SHOWN]
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p>{html.escape(repr(self))}</p>{table}"

    @property
    def failed(self) -> list[Row]:
        """Rows with an ``error``."""
        return [row for row in self.rows if row["status"] != "ok"]

    @property
    def usable(self) -> list[Row]:
        """Rows that ran and hold every constraint."""
        return [r for r in self.rows if r["status"] == "ok" and r.get("feasible", True)]

    @property
    def readings(self) -> list[str]:
        """Readings of SRAM and arithmetic of the usable points; energies and areas of several
        compare libraries as much as machines."""
        from accelsim.energy import reading_of

        texts = dict.fromkeys(row.get("config.energy") for row in self.usable)
        found = (reading_of(json.loads(text)) for text in texts if text)
        return list(dict.fromkeys(reading for reading in found if reading))

    def best(self, metric: str | None = None) -> Row | None:
        """Return the best usable row by one metric, by default the first that has a goal."""
        goals = _directed(self.goals)
        name = metric or next(iter(goals), None)
        rows = [row for row in self.usable if name is not None and row.get(name) is not None]
        if not rows:
            return None
        assert name is not None
        sign = goals.get(name, 1.0)
        return min(rows, key=lambda row: sign * row[name])

    def pareto(self) -> list[Row]:
        """Return the usable rows that no other beats in every metric with a goal."""
        return self.front(*_directed(self.goals))

    def front(self, *metrics: str) -> list[Row]:
        """Return the Pareto set of some metrics alone, in ascending order of the first.

        Args:
            metrics: names; one that is not to be maximized is minimized.
        """
        if not metrics:
            return []
        goals = {n: -1.0 if self.goals.get(n) == "maximize" else 1.0 for n in metrics}
        rows = [r for r in self.usable if all(r.get(name) is not None for name in goals)]
        values = [[sign * row[name] for name, sign in goals.items()] for row in rows]
        chosen = [rows[i] for i in pareto_front(values)]
        return sorted(chosen, key=lambda row: tuple(row[name] for name in goals))

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per point, without the configuration texts.

        Raises:
            AccelsimError: pandas is not installed.
        """
        return to_dataframe(
            [{k: v for k, v in row.items() if not k.startswith("config.")} for row in self.rows]
        )


def pareto_front(values: Sequence[Sequence[float]]) -> list[int]:
    """Return positions of the points that none dominates; smaller is better, equals all stay."""
    import numpy as np

    table = np.asarray(values, dtype=np.float64)
    front = []
    for index, point in enumerate(table):
        no_worse = (table <= point).all(axis=1)
        better = (table < point).any(axis=1)
        if not (no_worse & better).any():
            front.append(index)
    return front


class Front:
    """The Pareto set so far, for a line of progress.

    Args:
        goals: metric to ``minimize``, ``maximize`` or ``report``.
    """

    def __init__(self, goals: Mapping[str, str]) -> None:
        self.signs = _directed(goals)
        self.size = 0
        self.best: dict[str, float] = {}
        self._values: list[list[float]] = []

    def add(self, row: Row) -> None:
        """Take a finished row; one that failed, breaks a constraint or lacks a metric is left."""
        usable = row["status"] == "ok" and row.get("feasible", True)
        if not usable or any(row.get(name) is None for name in self.signs):
            return
        for name, sign in self.signs.items():
            value = float(row[name])
            self.best[name] = sign * min(sign * value, sign * self.best.get(name, value))
        values = [*self._values, [sign * row[name] for name, sign in self.signs.items()]]
        self._values = [values[i] for i in pareto_front(values)]
        self.size = len(self._values)

    def line(self) -> str:
        """Return its size and the best value of each metric."""
        best = ", ".join(f"{name} {value:.3g}" for name, value in self.best.items())
        return f"Pareto set {self.size}: best {best}" if best else ""


@checked
def load_results(store: str | Path) -> Results:
    """Open a result store, also while a sweep is writing to it.

    Raises:
        AccelsimError: it is not a store, or damaged.
    """
    return Results(read_rows(store), store=Path(store))


def _directed(goals: Mapping[str, str]) -> dict[str, float]:
    signs = {"minimize": 1.0, "maximize": -1.0}
    return {name: signs[goal] for name, goal in goals.items() if goal in signs}
