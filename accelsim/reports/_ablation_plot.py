"""An ablation as a figure: what each field is worth alone, in sequence, and when taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelsim.drawing import COLORS, GREY, new_figure, plain_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from accelsim.exploration import Ablation, AblationPoint

_SERIES = (
    ("alone", "alone", COLORS[0]),
    ("cumulative", "with all above it", COLORS[1]),
    ("without", "all but this one", COLORS[2]),
)


@plain_figures()
def ablation_figure(ablation: Ablation) -> Figure:
    """Draw speedups over FROM, one group of bars for each field; refused points say so."""
    names = [f"{d.key}\n{_text(d.before)} → {_text(d.after)}" for d in ablation.fields]
    figure, axes = new_figure(8.4, 1.2 + 0.62 * max(len(names), 1))
    height = 0.26
    for index, (series, label, color) in enumerate(_SERIES):
        points: tuple[AblationPoint, ...] = getattr(ablation, series)
        places = [row + (index - 1) * height for row in range(len(points))]
        axes.barh(places, [p.speedup or 0 for p in points], height, label=label, color=color)
        for place, point in zip(places, points, strict=True):
            text = "refused" if point.speedup is None else f"{point.speedup:.2f}x"
            axes.text(point.speedup or 0, place, f" {text}", va="center", fontsize=6)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"speedup in time over {ablation.before} ({ablation.base.latency_cycles:,} cycles)"
    )
    axes.set_title(f"{ablation.before} → {ablation.after}", fontsize=9)
    axes.legend(frameon=False, fontsize=7)
    return figure


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
