"""Style of every HTML page, static or interactive."""

from __future__ import annotations

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #eee;
         font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
figure { margin: 0 0 2rem; overflow: auto } figcaption { font-weight: 600 }
figure p { margin: 0 0 .5rem; color: #555 }
svg { max-width: 100%; height: auto } pre { background: #f6f6f6; padding: 1rem; overflow: auto }
.note { background: #fff6e0; border-left: 4px solid #e0a800; padding: .3rem 1rem }
"""
