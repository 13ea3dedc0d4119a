"""Pictures of the reproduction: ours beside theirs, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.drawing import COLORS, GREY, plain_figures, write_picture
from accelsim.reproduction._base import ALL, PLATFORMS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_OURS, _THEIRS = COLORS[:2]
_ROOFS = ((2.048, "SpAtten"), (12.15, "TITAN Xp"))
"""TOP/s of 2 x 512 multipliers at 1 GHz (SpAtten Table I), and of the GPU (its data)."""
_BANDWIDTHS_TB_PER_S = {"SpAtten": 0.512, "TITAN Xp": 0.5476}


# Text as text: small files that differ only where a number does.
_STYLE = {"svg__fonttype": "none"}


@plain_figures(**_STYLE)
def draw(results: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Write ``NAME.svg`` and ``NAME.png`` for every figure; returns the files."""
    special: dict[str, Callable[[list[Row]], Canvas]] = {
        "speedup": _speedups,
        "ladder": _ladder,
        "design-space": _design_space,
        "roofline": _roofline,
    }
    written = []
    for name, rows in results.items():
        canvas = special.get(name, _ratios)(rows)
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            write_picture(path, canvas, **_STYLE)
            written.append(path)
    return written


def _canvas(width: float, height: float) -> Canvas:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _speedups(rows: list[Row]) -> Canvas:
    """Thirty benchmarks by four platforms, simulated against published, logarithmic."""
    canvas = _canvas(10, 9)
    by_label = {row.label: row for row in rows}
    single = [by_label[f"{title}, {name}"] for title in PLATFORMS.values() for name in ALL]
    ends = [value for row in single if row.theirs for value in (row.ours, row.theirs)]
    span = [min(ends) / 1.5, max(ends) * 1.5]
    for ax, title in zip(canvas.subplots(2, 2).ravel(), PLATFORMS.values(), strict=True):
        for family, label, color in (
            ("bert", "BERT (22)", _OURS),
            ("gpt2", "GPT-2 (8)", _THEIRS),
        ):
            points = [by_label[f"{title}, {name}"] for name in ALL if name.startswith(family)]
            theirs = [row.theirs or 0 for row in points]
            ax.scatter(theirs, [row.ours for row in points], s=22, color=color, label=label)
        ax.plot(span, span, color=GREY, linewidth=0.8)
        mean = by_label[f"{title}, speedup, geomean of all"]
        ax.set(xscale="log", yscale="log", xlabel="published speedup", ylabel="simulated speedup")
        ax.set_title(
            f"{title}: geomean {mean.ours:,.0f} simulated, {mean.theirs or 0:,.0f} published",
            fontsize=10,
        )
        ax.legend(frameon=False, fontsize=8)
        _plain(ax)
    return canvas


def _pairs(ax: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Two bars a row: ours and theirs."""
    for shift, values, color, label in (
        (-0.2, [row.ours for row in rows], _OURS, "simulated"),
        (0.2, [row.theirs or 0 for row in rows], _THEIRS, "published"),
    ):
        places = [place + shift for place in range(len(rows))]
        ax.barh(places, values, 0.38, color=color, label=label)
        for place, value in zip(places, values, strict=True):
            ax.text(value, place, f" {value:.3g}", va="center", fontsize=8)
    ax.set_yticks(range(len(rows)), names)
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize=8)
    _plain(ax)


def _ladder(rows: list[Row]) -> Canvas:
    canvas = _canvas(8, 3.6)
    ax = canvas.subplots()
    _pairs(ax, rows, [row.label for row in rows])
    ax.set(xscale="log", xlabel="speedup over TITAN Xp, factor of each step")
    return canvas


def _design_space(rows: list[Row]) -> Canvas:
    """Fig. 19: rate by parallelism, its shape, rate by SRAM."""
    canvas = _canvas(11, 3.4)
    start = "top-k parallelism "
    absolute = [r for r in rows if r.label.startswith(start) and "relative" not in r.label]
    relative = [r for r in rows if r.label.startswith(start) and "relative" in r.label]
    sram = [r for r in rows if r.label.startswith("key and value SRAM")]
    left, middle, right = canvas.subplots(1, 3)
    places = [int(row.label.removeprefix(start)) for row in absolute]
    for ax, shown, label in ((left, absolute, "GOP/s"), (middle, relative, "relative to 16")):
        ax.plot(places, [row.ours for row in shown], "o-", color=_OURS, label="simulated")
        ax.plot(places, [row.theirs or 0 for row in shown], "s--", color=_THEIRS, label="published")
        ax.set_xscale("log", base=2)
        ax.set_xticks(places, [str(place) for place in places])
        ax.set(xlabel="top-k parallelism", ylabel=label, ylim=(0, None))
        ax.legend(frameon=False, fontsize=8)
        _plain(ax)
    _pairs(right, sram, [row.label.split()[4] + " KB" for row in sram])
    right.set(xlabel="GOP/s", ylabel="key and value SRAM, each")
    return canvas


def _roofline(rows: list[Row]) -> Canvas:
    """Fig. 18: both families under the roofs."""
    import numpy as np

    canvas = _canvas(7, 4.6)
    ax = canvas.subplots()
    by_label = {row.label: row for row in rows}
    intensity = np.geomspace(0.3, 300, 100)
    for roof, name in _ROOFS:
        ax.plot(
            intensity,
            np.minimum(roof, intensity * _BANDWIDTHS_TB_PER_S[name]),
            "-" if name == "SpAtten" else ":",
            color=GREY,
            label=f"roof of {name}",
        )
    for family, marker in (("BERT", "o"), ("GPT-2", "s")):
        where = by_label[f"{family}, operational intensity"]
        rate = by_label[f"{family}, computed operations"]
        for x, y, color, whose in (
            (where.ours, rate.ours, _OURS, "simulated"),
            (where.theirs or 0, rate.theirs or 0, _THEIRS, "published"),
        ):
            ax.plot(x, y, marker, color=color, label=f"{family}, {whose}", markersize=8)
    ax.set(xscale="log", yscale="log", xlabel="op/B", ylabel="TOP/s")
    ax.legend(frameon=False, fontsize=8)
    _plain(ax)
    return canvas


def _ratios(rows: list[Row]) -> Canvas:
    """Ours over theirs, a bar each; 1 is agreement."""
    shown = [row for row in rows if row.ratio]
    canvas = _canvas(9, 0.26 * len(shown) + 1)
    ax = canvas.subplots()
    ax.barh([row.label for row in shown], [row.ratio or 0 for row in shown], color=_OURS)
    for place, row in enumerate(shown):
        text = f" {row.ours:.3g} of {row.theirs:.3g} {row.unit}"
        ax.text(row.ratio or 0, place, text, va="center", fontsize=8)
    ax.axvline(1, color=GREY, linewidth=0.8)
    ax.invert_yaxis()
    ax.set_xlabel("simulated over published")
    _plain(ax)
    return canvas
