"""Settings of Sphinx; ``build.py`` calls it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import accelsim

project = "accelsim"
author = "The accelsim maintainers"
version = release = accelsim.__version__
project_copyright = f"{author}, MIT"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_click",
    "pictures",
    "plain",
]
html_theme = "furo"
html_title = f"accelsim {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
# A page from disk may fetch nothing, and so no summary of what is found.
html_show_search_summary = False
html_use_index = False
html_domain_indices = False
# The theme's own fonts are those of the reader's system; nothing on a page is fetched.
html_theme_options = {"navigation_with_keys": True}

# Headings are link targets, as on a forge: page.md#heading.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
# Two rooms may have a class of the same name.
suppress_warnings = ["ref.python"]

napoleon_numpy_docstring = False
# As parameters: what a class is made with is documented once, in its docstring.
napoleon_custom_sections = [("Attributes", "params_style")]
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
pygments_style = "default"
pygments_dark_style = "github-dark"
