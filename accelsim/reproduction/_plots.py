"""Pictures of the reproduction: ours beside theirs, as SVG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelsim.reproduction._base import ALL, PLATFORMS, Row


def draw(results: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Write ``NAME.svg`` and ``NAME.png`` for every figure; returns the files."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "accelsim"
    written = []
    for name, rows in results.items():
        figure = _speedups(rows) if name == "speedup" else _ratios(rows)
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(
                path,
                bbox_inches="tight",
                dpi=150,
                metadata={"Date": None} if suffix == "svg" else None,
            )
            written.append(path)
    return written


def _speedups(rows: list[Row]) -> Any:
    """Thirty benchmarks by four platforms, measured against published, both axes logarithmic."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(10, 9))
    axes = canvas.subplots(2, 2).ravel()
    by_label = {row.label: row for row in rows}
    for ax, title in zip(axes, PLATFORMS.values(), strict=True):
        for family, color in (("bert", "#4c78a8"), ("gpt2", "#f58518")):
            points = [by_label[f"{title}, {name}"] for name in ALL if name.startswith(family)]
            ax.scatter(
                [row.theirs for row in points],
                [row.ours for row in points],
                color=color,
                label={"bert": "BERT (22)", "gpt2": "GPT-2 (8)"}[family],
            )
        ends = [value for row in rows if row.theirs for value in (row.ours, row.theirs)]
        span = [min(ends) / 1.5, max(ends) * 1.5]
        ax.plot(span, span, color="#888", linewidth=0.8)
        mean = by_label[f"{title}, speedup, geomean of all"]
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="published speedup",
            ylabel="simulated speedup",
            title=f"{title}: geomean {mean.ours:,.0f} simulated, {mean.theirs or 0:,.0f} published",
        )
        ax.set_title(ax.get_title(), fontsize=10)
        ax.legend(frameon=False, fontsize=8)
    canvas.tight_layout()
    return canvas


def _ratios(rows: list[Row]) -> Any:
    """Ours over theirs, a bar each; 1 is agreement."""
    from matplotlib.figure import Figure as Canvas

    shown = [row for row in rows if row.ratio]
    canvas = Canvas(figsize=(8, 0.35 * len(shown) + 1.2))
    ax = canvas.subplots()
    ax.barh([row.label for row in shown], [row.ratio or 0 for row in shown], color="#4c78a8")
    for place, row in enumerate(shown):
        ax.text(
            row.ratio or 0,
            place,
            f" {row.ours:.3g} of {row.theirs:.3g} {row.unit}",
            va="center",
            fontsize=8,
        )
    ax.axvline(1, color="#888", linewidth=0.8)
    ax.invert_yaxis()
    ax.set_xlabel("simulated over published")
    ax.spines[["top", "right"]].set_visible(False)
    return canvas
