"""Matplotlib figures as SVG text, without pyplot: a notebook keeps its own backend."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Svg(str):
    """SVG text that Jupyter shows as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        # Without it a notebook would keep the picture a second time, as the text of a string.
        printer.text(f"<Svg of {len(self):,} characters>")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of a size in inches, with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_svg(figure: Figure) -> Svg:
    """Return a figure as SVG; equal figures give equal texts."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "accelsim"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return Svg(text[text.index("<svg") :])
