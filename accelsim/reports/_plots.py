"""Plots of a comparison, as SVG text for the HTML report or as files."""

from __future__ import annotations

from collections.abc import Mapping

from accelsim.drawing import COLORS, GREY, new_figure, plain_figures, svg_text
from accelsim.exploration import RunResult
from accelsim.reports._tables import TENSOR_LABELS


@plain_figures()
def figures(results: Mapping[str, RunResult]) -> dict[str, str]:
    """Return title to SVG for every plot that the results allow."""
    drawn = {
        "DRAM reads by tensor and bit plane": _stacked(
            results,
            {
                label: [r.dram_read_bytes_by_tensor.get(key, 0) / 1e6 for r in results.values()]
                for key, label in TENSOR_LABELS.items()
            },
            "MB",
        ),
        "Energy by part": _stacked(
            results,
            {
                part: [r.energy_j_by_part.get(part, 0.0) * 1e6 for r in results.values()]
                for part in next(iter(results.values())).energy_j_by_part
            },
            "µJ",
        ),
        "Where the cycles go": _modules(results),
    }
    if any(r.per_layer for r in results.values()):
        drawn["Output error by layer"] = _layers(results)
    if any(r.baselines for r in results.values()):
        drawn["Speedup over baselines"] = _speedups(results)
    return drawn


def _stacked(results: Mapping[str, RunResult], parts: Mapping[str, list[float]], unit: str) -> str:
    figure, axes = new_figure(6.4, 3.2)
    left = [0.0] * len(results)
    for color, (label, values) in zip(COLORS, parts.items(), strict=False):
        axes.barh(list(results), values, left=left, label=label, color=color)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:.3g}", va="center")
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return svg_text(figure)


def _modules(results: Mapping[str, RunResult]) -> str:
    figure, axes = new_figure(6.4, 4.2)
    names = list(next(iter(results.values())).modules)
    height = 0.8 / len(results)
    for index, (label, result) in enumerate(results.items()):
        total = max(result.metrics["latency_cycles"], 1)
        busy = [100 * result.modules.get(n, {}).get("busy_cycles", 0) / total for n in names]
        places = [row + index * height for row in range(len(names))]
        axes.barh(places, busy, height=height, label=label, color=COLORS[index % len(COLORS)])
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("busy, % of all cycles")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def _layers(results: Mapping[str, RunResult]) -> str:
    figure, axes = new_figure(6.4, 3.2)
    for index, (label, result) in enumerate(results.items()):
        points = [
            (record["layer"], 100 * record["relative_output_error"])
            for record in result.per_layer
            if record.get("relative_output_error") is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                marker=".",
                label=label,
                color=COLORS[index % len(COLORS)],
            )
    axes.set_xlabel("layer")
    axes.set_ylabel("relative output error, %")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def _speedups(results: Mapping[str, RunResult]) -> str:
    names = list(dict.fromkeys(n for r in results.values() for n in r.baselines))
    figure, axes = new_figure(6.4, 0.34 * len(names) + 1)
    height = 0.8 / len(results)
    for index, (label, result) in enumerate(results.items()):
        values = [result.baselines.get(n, {}).get("speedup") or 0 for n in names]
        places = [row + index * height for row in range(len(names))]
        axes.barh(places, values, height=height, label=label, color=COLORS[index % len(COLORS)])
    axes.set_xscale("log")
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("speedup (log scale; left of 1 the baseline is faster)")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)
