"""Plot of a trace: skew of attention by layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from accelsim.errors import AccelsimError
from accelsim.traces import LayerSkew

FORMATS = (".svg", ".png")


def check_plot_target(path: str | Path) -> None:
    """Check the name and folder of a plot before the work of making it.

    Raises:
        AccelsimError: a suffix that is neither .svg nor .png, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise AccelsimError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise AccelsimError(f"{path}: its folder does not exist")


def plot_skew(skew: Sequence[LayerSkew], title: str, path: str | Path) -> None:
    """Draw the skew of every layer into an .svg or .png file.

    Raises:
        AccelsimError: a file that cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    path = Path(path)
    check_plot_target(path)
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    layers = [record.layer for record in skew]
    for label, values in (
        ("mass on the top 10 % of keys", [record.top_mass for record in skew]),
        ("queries with largest probability < 0.1", [record.flat_fraction for record in skew]),
        ("mass on the first token", [record.first_token_mass for record in skew]),
    ):
        axes.plot(layers, [100 * value for value in values], marker=".", label=label)
    axes.set(xlabel="layer", ylabel="%", ylim=(0, 100), title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise AccelsimError(f"{path}: cannot be written ({error.strerror})") from None
