"""One figure for a tuning: measured loss against DRAM reduction, and what is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from accelsim.drawing import COLORS, DARK, GREY, Svg, new_figure, plain_figures, svg_text
from accelsim.reports._point_names import name_points

_BEST, _OTHER = COLORS[:2]
_TICKS = (-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LINEAR_BELOW = 1.0
"""Losses up to this many percent have a linear axis, larger ones a logarithmic one."""


@plain_figures()
def frontier_figure(rows: Sequence[Mapping[str, Any]], limit: float, *, title: str = "") -> Svg:
    """Return an SVG of loss against DRAM reduction; what another point beats in both is grey.

    Args:
        rows: points with ``name``, ``loss``, ``dram_reduction``, and where it was measured
            ``held_out_loss``; see :meth:`accelsim.exploration.Tuning.rows`.
        limit: largest loss allowed, drawn as a line.
        title: over the figure.
    """
    figure, axes = new_figure(8.4, 5.0)
    places = [(float(r["dram_reduction"]), 100 * float(r["loss"])) for r in rows]
    front = [p for p in places if not any(_beats(q, p) for q in places)]
    axes.axhline(100 * limit, color=DARK, linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=_LINEAR_BELOW, linscale=1.2)
    for place in places:
        if place not in front:
            axes.plot(*place, "o", color=GREY, markersize=3.5, zorder=2)
    # Between two points of a front nothing was measured: a step, not a slope.
    steps = sorted(set(front))
    axes.plot(*zip(*steps, strict=True), drawstyle="steps-pre", color=_BEST, linewidth=1, zorder=1)
    axes.plot(*zip(*steps, strict=True), "o", color=_BEST, markersize=5, zorder=4,
              label="tuned on these texts, not beaten")  # fmt: skip
    axes.plot([], [], "o", color=GREY, markersize=3.5, label="beaten in both")
    told = False
    for row, (x, y) in zip(rows, places, strict=True):
        if row.get("held_out_loss") in (None, ""):
            continue
        other = 100 * float(row["held_out_loss"])
        axes.plot([x, x], [y, other], color=_OTHER, linewidth=0.8, zorder=2)
        axes.plot(x, other, "D", markerfacecolor="none", color=_OTHER, markersize=5, zorder=3,
                  label="" if told else "the same policy on held-out texts")  # fmt: skip
        told = True
    axes.set_xlabel("times less DRAM traffic of keys and values than 12-bit dense")
    axes.set_ylabel("loss, %, closed loop (logarithmic above 1)")
    axes.set_title(title, fontsize=9)
    lowest, highest = (extreme(y for _, y in places) for extreme in (min, max))
    ticks = [t for t in _TICKS if lowest - 0.5 <= t <= 1.5 * highest]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.06)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    named = [(str(r["name"]), p) for r, p in zip(rows, places, strict=True)]
    corners = [(x, y) for (x, _), (_, y) in pairwise(steps)]
    turns = [place for pair in zip(steps, corners, strict=False) for place in pair] + steps[-1:]
    name_points(axes, _once(named, front), places, turns)
    return svg_text(figure)


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a saves at least as much at no more loss, and is better in one."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def _once(
    named: Sequence[tuple[str, tuple[float, float]]], front: Sequence[tuple[float, float]]
) -> list[tuple[str, tuple[float, float], bool]]:
    """One label a name: at its point of the front that saves most, else at its only point."""
    found = []
    for name in dict.fromkeys(n for n, _ in named):
        own = [place for n, place in named if n == name]
        best = [place for place in own if place in front]
        if best or len(own) == 1:
            found.append((name, max(best or own), bool(best)))
    # The front first: it has the first choice of a place.
    return sorted(found, key=lambda entry: (not entry[2], -entry[1][0]))
