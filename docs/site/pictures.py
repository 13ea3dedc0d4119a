"""Mermaid's flowcharts as SVG, drawn while the site is built: no script on the page."""

import re
from typing import Any

import mmdr
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Mermaid(SphinxDirective):
    """A fence of the language ``mermaid``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        number = self.env.new_serialno("mermaid")
        svg = mmdr.render("\n".join(self.content)).svg()
        # Its style is for an element of this name, and a page may have several.
        name = re.search(r'<svg[^>]*\bid="([^"]+)"', svg)
        if name is None:
            raise self.error("the drawing has no name")
        svg = svg.replace(name[1], f"flowchart-{number}")
        # It shrinks with the page as long as its words can be read, then it scrolls.
        natural = re.search(r"max-width: ?([0-9.]+)px", svg)
        least = 0.55 * float(natural[1]) if natural else 0
        svg = svg.replace("max-width:", f"min-width: {least:.0f}px; max-width:", 1)
        return [nodes.raw("", f'<div class="flowchart">{svg}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it."""
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
