"""One figure for a family of policies: accuracy against DRAM bytes, or another cost."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.drawing import COLORS, Svg, new_figure, plain_figures, svg_text


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
    """Return an SVG of accuracy against a cost, one labelled point for each policy.

    Args:
        points: policy name to its cost (bytes, unless another is named) and its accuracy.
        metric: what the accuracy is, and whether open or closed loop, for the axis.
        title: over the figure.
        log: whether the accuracy has a logarithmic axis.
        cost: label of the horizontal axis, with the unit.
        scale: how much of ``points`` is one of that unit.
    """
    figure, axes = new_figure(8.4, 5.2)
    for name, (moved, height) in points.items():
        axes.plot(moved / scale, height, "o", color=COLORS[0], markersize=4)
        axes.annotate(
            name, (moved / scale, height), xytext=(4, 3), textcoords="offset points", fontsize=6.5
        )
    if log:
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel(cost)
    axes.set_ylabel(metric)
    axes.set_title(title, fontsize=9)
    return svg_text(figure)
