"""Where the constants of a run come from: every record of its configurations that names one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from accelsim.reports._page_table import Table

_COLUMNS = ["configuration", "item", "value", "source", "our assumption"]
_NOT_VALUES = ("source", "description", "assumed", "name", "counter", "terms")


def sources(configurations: Iterable[dict[str, Any]]) -> Table | None:
    """Return one row per sourced constant, each once; ``None`` if no configuration is known."""
    rows: dict[tuple[Any, ...], None] = {}
    for configuration in configurations:
        for name, config in configuration.items():
            rows |= dict.fromkeys((str(name), *row) for row in _walk(config, ""))
    if not rows:
        return None
    return Table("Sources of constants", _COLUMNS, [list(row) for row in rows])


def _walk(node: Any, path: str) -> Iterator[tuple[str, str, str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, path)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("source"), str) and node["source"]:
        named = node.get("name") or node.get("counter") or ""
        item = f"{path}.{named}".strip(".") or "(whole file)"
        yield item, _values(node), node["source"], "yes" if node.get("assumed") else ""
    for key, child in node.items():
        yield from _walk(child, f"{path}.{key}".strip("."))


def _values(node: dict[str, Any]) -> str:
    shown = {
        key: value
        for key, value in node.items()
        if key not in _NOT_VALUES and isinstance(value, (int, float, str)) and value is not False
    }
    return ", ".join(f"{key}={value}" for key, value in shown.items())
