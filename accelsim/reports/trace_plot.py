"""Plot of a trace: skew of attention by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelsim.drawing import check_picture, new_figure, plain_figures, write_picture
from accelsim.files import check_target
from accelsim.traces import LayerSkew


def check_plot_target(path: str | Path) -> None:
    """Check the name and folder of a plot before the work of making it.

    Raises:
        AccelsimError: a suffix that is neither .svg nor .png, or a folder that does not exist.
    """
    check_picture(path)
    check_target(path)


@plain_figures()
def plot_skew(skew: Sequence[LayerSkew], title: str, path: str | Path) -> None:
    """Draw the skew of every layer into an .svg or .png file.

    Raises:
        AccelsimError: a file that cannot be written.
    """
    check_plot_target(path)
    figure, axes = new_figure(7.2, 3.6)
    layers = [record.layer for record in skew]
    for label, values in (
        ("mass on the top 10 % of keys", [record.top_mass for record in skew]),
        ("queries with largest probability < 0.1", [record.flat_fraction for record in skew]),
        ("mass on the first token", [record.first_token_mass for record in skew]),
    ):
        axes.plot(layers, [100 * value for value in values], marker=".", label=label)
    axes.set(xlabel="layer", ylabel="%", ylim=(0, 100), title=title)
    axes.legend(frameon=False, fontsize=8)
    write_picture(path, figure)
