"""The page of a result store: fronts, parallel coordinates, sensitivity, points, failures."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

from accelsim.errors import AccelsimError, did_you_mean
from accelsim.exploration import Results
from accelsim.reports._page_table import Table
from accelsim.reports.interactive._names import axis_label, heading
from accelsim.reports.interactive._page import Chart, Page
from accelsim.reports.interactive._sensitivity import explained
from accelsim.reports.interactive._sources import sources
from accelsim.reports.interactive._vega import (
    WIDTH,
    channel,
    dimmed,
    legend_filter,
    plot,
    shown,
    zoomable,
)

Row = dict[str, Any]
DEFAULT_OBJECTIVES = ("latency_s", "energy_j", "area_mm2", "accuracy.relative_output_error")
_AXIS_SECTIONS = ("accelerator.", "memory.", "energy.", "policy.")
_AXIS_NAMES = ("source", "accelerator", "memory", "energy", "policy", "engine")


def store_page(results: Results, title: str, objectives: Sequence[str] = ()) -> Page:
    """Return the page of a store.

    Args:
        results: points; axes and goals are found in the rows where ``results`` does not name them.
        title: shown on top.
        objectives: metrics to minimize, or ``NAME:maximize``; by default those of
            :data:`DEFAULT_OBJECTIVES` that vary.

    Raises:
        AccelsimError: no points, or an objective that no point has.
    """
    if not results.rows:
        raise AccelsimError(f"{title}: the store holds no points")
    axes = _axes(results)
    goals = _goals(results, objectives)
    judged = Results(results.rows, axes, goals, results.store)
    front = {row["key"] for row in judged.pareto()} if goals else set()
    rows = [r for r in judged.usable if all(_number(r.get(name)) is not None for name in goals)]
    charts = [*_fronts(rows, axes, list(goals), front), *_parallel(rows, axes, list(goals), front)]
    worth = _worth(rows, axes, list(goals))
    if worth:
        charts.append(_worth_chart(worth))
    tables = [_points(judged, axes, list(goals), front)]
    if worth:
        columns = ["axis", "metric", "variance explained", "worst mean / best mean (×)"]
        tables.append(Table("What each axis is worth", columns, worth))
    if judged.failed:
        failures = [
            [r["key"][:12], str(r.get("error", "")), *map(_cell, (r.get(a) for a in axes))]
            for r in judged.failed
        ]
        tables.append(Table("Failures", ["point", "error", *axes], failures))
    configurations = [_configurations(row) for row in results.rows]
    if (sourced := sources(configurations)) is not None:
        tables.append(sourced)
    notes = _notes(judged, goals, front)
    return Page(title, [], notes, tables, charts, _manifest(results))


def _axes(results: Results) -> list[str]:
    if results.axes:
        return list(results.axes)
    names = dict.fromkeys(
        name
        for row in results.rows
        for name in row
        if name in _AXIS_NAMES or name.startswith(_AXIS_SECTIONS)
    )
    return [name for name in names if len({_level(r[name]) for r in results.rows if name in r}) > 1]


def _goals(results: Results, objectives: Sequence[str]) -> dict[str, str]:
    """Metric to ``minimize`` or ``maximize``."""
    numbers = {n for r in results.usable for n, v in r.items() if _number(v) is not None}
    goals: dict[str, str] = {}
    for text in objectives:
        name, _, goal = text.partition(":")
        if goal not in ("", "minimize", "maximize"):
            raise AccelsimError(f"objective '{text}': expected NAME or NAME:maximize")
        if name not in numbers:
            raise AccelsimError(f"objective '{name}': no point has it{did_you_mean(name, numbers)}")
        goals[name] = goal or "minimize"
    if goals:
        return goals
    known = {name: goal for name, goal in results.goals.items() if goal != "report"}
    if known:
        return known
    return {
        name: "minimize"
        for name in DEFAULT_OBJECTIVES
        if name in numbers and len({row.get(name) for row in results.usable}) > 1
    }


def _fronts(rows: list[Row], axes: list[str], goals: list[str], front: set[str]) -> list[Chart]:
    charts = []
    labels = {name: axis_label(name, [row[name] for row in rows]) for name in goals}
    for number, (x, y) in enumerate(itertools.combinations(goals, 2)):
        (across, of_x), (up, of_y) = labels[x], labels[y]
        values = [
            {
                "x": row[x] / of_x,
                "y": row[y] / of_y,
                "front": "on the front" if row["key"] in front else "dominated",
                "point": row["key"][:12],
                **{f"a{i}": _cell(row.get(axis)) for i, axis in enumerate(axes)},
            }
            for row in rows
        ]
        tips = [("point", "point"), ("x", across), ("y", up)]
        tips += [(f"a{i}", axis) for i, axis in enumerate(axes)]
        scale = {"zero": False}
        encoding = {
            "x": channel("x", "Q", across, scale=scale),
            "y": channel("y", "Q", up, scale=scale),
            "color": channel("front", "N", "Pareto set of all objectives"),
            "tooltip": shown(*tips),
        }
        mark = {"type": "point", "filled": True, "size": 60}
        spec = plot(values, mark, encoding, params=zoomable(f"front_zoom_{number}"))
        note = f"The front is that of all objectives together: {', '.join(goals)}."
        title = " against ".join(label.rpartition(", ")[0] or label for label in (across, up))
        charts.append(Chart(title, note, spec))
    return charts


def _parallel(rows: list[Row], axes: list[str], goals: list[str], front: set[str]) -> list[Chart]:
    columns = [*axes, *goals]
    if len(rows) < 2 or len(columns) < 2:
        return []
    scales = {name: _scale([row.get(name) for row in rows]) for name in columns}
    values = [
        {
            "point": row["key"][:12],
            "column": name,
            "place": scales[name][_level(row.get(name))],
            "value": str(_cell(row.get(name))),
            "front": "on the front" if row["key"] in front else "dominated",
        }
        for row in rows
        for name in columns
    ]
    encoding = {
        "x": channel("column", "N", None, sort=None, axis={"labelAngle": -20}),
        "y": channel("place", "Q", "lowest to highest", axis={"labels": False, "ticks": False}),
        "color": channel("front", "N", "Pareto set of all objectives"),
        "detail": {"field": "point", "type": "nominal"},
        "opacity": dimmed("parallel_pick"),
        "tooltip": shown(("point", "point"), ("column", "column"), ("value", "value")),
    }
    mark = {"type": "line", "point": {"size": 20}, "strokeWidth": 1.2}
    spec = plot(values, mark, encoding, params=legend_filter("parallel_pick", "front"))
    spec["width"] = max(WIDTH, 120 * len(columns))
    note = "One line per point. Click in the legend to see the front alone; hover for values."
    return [Chart("Parallel coordinates", note, spec)]


def _scale(values: list[Any]) -> dict[str, float]:
    """Place each value of a column between 0 and 1: numbers by size, the rest by rank."""
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) == len(values):
        low, high = min(known), max(known)
        span = (high - low) or 1.0
        return {_level(v): (n - low) / span for v, n in zip(values, known, strict=True)}
    levels = sorted({_level(value) for value in values})
    return {level: i / max(len(levels) - 1, 1) for i, level in enumerate(levels)}


def _worth(rows: list[Row], axes: list[str], goals: list[str]) -> list[list[Any]]:
    if len(rows) < 2:
        return []
    found = []
    for axis, goal in itertools.product(axes, goals):
        share, ratio = explained([r.get(axis) for r in rows], [float(r[goal]) for r in rows])
        found.append([axis, goal, share, ratio if math.isfinite(ratio) else None])
    return found


def _worth_chart(worth: list[list[Any]]) -> Chart:
    values = [{"axis": a, "metric": m, "share": share} for a, m, share, _ in worth]
    encoding = {
        "x": channel("share", "Q", "variance explained", axis={"format": "%"}),
        "y": channel("axis", "N", None),
        "yOffset": {"field": "metric"},
        "color": channel("metric", "N", "metric"),
        "tooltip": shown(("axis", "axis"), ("metric", "metric"), ("share", "variance explained")),
    }
    spec = plot(values, "bar", encoding)
    spec["height"] = max(20 * len(values), 60)
    note = "Share of a metric's variance that an axis explains alone (correlation ratio)."
    return Chart("What each axis is worth", note, spec)


def _points(results: Results, axes: list[str], goals: list[str], front: set[str]) -> Table:
    more = ("latency_cycles", "dram_read_bytes", "average_power_w", "row_hit_rate")
    metrics = list(dict.fromkeys([*goals, *more]))
    metrics = [name for name in metrics if any(name in row for row in results.rows)]
    rows = [
        [
            row["key"][:12],
            row["status"] if row.get("feasible", True) else "infeasible",
            "yes" if row["key"] in front else "",
            *(_cell(row.get(name)) for name in (*axes, *metrics)),
        ]
        for row in results.rows
    ]
    return Table("Points", ["point", "status", "Pareto", *axes, *map(heading, metrics)], rows)


def _notes(results: Results, goals: dict[str, str], front: set[str]) -> list[str]:
    count, failed = len(results.rows), len(results.failed)
    aims = ", ".join(f"{goal} {name}" for name, goal in goals.items()) or "none"
    notes = [f"{count} points, {failed} failed, {len(front)} in the Pareto set. Goals: {aims}."]
    if len({row.get("code_sha256") for row in results.rows if "code_sha256" in row}) > 1:
        notes.append("The points come from different states of the modelling code; see manifest.")
    return notes


def _manifest(results: Results) -> dict[str, Any]:
    columns = ("accelsim_version", "code_sha256", "source_path", "source_sha256", "timing_engine")
    return {
        "store": {
            name: sorted({str(row[name]) for row in results.rows if name in row})
            for name in columns
        },
        "first point's configurations": _configurations(results.rows[0]),
    }


def _configurations(row: Row) -> dict[str, Any]:
    found = {}
    for name, text in row.items():
        if name.startswith("config.") and isinstance(text, str):
            try:
                found[name.removeprefix("config.")] = json.loads(text)
            except ValueError:
                continue  # a store that something else wrote; its points still show
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _level(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _cell(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) or value is None else _level(value)
