"""What Sphinx and its extensions would show otherwise than a reader needs."""

import re
from pathlib import Path
from typing import Any

import pydantic
from sphinx.application import Sphinx


def folders_are_text(app: Sphinx, docname: str, source: list[str]) -> None:
    """A link to a folder of the repository, which a site has none of, becomes its text."""
    page = Path(app.srcdir) / docname

    def shown(link: re.Match[str]) -> str:
        return link[1] if (page.parent / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:]+)\)", shown, source[0])


def no_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """A configuration is made by a YAML file; its fields are listed one by one anyway."""
    if isinstance(thing, type) and issubclass(thing, pydantic.BaseModel):
        return "", ""
    return None


def examples_are_code(app: Sphinx, context: Any, lines: list[str]) -> None:
    r"""Blocks that Click is told by ``\b`` to leave as they are become code."""
    found: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("| "):
            text = line[2:]
            if not inside:
                inside = True
                found += [f"**{text}**", "", ".. code-block:: sh", ""]
            else:
                found.append("   " + text.strip())
        else:
            inside = False
            found.append(line)
    lines[:] = found


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it."""
    app.connect("source-read", folders_are_text)
    app.connect("autodoc-process-signature", no_signature)
    app.connect("sphinx-click-process-description", examples_are_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
