"""One figure for a family of policies: accuracy against DRAM bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from accelsim.exploration import RunResult


def policy_figure(
    results: Mapping[str, RunResult],
    closed_loop: Mapping[str, float] | None = None,
    metric: str = "",
) -> str:
    """Return an SVG of accuracy against DRAM traffic, one labelled point for each policy.

    Args:
        results: policy name to its replay on one source and accelerator; those without accuracy
            are left out.
        closed_loop: policy name to a figure measured inside a model (perplexity, correlation).
            Policies without one are left out; the open-loop output error is drawn if not given.
        metric: what ``closed_loop`` holds, for the axis.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    axes.spines[["top", "right"]].set_visible(False)
    for name, result in results.items():
        height = _height(result, None if closed_loop is None else closed_loop.get(name))
        if height is None or (closed_loop is not None and name not in closed_loop):
            continue
        moved = result.metrics["dram_read_bytes"] + result.metrics["dram_write_bytes"]
        axes.plot(moved / 1e6, height, "o", color="#4c78a8")
        axes.annotate(
            name, (moved / 1e6, height), xytext=(4, 3), textcoords="offset points", fontsize=7
        )
    axes.set_xlabel("DRAM traffic, MB")
    if closed_loop is None:
        axes.set_ylabel("relative output error (open loop)")
    else:
        axes.set_ylabel(f"{metric} (closed loop)")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _height(result: RunResult, closed_loop: float | None) -> Any:
    if closed_loop is not None:
        return closed_loop
    if result.accuracy is None:
        return None
    return result.accuracy["relative_output_error"]
