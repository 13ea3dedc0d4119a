"""The one way kernels are compiled: Numba, cached on disk, never stale.

Numba's own cache looks at the file of a function only. A kernel that was compiled with its callees
inlined would outlive a change of a callee in another file, and run with a wrong memory layout. Here
the cache of a kernel depends on the contents of its file and of all files of the package that this
one imports, directly or not. A change anywhere else recompiles nothing.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import caching

F = TypeVar("F", bound=Callable[..., Any])
Int = Any
"""An integer inside a kernel: NumPy's and Python's are the same there."""
_PACKAGE = Path(__file__).parent


def kernel(function: F) -> F:
    """Compile a function in nopython mode and keep the machine code on disk."""
    return cast(F, numba.njit(cache=True)(function))


def in_place(function: F, inline: bool = False) -> F:
    """Compile a function that works in its arguments and allocates nothing.

    It has no reference counts (a third of the time of a loop that calls others with several arrays)
    and no check for division by zero.
    """
    options = {"error_model": "numpy", "forceinline": inline, "_nrt": False}
    return cast(F, numba.njit(cache=True, **options)(function))


def inlined(function: F) -> F:
    """Compile a small function of the kind of :func:`in_place` into each of its callers."""
    return in_place(function, inline=True)


_IMPORT = re.compile(
    r"^\s*(?:from\s+(accelsim[\w.]*)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+(accelsim[\w.]*))", re.M
)


@functools.cache
def _read(path: Path) -> tuple[bytes, tuple[Path, ...]]:
    """Digest of a source file, and the files of the package that it imports."""
    content = path.read_bytes()
    found: list[Path] = []
    for module, names, plain in _IMPORT.findall(content.decode("utf-8")):
        base = _PACKAGE.joinpath(*(module or plain).split(".")[1:])
        # A name is a module of its own, or is defined in the one before it.
        modules = [base, *(base / name for name in re.findall(r"\w+", names))]
        files = (file for m in modules for file in (m.with_suffix(".py"), m / "__init__.py"))
        # The package itself only names what its rooms define.
        found += [file for file in files if file.is_file() and file != _PACKAGE / "__init__.py"]
    return hashlib.sha256(content).digest(), tuple(found)


@functools.cache
def _sources_stamp(path: Path) -> str:
    """Digest of a source file and of all that it imports from the package."""
    reached, waiting = {path}, [path]
    while waiting:
        new = set(_read(waiting.pop())[1]) - reached
        reached |= new
        waiting += new
    digest = hashlib.sha256()
    for source in sorted(reached):
        digest.update(str(source.relative_to(_PACKAGE)).encode() + _read(source)[0])
    return digest.hexdigest()


class _Stamped:
    """Gives the stamp of a kernel's sources to one of Numba's cache locations."""

    _py_file: str

    def get_source_stamp(self) -> str:
        return _sources_stamp(Path(self._py_file))

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        if _PACKAGE not in Path(py_file).parents:
            return None
        return super().from_function(py_func, py_file)  # type: ignore[misc]


class _InTree(_Stamped, caching.InTreeCacheLocator):  # type: ignore[misc]
    """Beside the sources, where that is writable."""


class _UserWide(_Stamped, caching.UserWideCacheLocator):  # type: ignore[misc]
    """In the user's cache folder."""


class _UserProvided(_Stamped, caching.UserProvidedCacheLocator):  # type: ignore[misc]
    """In ``NUMBA_CACHE_DIR``, if set."""


caching.CacheImpl._locator_classes[:0] = [_UserProvided, _InTree, _UserWide]
