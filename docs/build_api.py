"""Build the API pages with pdoc: ``python docs/build_api.py FOLDER`` (``make docs``).

A warning is an error: a name that does not resolve would be missing from the pages.
"""

import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import get_type_hints

import pdoc

import accelsim


def public_modules() -> list[str]:
    """Names of the modules that a program may import; the command line is documented by itself."""
    found = ["accelsim"]
    for module in walk_packages(accelsim.__path__, "accelsim."):
        parts = module.name.split(".")
        if parts[1] != "cli" and not any(part.startswith("_") for part in parts):
            found.append(module.name)
    return found


def resolve(names: list[str]) -> None:
    """Make plain to pdoc, which reads what a module holds, what Python finds out when asked."""
    for name in names:
        module = import_module(name)
        for attribute in getattr(module, "__all__", ()):
            # Some names are imported on first use.
            vars(module)[attribute] = getattr(module, attribute)
    for module in [m for n, m in sys.modules.items() if n.startswith("accelsim")]:
        for thing in list(vars(module).values()):
            if isinstance(thing, type) and issubclass(thing, tuple) and hasattr(thing, "_fields"):
                # The generated __new__ of a NamedTuple does not know the names of its module.
                thing.__new__.__annotations__ = get_type_hints(thing)


def main(folder: str) -> None:
    """Write the pages."""
    warnings.simplefilter("error")
    names = public_modules()
    resolve(names)
    # pdoc adds the modules of a package that has no ``__all__`` by itself.
    parents = {name: name.rpartition(".")[0] for name in names}
    listed = [n for n in names if not parents[n] or hasattr(sys.modules[parents[n]], "__all__")]
    pdoc.render.configure(docformat="google", footer_text=f"accelsim {accelsim.__version__}")
    pdoc.pdoc(*listed, r"!.*\._.*", output_directory=Path(folder))
    print(f"wrote the pages of {len(names)} modules to {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
