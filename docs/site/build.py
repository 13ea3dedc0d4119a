"""Build the documentation site: ``python docs/site/build.py FOLDER`` (``make docs``).

Sphinx reads a copy of the pages, laid out as in the repository so that their links hold, beside the
reference pages that are made here from the code. Nothing is fetched, and a warning is an error.
"""

import shutil
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import documents
import schemas
from schemas import heading
from sphinx.cmd.build import build_main

import accelsim

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = ("docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "notebooks")
"""What is copied as it is; beside it the pages in folders of data."""
BESIDE_DATA = ("traces/README.md", "hw_configs/README.md")
CLI = {
    "cli.rst": "Command line\n============\n\n"
    ".. click:: accelsim.cli:cli\n   :prog: accelsim\n   :nested: full\n"
}
MENU = """
* [Command line](cli.rst)
* [YAML files](yaml/index.rst)
* [JSON of results and traces](schemas/index.md)
* [Python modules](api/index.rst)
"""
"""What the page of the reference leads to, once it is made."""


def main(folder: str) -> int:
    """Write the site; returns the status of Sphinx.

    Args:
        folder: gets ``index.html``; what was in it goes.
    """
    site = Path(folder)
    source = site.with_name(site.name + "-source")
    for old in (site, source):
        shutil.rmtree(old, ignore_errors=True)
    copy(source)
    reference = source / "docs" / "reference"
    for name, text in {**CLI, **api(), **schemas.pages(), **documents.pages()}.items():
        path = reference / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with (reference / "README.md").open("a", encoding="utf-8") as start:
        start.write(MENU)
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--jobs", "auto"]
    return build_main([*options, "-c", str(HERE), "-b", "html", str(source), str(site)])


def copy(source: Path) -> None:
    """Copy the pages to where Sphinx reads them."""
    for name in PAGES:
        here = ROOT / name
        if here.is_dir():
            skip = shutil.ignore_patterns("site", "__pycache__", "*.py")
            shutil.copytree(here, source / name, ignore=skip)
        else:
            shutil.copy(here, source / name)
    for name in BESIDE_DATA:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    start = (HERE / "index.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(start.replace("](../", "](docs/"), encoding="utf-8")


def public_modules() -> list[str]:
    """Names of the modules that a program may import; the command line has a page of its own."""
    found = ["accelsim"]
    for module in walk_packages(accelsim.__path__, "accelsim."):
        parts = module.name.split(".")
        if parts[1] not in ("cli", "__main__") and not any(p.startswith("_") for p in parts):
            found.append(module.name)
    return found


def api() -> dict[str, str]:
    """One page a package, its modules below each other, and the list of them."""
    pages: dict[str, str] = {}
    for name in public_modules():
        module = import_module(name)
        package = hasattr(module, "__path__")
        home = name if package else name.rpartition(".")[0]
        # What a package offers it may have from private files; a module without a list of names
        # offers what it defines.
        offers = ["   :imported-members:"] if hasattr(module, "__all__") else []
        text = [heading(name, "=" if package else "-"), f".. automodule:: {name}", "   :members:"]
        pages[home] = pages.get(home, "") + "\n".join([*text, *offers, "", ""])
    # Pages of the index and not of the menu, which every page carries.
    texts = {f"api/{name}.rst": f":orphan:\n\n{text}" for name, text in pages.items()}
    listed = "\n".join(f"* :doc:`{name}`" for name in pages)
    texts["api/index.rst"] = (
        heading("Python modules", "=")
        + "Every module that a program may import, from the docstrings; :doc:`/docs/api` shows "
        "them at work.\n\n" + listed + "\n"
    )
    return texts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
