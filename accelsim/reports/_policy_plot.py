"""One figure for a family of policies: accuracy against DRAM bytes."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.reports._svg import Svg, new_figure, to_svg


def policy_figure(
    points: Mapping[str, tuple[float, float]], metric: str, *, title: str = "", log: bool = False
) -> Svg:
    """Return an SVG of accuracy against DRAM traffic, one labelled point for each policy.

    Args:
        points: policy name to its DRAM bytes and its accuracy.
        metric: what the accuracy is, and whether open or closed loop, for the axis.
        title: over the figure.
        log: whether the accuracy has a logarithmic axis.
    """
    figure, axes = new_figure(8.4, 5.2)
    for name, (moved, height) in points.items():
        axes.plot(moved / 1e6, height, "o", color="#4c78a8", markersize=4)
        axes.annotate(
            name, (moved / 1e6, height), xytext=(4, 3), textcoords="offset points", fontsize=6.5
        )
    if log:
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("DRAM traffic of keys and values, MB")
    axes.set_ylabel(metric)
    axes.set_title(title, fontsize=9)
    return to_svg(figure)
