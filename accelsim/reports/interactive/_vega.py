"""Small words of Vega-Lite that the charts are written in.

Data columns have fixed plain names; text from files appears only as values and titles, which
Vega-Lite treats as text.
"""

from __future__ import annotations

from typing import Any

from accelsim.drawing import COLORS
from accelsim.reports._style import ON_DARK
from accelsim.reports.interactive._page import Spec

WIDTH, HEIGHT = 520, 260
CONFIG: Spec = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {"grid": True, "gridColor": "#eee"},
    "range": {"category": list(COLORS)},
}

_INK = {"labelColor": ON_DARK["ink"], "titleColor": ON_DARK["ink"]}
DARK: Spec = {
    **CONFIG,
    "background": None,
    "axis": {
        **CONFIG["axis"],
        **_INK,
        "gridColor": ON_DARK["line"],
        "domainColor": ON_DARK["rule"],
    },
    "legend": _INK,
    "header": _INK,
    "title": {"color": ON_DARK["ink"]},
    "text": {"color": ON_DARK["ink"]},
}
"""The same on a dark page."""


def channel(name: str, kind: str, title: str | None = None, **more: Any) -> Spec:
    """Return one encoding: kind is Q (number), N (name) or O (ordered)."""
    kinds = {"Q": "quantitative", "N": "nominal", "O": "ordinal"}
    return {"field": name, "type": kinds[kind], "title": title, **more}


def shown(*pairs: tuple[str, str]) -> list[Spec]:
    """Return a tooltip with (column, title) lines."""
    return [{"field": name, "title": title} for name, title in pairs]


def plot(values: list[dict[str, Any]], mark: Any, encoding: Spec, **more: Any) -> Spec:
    """Return a chart of one mark, or of layers if ``mark`` is a list."""
    layers = {"layer": mark} if isinstance(mark, list) else {"mark": mark}
    return {
        "data": {"values": values},
        "width": WIDTH,
        "height": HEIGHT,
        **layers,
        "encoding": encoding,
        **more,
    }


def zoomable(name: str) -> list[Spec]:
    """Return the parameter that lets a reader zoom and pan."""
    return [{"name": name, "select": "interval", "bind": "scales"}]


def legend_filter(name: str, column: str) -> list[Spec]:
    """Return the parameter that lets a click in the legend single out one colour."""
    return [{"name": name, "select": {"type": "point", "fields": [column]}, "bind": "legend"}]


def dimmed(name: str) -> Spec:
    """Return an opacity that follows :func:`legend_filter`."""
    return {"condition": {"param": name, "value": 1, "empty": True}, "value": 0.12}
