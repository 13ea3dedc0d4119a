"""A page as one HTML file: styles, scripts and data inside, and a policy that forbids network."""

from __future__ import annotations

import json
from typing import Any

from accelsim.reports._style import STYLE, VIEWPORT
from accelsim.reports.interactive._page import Page
from accelsim.reports.interactive._vega import CONFIG, DARK
from accelsim.units import in_full

_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{{ viewport }}
<meta http-equiv="Content-Security-Policy" content="{{ csp }}">
<title>{{ page.title }}</title>
<style>
{{ style }}.scroll { max-height: 36rem }
th, td { max-width: 40rem }
td:first-child { text-align: right } td.text { text-align: left }
th { position: sticky; top: 0; background: var(--paper); cursor: pointer; user-select: none }
th[aria-sort=ascending]::after { content: " ▲" } th[aria-sort=descending]::after { content: " ▼" }
.chart svg { max-width: none }
</style></head><body>
<h1>{{ page.title }}</h1>
{% for text in page.words %}<p>{{ text }}</p>{% endfor %}
{% for text in page.notes %}<p class="note">{{ text }}</p>{% endfor %}
{% for chart in page.charts %}<figure><figcaption>{{ chart.title }}</figcaption>
<p>{{ chart.note }}</p><div class="chart" id="chart-{{ loop.index0 }}"></div></figure>
{% endfor %}
{% for table in page.tables %}<h2>{{ table.title }}</h2><div class="scroll"><table><thead><tr>
{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}<tr>{% for value in row %}<td{{ cell(value) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
<h2>Manifest</h2>
{% for name, text in manifest.items() %}<details><summary>{{ name }}</summary><pre>{{ text }}</pre>
</details>{% endfor %}
<script type="application/json" id="charts">{{ charts }}</script>
<script>{{ library }}</script>
<script>
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const options = {renderer: "svg", config: dark ? {{ dark }} : {{ config }},
                 tooltip: {theme: dark ? "dark" : "light"},
                 actions: {export: true, source: false, compiled: false, editor: false}};
const specs = JSON.parse(document.getElementById("charts").textContent);
window.rendered = Promise.all(
  specs.map((spec, index) => vegaEmbed("#chart-" + index, spec, options)));
window.rendered.then(() => { document.body.dataset.rendered = specs.length; });
const compare = (a, b) => a.dataset.n !== undefined && b.dataset.n !== undefined
  ? a.dataset.n - b.dataset.n : a.textContent.localeCompare(b.textContent);
document.querySelectorAll("th").forEach(th => th.addEventListener("click", () => {
  const up = th.getAttribute("aria-sort") !== "ascending";
  th.parentNode.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = th.closest("table").tBodies[0];
  [...body.rows].sort((a, b) => (up ? 1 : -1) *
    compare(a.cells[th.cellIndex], b.cells[th.cellIndex])).forEach(row => body.append(row));
}));
</script>
</body></html>
"""


def to_html(page: Page, library: str) -> str:
    """Return the page; ``library`` is the script that defines ``vegaEmbed``.

    Everything of the page is escaped: as HTML by the template, as JSON for the charts.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        page=page,
        csp=_CSP,
        style=Markup(STYLE),
        viewport=Markup(VIEWPORT),
        cell=_cell,
        manifest={name: json.dumps(item, indent=2) for name, item in page.manifest.items()},
        charts=Markup(_script_json([chart.spec for chart in page.charts])),
        config=Markup(_script_json(CONFIG)),
        dark=Markup(_script_json(DARK)),
        # The only text that is not escaped is the library's own.
        library=Markup(library.replace("</script", "<\\/script")),
    )


def _script_json(value: Any) -> str:
    """Write JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _cell(value: Any) -> Any:
    """Return the rest of a cell's opening tag, and its text."""
    from markupsafe import Markup

    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Markup(' class="text">{}').format("–" if value is None else value)
    return Markup(' data-n="{}">{}').format(repr(value), in_full(value))
