"""One figure for a sweep or search: two metrics against each other, with their Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelsim.drawing import COLORS, DARK, Svg, new_figure, plain_figures, svg_text
from accelsim.errors import AccelsimError, did_you_mean

if TYPE_CHECKING:
    from accelsim.exploration import Results


@plain_figures()
def pareto_figure(
    results: Results,
    x: str,
    y: str,
    *,
    color: str | None = None,
    label: str | None = None,
    title: str = "",
) -> Svg:
    """Return an SVG of two metrics, every usable point, and the front of these two.

    Args:
        results: of a sweep, search or store; a metric that has no goal there is minimized.
        x, y: metrics.
        color: axis whose values get colors.
        label: axis whose value is written beside the points of the front.
        title: over the figure.

    Raises:
        AccelsimError: a name that no usable point has.
    """
    from matplotlib.ticker import EngFormatter

    from accelsim.reports.interactive._names import heading, unit_of

    rows = results.usable
    known = {name for row in rows for name in row if not name.startswith("config.")}
    for name in filter(None, (x, y, color, label)):
        if name not in known:
            raise AccelsimError(f"no usable point has '{name}'{did_you_mean(name, known)}")
    front = results.front(x, y)
    figure, axes = new_figure(7.2, 4.4)
    levels = list(dict.fromkeys(row.get(color) for row in rows)) if color else [None]
    for number, level in enumerate(sorted(levels, key=lambda v: (str(type(v)), v))):
        chosen = [row for row in rows if color is None or row.get(color) == level]
        axes.plot(
            *([row[name] for row in chosen] for name in (x, y)),
            "o",
            markersize=5,
            alpha=0.75,
            color=COLORS[number % len(COLORS)],
            label=None if color is None else f"{color.rpartition('.')[2]} = {level}",
        )
    line = [[row[name] for row in front] for name in (x, y)]
    # Between two points of a front nothing was found: a step, not a slope.
    style: dict[str, Any] = {
        "drawstyle": "steps-post",
        "color": DARK,
        "linewidth": 1,
        "zorder": 0,
    }
    axes.plot(*line, "-", label="Pareto front", **style)
    if label is not None:
        for row in front:
            place = (row[x], row[y])
            text = _short(row.get(label))
            axes.annotate(text, place, xytext=(5, 4), textcoords="offset points", fontsize=7)
    for name, side in ((x, axes.xaxis), (y, axes.yaxis)):
        if unit_of(name):
            side.set_major_formatter(EngFormatter())
        side.set_label_text(heading(name))
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, fontsize=9)
    return svg_text(figure)


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
