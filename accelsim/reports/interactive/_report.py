"""From a file or a store to a report in the asked format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelsim.errors import AccelsimError
from accelsim.exploration import Comparison, Results, RunResult, load_results
from accelsim.reports._html import write_bytes, write_text
from accelsim.reports.interactive._documents import read_results, results_of
from accelsim.reports.interactive._html import to_html
from accelsim.reports.interactive._page import Page, Spec
from accelsim.reports.interactive._result import result_page
from accelsim.reports.interactive._store import store_page
from accelsim.reports.interactive._vega import CONFIG
from accelsim.units import in_full

FORMATS = ("html", "md", "png", "svg")
Reportable = str | Path | RunResult | Comparison | Results
"""What a report can be about."""
_PIXELS_PER_UNIT = 2.0


def report(
    source: Reportable,
    out: str | Path | None = None,
    format: str | None = None,
    objectives: Sequence[str] = (),
) -> Path:
    """Write a report of a result store, a result or a comparison.

    Args:
        source: what a call of this package returned, the store of a sweep or search, or the JSON
            of ``accelsim replay`` or ``compare``.
        out: file to write; ``report.FORMAT`` in the current folder if not given.
        format: ``html``, ``md``, ``png`` or ``svg``; by default what ``out`` ends with, else
            ``html``.
        objectives: for a store, metrics to minimize or ``NAME:maximize``; what varies of latency,
            energy, area and output error if not given.

    Returns:
        The file that was written.

    Raises:
        AccelsimError: bad input, a file that cannot be written, or vl-convert is not installed
            (Markdown does not need it).
    """
    kind, path = _target(out, format)
    if not path.parent.is_dir():
        raise AccelsimError(f"{path}: its folder does not exist")
    if kind != "md":
        _vl_convert()
    write_report(page_of(source, objectives), path, kind)
    return path


def page_of(source: Reportable, objectives: Sequence[str] = ()) -> Page:
    """Turn a store, result or comparison into a page; see :func:`report`."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = load_results(source)
    if isinstance(source, Results):
        name = "points" if source.store is None else source.store.resolve().name
        return store_page(source, f"accelsim: {name}", objectives)
    if objectives:
        what = source if isinstance(source, (str, Path)) else "report"
        raise AccelsimError(f"{what}: objectives are for the points of a sweep or search")
    if isinstance(source, (RunResult, Comparison)):
        results = results_of(source.to_dict(), "report")
    else:
        results = read_results(Path(source))
    return result_page(results, f"accelsim: {', '.join(results)}")


def write_report(page: Page, path: Path, kind: str) -> None:
    """Write a page as ``html``, ``md``, ``png`` or ``svg``, whole or not at all."""
    if kind == "md":
        write_text(path, to_markdown(page))
    elif kind == "html":
        write_text(path, to_html(page, _vl_convert().javascript_bundle()))
    else:
        if not page.charts:
            raise AccelsimError(f"{page.title}: there is nothing to draw; use html or md")
        spec = static(page)
        converter = _vl_convert()
        if kind == "svg":
            write_text(path, converter.vegalite_to_svg(spec))
        else:
            write_bytes(path, converter.vegalite_to_png(spec, scale=_PIXELS_PER_UNIT))


def to_markdown(page: Page) -> str:
    """Return words, notes and tables as Markdown; text of files is escaped."""
    lines = [f"# {_md(page.title)}", ""]
    for sentence in page.words:
        lines += [_md(sentence), ""]
    for note in page.notes:
        lines += [f"> {_md(note)}", ""]
    for table in page.tables:
        lines += [f"## {_md(table.title)}", ""]
        lines.append("| " + " | ".join(map(_md, table.columns)) + " |")
        lines.append("|" + " --- |" * len(table.columns))
        lines += ["| " + " | ".join(map(_md, row)) + " |" for row in table.rows]
        lines.append("")
    return "\n".join(lines)


def static(page: Page) -> Spec:
    """Return all charts below each other, without what only a mouse can use."""
    drawn = [
        {**_without_selection(chart.spec), "title": {"text": chart.title, "subtitle": chart.note}}
        for chart in page.charts
    ]
    return {
        "vconcat": drawn,
        "config": CONFIG,
        "resolve": {"scale": {"color": "independent", "x": "independent", "y": "independent"}},
    }


def _without_selection(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_selection(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {k: v for k, v in node.items() if k not in ("params", "data")}
    if "condition" in node.get("opacity", {}):
        kept.pop("opacity")
    cleaned = {k: _without_selection(v) for k, v in kept.items()}
    return cleaned | ({"data": node["data"]} if "data" in node else {})


def _target(out: str | Path | None, kind: str | None) -> tuple[str, Path]:
    if kind is not None and kind not in FORMATS:
        raise AccelsimError(f"format '{kind}': expected one of {', '.join(FORMATS)}")
    if out is None:
        return kind or "html", Path(f"report.{kind or 'html'}")
    path = Path(out)
    found = kind or path.suffix.removeprefix(".")
    if found not in FORMATS:
        raise AccelsimError(f"{path}: expected a name that ends in .html, .md, .png or .svg")
    return found, path


def _vl_convert() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise AccelsimError(
            "charts need vl-convert; install it with: pip install 'accelsim[explore]' "
            "(or ask for Markdown, which has tables only)"
        ) from None
    return vl_convert


def _md(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return in_full(value)
    text = "–" if value is None else " ".join(str(value).split())
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
