"""Style of every HTML page, static or interactive: light or dark, wide or narrow."""

from __future__ import annotations

ON_LIGHT = {
    "paper": "#fff",
    "ink": "#222",
    "muted": "#555",
    "line": "#eee",
    "rule": "#999",
    "panel": "#f6f6f6",
    "note": "#fff6e0",
    "edge": "#e0a800",
}
"""Colours of a page by use."""
ON_DARK = {
    "paper": "#141414",
    "ink": "#ddd",
    "muted": "#aaa",
    "line": "#333",
    "rule": "#777",
    "panel": "#1f1f1f",
    "note": "#332b12",
    "edge": "#c79a1b",
}
"""The same where the reader's system is dark."""


def _named(colours: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())


STYLE = (
    f""":root {{ color-scheme: light dark; {_named(ON_LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_named(ON_DARK)} }} }}
"""
    + """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: var(--ink); background: var(--paper); overflow-wrap: anywhere }
.scroll { overflow: auto; margin-bottom: 2rem }
table { border-collapse: collapse; overflow-wrap: normal }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid var(--line);
         font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
figure { margin: 0 0 2rem; overflow: auto } figcaption { font-weight: 600 }
figure p { margin: 0 0 .5rem; color: var(--muted) }
svg { max-width: 100%; height: auto }
pre { background: var(--panel); padding: 1rem; overflow: auto }
.note { background: var(--note); border-left: 4px solid var(--edge); padding: .3rem 1rem }
"""
)
"""For the ``style`` element of a page, before rules of its own."""
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
"""Without it a phone shows a page as wide as a desk's, and small."""
