"""Colours, and Matplotlib with its own defaults: a figure depends on its data, not on who draws it.

Neither pyplot nor a backend is used, so a notebook keeps its own and no window opens; neither the
environment nor a user's ``matplotlibrc`` reaches a figure, and what they set stays set outside.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import AccelsimError
from accelsim.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756",
    "#72b7b2", "#9d755d", "#eeca3b", "#bab0ac", "#2f4b7c",
)  # fmt: skip
"""Of series, in this order: Tableau 10 as Vega has it, two exchanged, and a dark blue."""
LIGHT = ("#ff9da6", "#83bcb6", "#d6a5c9", "#88d27a", "#a0cbe8", "#ffbe7d")
"""For the series after them (of Vega's Tableau 20)."""
PICTURES = (".svg", ".png")
"""What a picture's name may end with."""
GREY, DARK = "#888", "#333333"
"""Of lines to compare with, and of outlines."""


@contextmanager
def plain_figures(**settings: Any) -> Iterator[None]:
    """Run a block, or the function that this decorates, under Matplotlib's defaults.

    A figure must be made, filled and rendered inside.

    Args:
        settings: changes to the defaults, with ``__`` for the dots of their names.

    Raises:
        AccelsimError: Matplotlib cannot be loaded.
    """
    _import_matplotlib()
    from matplotlib import style

    # The same bytes for the same figure.
    ours = {"svg.hashsalt": "accelsim"} | {k.replace("__", "."): v for k, v in settings.items()}
    with style.context(["default", ours]):
        yield


def _import_matplotlib() -> None:
    """Import Matplotlib, which refuses to be imported under a ``MPLBACKEND`` it does not know."""
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except (ImportError, ValueError, OSError) as error:
        raise AccelsimError(f"figures need Matplotlib, which cannot be loaded ({error})") from None
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        # What Matplotlib does itself with it, for who draws after us in a notebook.
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


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

    For functions that :func:`plain_figures` decorates.
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


def write_picture(path: str | Path, figure: Figure, **settings: Any) -> None:
    """Write the figure as what the name ends with, whole or not at all.

    Args:
        path: ends in one of :data:`PICTURES`.
        figure: what to write.
        settings: as of :func:`plain_figures`.

    Raises:
        AccelsimError: another suffix, or the file cannot be written.
    """
    check_picture(path)
    target = Path(path)
    data = _rendered(figure, target.suffix.lower().removeprefix("."), **settings)
    with whole_file(target) as stream:
        stream.write(data)


def _rendered(figure: Figure, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    stamp = {"Date": None} if kind == "svg" else {"Software": None}
    with plain_figures(**settings):
        take_names_as_given(figure)
        figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=150, metadata=stamp)
    return buffer.getvalue()


def take_names_as_given(figure: Figure) -> None:
    """Let a dollar in the name of a policy, model or file be no formula.

    Labels of logarithmic ticks are formulas of Matplotlib's own.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and "mathdefault" not in text.get_text():
            text.set_parse_math("$" not in text.get_text())
