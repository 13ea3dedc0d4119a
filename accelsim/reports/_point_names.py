"""Names beside the points of a picture, none over another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from accelsim.drawing import COLORS, DARK, GREY, take_names_as_given

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = tuple[float, float]
_NEAR = [(5, 3), (-5, 3), (5, -9), (-5, -9), (0, 8), (0, -13), (12, 10), (-12, 10),
         (12, -16), (-12, -16)]  # fmt: skip
_FAR = [(x * d, y * d) for d in (24, 36, 48, 64, 80) for x, y in
        ((1, 0.5), (-1, 0.5), (1, -0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))]  # fmt: skip
"""Points of offset; to the far ones a line leads."""


def name_points(
    axes: Axes,
    labels: Sequence[tuple[str, Place, bool]],
    places: Sequence[Place],
    line: Sequence[Place] = (),
    *,
    far: bool = False,
) -> None:
    """Write names where neither a point, nor a line, nor a name is.

    A name that finds no place is left out. The axes must have their limits and legend.

    Args:
        axes: where the points are.
        labels: name, its point, whether it is one of the best; in the order of choice.
        places: all points.
        line: corners of a line that no name may cross.
        far: whether a name may stand away from its point, with a thin line to it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    canvas: Any = FigureCanvasAgg(figure)
    take_names_as_given(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent(renderer)]
    for place in places:
        x, y = axes.transData.transform(place)
        taken.append(Bbox.from_extents(x - 3, y - 3, x + 3, y + 3))
    for a, b in pairwise(axes.transData.transform(np.array(line)) if len(line) > 1 else []):
        (x0, x1), (y0, y1) = sorted((a[0], b[0])), sorted((a[1], b[1]))
        taken.append(Bbox.from_extents(x0 - 1, y0 - 1, x1 + 1, y1 + 1))
    inside = axes.get_window_extent(renderer)
    for name, place, best in labels:
        for dx, dy in [*_NEAR, *(_FAR if far else [])]:
            text = axes.annotate(
                name, place, xytext=(dx, dy), textcoords="offset points", fontsize=7,
                parse_math=False,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                color=COLORS[0] if best else DARK,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4}
                if (dx, dy) in _FAR else None,
            )  # fmt: skip
            # Without its line: that may cross another.
            box = Bbox.union([_words(text, renderer)])
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 + 40 and inside.y0 <= box.y0
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _words(text: Any, renderer: Any) -> Any:
    """Extent of the letters of an annotation."""
    from matplotlib.text import Text

    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)
