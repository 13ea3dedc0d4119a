"""A table of a page: what it holds, its HTML, and the script that sorts and copies it.

Static and interactive pages have the same tables: a heading, three buttons that copy the table as
CSV, Markdown or LaTeX, and rows in which numbers keep their full precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelsim.units import in_full

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """Rows of plain values; a number's unit is in its heading or in the cell.

    Attributes:
        title: what a row is.
        columns: headings.
        rows: numbers stay numbers, so that they sort, and show and copy in full precision.
        sorts: whether a click on a heading sorts; not where each row is a quantity of its own.
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]
    sorts: bool = True


_TABLE = """<h2>{{ table.title }}</h2>
<p class="copy">copy as {% for name in ("CSV", "Markdown", "LaTeX") -%}
<button type="button" data-as="{{ name }}">{{ name }}</button> {% endfor %}</p>
<div class="scroll"><table{{ " class=sorts" if table.sorts else "" }}><thead><tr>
{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}<tr>{% for value in row %}<td{{ cell(value) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
"""

TABLE_STYLE = """\
h2 { margin: 1.5rem 0 0 }
.copy { margin: 0 0 .4rem; color: var(--muted); font-size: .85em }
.copy button { font: inherit; color: inherit; background: var(--panel); cursor: pointer;
               border: 1px solid var(--rule); border-radius: 3px; padding: 0 .4rem }
td.text { text-align: left }
.scroll { max-height: 36rem }
th { position: sticky; top: 0; background: var(--paper) }
.sorts th { cursor: pointer; user-select: none }
th[aria-sort=ascending]::after { content: " ▲" } th[aria-sort=descending]::after { content: " ▼" }
"""
"""Rules of tables, behind those of every page."""

TABLE_SCRIPT = r"""
const words = cell => cell.dataset.n === undefined ? cell.textContent.trim() : `${+cell.dataset.n}`;
const compare = (a, b) => a.dataset.n !== undefined && b.dataset.n !== undefined
  ? a.dataset.n - b.dataset.n : a.textContent.localeCompare(b.textContent);
document.querySelectorAll(".sorts th").forEach(th => th.addEventListener("click", () => {
  const up = th.getAttribute("aria-sort") !== "ascending";
  th.parentNode.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = th.closest("table").tBodies[0];
  [...body.rows].sort((a, b) => (up ? 1 : -1) *
    compare(a.cells[th.cellIndex], b.cells[th.cellIndex])).forEach(row => body.append(row));
}));
const line = (cells, start, between, end, escape) => start + cells.map(escape).join(between) + end;
const LATEX = {"\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%",
  "$": "\\$", "#": "\\#", "_": "\\_", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"};
const FORMATS = {
  CSV: rows => rows.map(row => line(row, "", ",", "",
    text => /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text)),
  Markdown: rows => {
    const told = rows.map(row => line(row, "| ", " | ", " |",
      text => text.replace(/[\\|`*_<>]/g, "\\$&")));
    const numbers = rows[0].map((_, at) => rows.slice(1).every(row => /^[–−\-\d]/.test(row[at])));
    return [told[0], "|" + numbers.map(n => n ? " ---: |" : " --- |").join(""), ...told.slice(1)];
  },
  LaTeX: rows => {
    const told = rows.map(row => line(row, "", " & ", " \\\\",
      text => text.replace(/[\\{}&%$#_~^]/g, c => LATEX[c])));
    const kinds = rows[0].map((_, at) => at ? "r" : "l").join("");
    return ["\\begin{tabular}{" + kinds + "}", "\\hline", told[0], "\\hline", ...told.slice(1),
            "\\hline", "\\end{tabular}"];
  }};
const given = async text => {
  try { await navigator.clipboard.writeText(text); } catch {
    // Where a page has no clipboard (no secure origin), the old way.
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text; area.select(); document.execCommand("copy"); area.remove();
  }};
document.querySelectorAll(".copy button").forEach(button => button.addEventListener("click",
  async () => {
    const table = button.parentNode.nextElementSibling.querySelector("table");
    const rows = [...table.rows].map(row => [...row.cells].map(words));
    await given(FORMATS[button.dataset.as](rows).join("\n") + "\n");
    button.textContent = "copied";
    setTimeout(() => { button.textContent = button.dataset.as; }, 1500);
  }));
"""
"""Sorting and copying; needs no network."""


def table_html(table: Table) -> Markup:
    """Return a table with its heading and buttons; everything of it is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return Markup(environment.from_string(_TABLE).render(table=table, cell=_cell))


def _cell(value: Any) -> Markup:
    """Return the rest of a cell's opening tag, and its text."""
    from markupsafe import Markup

    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Markup(' class="text">{}').format("–" if value is None else value)
    return Markup(' data-n="{}">{}').format(repr(value), in_full(value))
