"""The one way to print tables on a terminal: names are shown as they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(**options: Any) -> Console:
    """Return a console that reads neither ``[brackets]`` nor ``:words:`` in what it prints.

    Cells, headings and titles hold names of files and policies; style what is ours with
    ``rich.text.Text``.

    Args:
        options: of ``rich.console.Console``.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, **options)
