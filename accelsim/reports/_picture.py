"""A matplotlib figure as SVG text, or as an SVG or PNG file; equal figures give equal files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from accelsim.errors import AccelsimError
from accelsim.reports._files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".svg", ".png")
"""What a picture's name may end with."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches that no window shows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def svg_text(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element."""
    text = _rendered(figure, "svg").decode()
    return text[text.index("<svg") :]


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
    import matplotlib

    buffer = io.BytesIO()
    stamp = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "accelsim"}):
        figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=150, metadata=stamp)
    return buffer.getvalue()
