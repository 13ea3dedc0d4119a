"""One figure for a family of policies: accuracy against DRAM bytes, or another cost."""

from __future__ import annotations

import io
from collections.abc import Mapping


def policy_figure(
    points: Mapping[str, tuple[float, float]],
    metric: str,
    *,
    title: str = "",
    log: bool = False,
    cost: str = "DRAM traffic of keys and values, MB",
    scale: float = 1e6,
) -> str:
    """Return an SVG of accuracy against a cost, one labelled point for each policy.

    Args:
        points: policy name to its cost (bytes, unless another is named) and its accuracy.
        metric: what the accuracy is, and whether open or closed loop, for the axis.
        title: over the figure.
        log: whether the accuracy has a logarithmic axis.
        cost: label of the horizontal axis, with the unit.
        scale: how much of ``points`` is one of that unit.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # Equal inputs give equal files.
    with matplotlib.rc_context({"svg.hashsalt": "accelsim"}):
        figure, axes = plt.subplots(figsize=(8.4, 5.2))
        axes.spines[["top", "right"]].set_visible(False)
        for name, (moved, height) in points.items():
            axes.plot(moved / scale, height, "o", color="#4c78a8", markersize=4)
            place = (moved / scale, height)
            axes.annotate(name, place, xytext=(4, 3), textcoords="offset points", fontsize=6.5)
        if log:
            axes.set_yscale("log")
        axes.set_xlim(left=0)
        axes.set_xlabel(cost)
        axes.set_ylabel(metric)
        axes.set_title(title, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
