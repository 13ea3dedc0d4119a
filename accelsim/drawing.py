"""Matplotlib with its own defaults: a figure depends on its data, not on who draws it where.

Neither pyplot nor a backend is used, so a notebook keeps its own and no window opens; neither the
environment nor a user's ``matplotlibrc`` reaches a figure, and what they set stays set outside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from accelsim.errors import AccelsimError


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
