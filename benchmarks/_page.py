"""A part of a documentation page that a benchmark writes."""

from __future__ import annotations

from pathlib import Path

from accelsim.reports import write_text


def replace(page: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks ``<!-- made by NAME -->`` and ``<!-- end of NAME -->``."""
    begin, end = f"<!-- made by {name} -->\n", f"<!-- end of {name} -->"
    old = page.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{page}: no '{begin.strip()}' and '{end}'")
    head, rest = old.split(begin)
    write_text(page, head + begin + text + end + rest.split(end)[1])
