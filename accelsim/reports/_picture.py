"""Matplotlib figures as SVG text, or as an SVG or PNG file; equal figures give equal files.

Without pyplot, so a notebook keeps its own backend and no window opens.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.drawing import plain_figures
from accelsim.errors import AccelsimError
from accelsim.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = (".svg", ".png")
"""What a picture's name may end with."""


class Svg(str):
    """SVG text that Jupyter shows as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        # Without it a notebook would keep the picture a second time, as the text of a string.
        printer.text(f"<Svg of {len(self):,} characters>")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of a size in inches, with one pair of axes.

    For functions that :func:`~accelsim.drawing.plain_figures` decorates.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_text(figure: Figure) -> Svg:
    """Return the figure as an ``<svg>`` element."""
    text = _rendered(figure, "svg").decode()
    return Svg(text[text.index("<svg") :])


def check_picture(path: str | Path) -> None:
    """Refuse a name that is neither SVG nor PNG, before any work is done."""
    if Path(path).suffix.lower() not in PICTURES:
        raise AccelsimError(f"{path}: expected a name that ends in {' or '.join(PICTURES)}")


def write_picture(path: str | Path, figure: Figure) -> None:
    """Write the figure as what the name ends with, whole or not at all.

    Raises:
        AccelsimError: another suffix, or the file cannot be written.
    """
    check_picture(path)
    target = Path(path)
    data = _rendered(figure, target.suffix.lower().removeprefix("."))
    with whole_file(target) as stream:
        stream.write(data)


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    stamp = {"Date": None} if kind == "svg" else {"Software": None}
    with plain_figures():
        _take_names_as_given(figure)
        figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=150, metadata=stamp)
    return buffer.getvalue()


def _take_names_as_given(figure: Figure) -> None:
    """Let a dollar in the name of a policy, model or file be no formula.

    Labels of logarithmic ticks are formulas of Matplotlib's own.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and "mathdefault" not in text.get_text():
            text.set_parse_math("$" not in text.get_text())
