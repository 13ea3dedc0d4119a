"""A page as one HTML file: styles, scripts and data inside, and a policy that forbids network."""

from __future__ import annotations

import json
from typing import Any

from accelsim.reports._page_table import TABLE_SCRIPT, TABLE_STYLE, table_html
from accelsim.reports._style import STYLE, VIEWPORT
from accelsim.reports.interactive._page import Page
from accelsim.reports.interactive._vega import CONFIG, DARK

_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{{ viewport }}
<meta http-equiv="Content-Security-Policy" content="{{ csp }}">
<title>{{ page.title }}</title>
<style>
{{ style }}th, td { max-width: 40rem }
td:first-child { text-align: right } td.text { text-align: left }
.chart svg { max-width: none }
</style></head><body>
<h1>{{ page.title }}</h1>
{% for text in page.words %}<p>{{ text }}</p>{% endfor %}
{% for text in page.notes %}<p class="note">{{ text }}</p>{% endfor %}
{% for chart in page.charts %}<figure><figcaption>{{ chart.title }}</figcaption>
<p>{{ chart.note }}</p><div class="chart" id="chart-{{ loop.index0 }}"></div></figure>
{% endfor %}
{% for table in tables %}{{ table }}{% endfor %}
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
</script>
<script>{{ script }}</script>
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
        style=Markup(STYLE + TABLE_STYLE),
        script=Markup(TABLE_SCRIPT),
        tables=[table_html(table) for table in page.tables],
        viewport=Markup(VIEWPORT),
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
