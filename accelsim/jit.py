"""The one way kernels are compiled: Numba, cached on disk, never stale.

Numba's own cache looks at the file of a function only. A kernel that was compiled with its callees
inlined would outlive a change of a callee in another file, and run with a wrong memory layout. Here
the cache of every kernel depends on all sources of the package.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import caching

F = TypeVar("F", bound=Callable[..., Any])
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


@functools.cache
def _sources_stamp() -> str:
    """Digest of names, sizes and modification times of the package's sources."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        status = path.stat()
        name = path.relative_to(_PACKAGE)
        digest.update(f"{name}:{status.st_size}:{status.st_mtime_ns};".encode())
    return digest.hexdigest()


class _Stamped:
    """Adds the package's stamp to one of Numba's cache locations, for files of the package."""

    def get_source_stamp(self) -> str:
        return _sources_stamp()

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
