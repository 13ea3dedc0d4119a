"""One figure for a family of policies: accuracy against DRAM bytes, or another cost."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.drawing import COLORS, GREY, Svg, new_figure, plain_figures, svg_text
from accelsim.reports._point_names import name_points


@plain_figures()
def policy_figure(
    points: Mapping[str, tuple[float, float]],
    metric: str,
    *,
    title: str = "",
    log: bool = False,
    cost: str = "DRAM traffic of keys and values, MB",
    scale: float = 1e6,
) -> Svg:
    """Return an SVG of accuracy against a cost, a point for each policy; less is better in both.

    What another policy beats in both is grey. No names overlap; one without a place is left out.

    Args:
        points: policy name to its cost (bytes, unless another is named) and its accuracy.
        metric: what the accuracy is, and whether open or closed loop, for the axis.
        title: over the figure.
        log: whether the accuracy has a logarithmic axis.
        cost: label of the horizontal axis, with the unit.
        scale: how much of ``points`` is one of that unit.
    """
    figure, axes = new_figure(8.4, 5.2)
    places = {name: (moved / scale, height) for name, (moved, height) in points.items()}
    front = [p for p in places.values() if not any(_beats(q, p) for q in places.values())]
    for best, color, size, told in ((False, GREY, 3.5, "beaten in both"),
                                    (True, COLORS[0], 5, "not beaten")):  # fmt: skip
        chosen = [place for place in places.values() if (place in front) == best]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), "o", color=color, markersize=size, label=told)
    if log:
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.margins(0.08)
    axes.set_xlabel(cost)
    axes.set_ylabel(metric)
    axes.set_title(title, fontsize=9)
    if len(front) < len(places):
        axes.legend(frameon=False, fontsize=8)
    # The front has the first choice of a place.
    named = sorted(
        ((name, place, place in front) for name, place in places.items()),
        key=lambda entry: (not entry[2], entry[1]),
    )
    name_points(axes, named, list(places.values()), far=True)
    return svg_text(figure)


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a costs no more at no more loss, and less in one."""
    return a[0] <= b[0] and a[1] <= b[1] and a != b
