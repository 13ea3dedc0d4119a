"""What a report shows, before it has a format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accelsim.reports._page_table import Table

Spec = dict[str, Any]
"""A Vega-Lite specification without data sources other than its own values."""


@dataclass(frozen=True)
class Chart:
    """One plot.

    Attributes:
        title: what is drawn.
        note: how to read it, and by what definition.
        spec: Vega-Lite, with the data inside.
    """

    title: str
    note: str
    spec: Spec


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: shown on top.
        words: what it says, in sentences.
        notes: what a reader should know before quoting a number.
        tables: in the order of display.
        charts: in the order of display.
        manifest: name to what is needed to run the same thing again.
    """

    title: str
    words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
