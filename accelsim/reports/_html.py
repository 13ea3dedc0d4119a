"""One self-contained HTML file: tables, plots, manifest. No network; its script copies tables."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelsim.errors import AccelsimError
from accelsim.exploration import RunResult
from accelsim.files import whole_file
from accelsim.reports._page_table import TABLE_SCRIPT, TABLE_STYLE, Table, table_html
from accelsim.reports._plots import figures
from accelsim.reports._style import STYLE, VIEWPORT
from accelsim.reports._tables import comparison
from accelsim.reports._words import in_words

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{{ viewport }}<title>{{ title }}</title>
<style>
{{ style }}
td.text { text-align: right } td:first-child { text-align: left }
.figures { display: grid; gap: 1rem;
           grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)) }
@media (prefers-color-scheme: dark) {
  /* Pictures are drawn on white; this makes it the page's colour and keeps hues. */
  figure svg { filter: invert(.92) hue-rotate(180deg) }
}
</style></head><body>
<h1>{{ title }}</h1>
{% for text in words %}<p>{{ text }}</p>{% endfor %}
{% for text in warnings %}<p class="note">{{ text }}</p>{% endfor %}
{% for table in tables %}{{ table }}{% endfor %}
<div class="figures">{% for title, svg in plots.items() %}<figure>
<figcaption>{{ title }}</figcaption>
{{ svg|safe }}</figure>{% endfor %}</div>
<h2>Manifest</h2>
{% for name, text in manifests.items() %}<details><summary>{{ name }}</summary><pre>{{ text }}</pre>
</details>{% endfor %}
<script>{{ script }}</script>
</body></html>
"""


def render(
    results: Mapping[str, RunResult],
    title: str,
    extra_plots: Mapping[str, str] | None = None,
    *,
    words: Sequence[str] | None = None,
    tables: Sequence[Table] = (),
) -> str:
    """Return the report as HTML text; everything that came from a file is escaped.

    Args:
        results: name to result, one column each.
        title: heading of the page.
        extra_plots: title to SVG of plots to put before the standard ones.
        words: what it says, instead of a sentence for each result.
        tables: to put before the standard ones.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        title=title,
        style=markupsafe.Markup(STYLE + TABLE_STYLE),
        script=markupsafe.Markup(TABLE_SCRIPT),
        viewport=markupsafe.Markup(VIEWPORT),
        words=in_words(results) if words is None else words,
        tables=[table_html(table) for table in (*tables, *_tables(results))],
        plots={**(extra_plots or {}), **figures(results)},
        warnings=list(dict.fromkeys(text for r in results.values() for text in r.warnings)),
        manifests={name: json.dumps(r.manifest, indent=2) for name, r in results.items()},
    )


def _tables(results: Mapping[str, RunResult]) -> list[Table]:
    """The sections of a comparison, one table each; units stand in the cells."""
    columns = ["", *results]
    return [
        Table(section.title, columns, [[label, *cells] for label, cells in section.rows], False)
        for section in comparison(results)
    ]


def prepare_folder(folder: str | Path) -> Path:
    """Create an output folder and check that it can be written, before any work is done.

    Raises:
        AccelsimError: it cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AccelsimError(f"{folder}: cannot be written ({error.strerror})") from None
    return folder


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        AccelsimError: the folder cannot be written, or the disk is full.
    """
    # A file name that is no UTF-8 is in a string as surrogates, which UTF-8 does not have; what
    # takes their place is also JSON for them.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        AccelsimError: the folder cannot be written, or the disk is full.
    """
    with whole_file(path) as stream:
        stream.write(data)
