"""One figure for a sweep or search: two metrics against each other, with their Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelsim.drawing import COLORS, DARK, Svg, new_figure, plain_figures, svg_text
from accelsim.errors import AccelsimError, did_you_mean
from accelsim.reports._point_names import name_points

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
    from accelsim.reports.interactive._names import axis_label

    rows = results.usable
    known = {name for row in rows for name in row if not name.startswith("config.")}
    for name in filter(None, (x, y, color, label)):
        if name not in known:
            raise AccelsimError(f"no usable point has '{name}'{did_you_mean(name, known)}")
    front = results.front(x, y)
    # In units that a reader thinks in: 0.8 mJ, not 800 µ of J.
    told = [axis_label(name, [row[name] for row in rows]) for name in (x, y)]
    labels, scales = zip(*told, strict=True)
    figure, axes = new_figure(7.2, 4.4)
    levels = list(dict.fromkeys(row.get(color) for row in rows)) if color else [None]
    for number, level in enumerate(sorted(levels, key=lambda v: (str(type(v)), v))):
        chosen = [row for row in rows if color is None or row.get(color) == level]
        axes.plot(
            *([row[name] / s for row in chosen] for name, s in zip((x, y), scales, strict=True)),
            "o",
            markersize=5,
            alpha=0.75,
            color=COLORS[number % len(COLORS)],
            label=None if color is None else f"{color.rpartition('.')[2]} = {level}",
        )
    line = [[row[name] / s for row in front] for name, s in zip((x, y), scales, strict=True)]
    # Between two points of a front nothing was found: a step, not a slope.
    style: dict[str, Any] = {
        "drawstyle": "steps-post",
        "color": DARK,
        "linewidth": 1,
        "zorder": 0,
    }
    axes.plot(*line, "-", label="Pareto front", **style)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, fontsize=9)
    if label is not None:
        best = list(zip(*line, strict=True))
        names = [_short(row.get(label)) for row in front]
        every = [(row[x] / scales[0], row[y] / scales[1]) for row in rows]
        name_points(axes, [(n, p, False) for n, p in zip(names, best, strict=True)], every)
    return svg_text(figure)


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
