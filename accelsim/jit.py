"""The one way kernels are compiled: Numba, cached on disk, never stale.

Numba's own cache looks at the file of a function only. A kernel that was compiled with its callees
inlined would outlive a change of a callee in another file, and run with a wrong memory layout. Here
the cache of a kernel depends on the contents of its file and of all files of the package that this
one imports, directly or not. A change anywhere else recompiles nothing.

A cache is a help and no condition: an entry that is cut or garbled is compiled again, and where no
folder can be written, kernels are compiled without one.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numba
from numba.core import caching

F = TypeVar("F", bound=Callable[..., Any])
Int = Any
"""An integer inside a kernel: NumPy's and Python's are the same there."""
_PACKAGE = Path(__file__).parent


def kernel(function: F) -> F:
    """Compile a function in nopython mode and keep the machine code on disk."""
    return cast(F, _compiled(function))


def in_place(function: F, inline: bool = False) -> F:
    """Compile a function that works in its arguments and allocates nothing.

    It has no reference counts (a third of the time of a loop that calls others with several arrays)
    and no check for division by zero.
    """
    options = {"error_model": "numpy", "forceinline": inline, "_nrt": False}
    return cast(F, _compiled(function, **options))


def inlined(function: F) -> F:
    """Compile a small function of the kind of :func:`in_place` into each of its callers."""
    return in_place(function, inline=True)


_SCALARS = {
    "int": numba.int64,
    "Int": numba.int64,
    "bool": numba.boolean,
    "float": numba.float64,
}


def direct(function: F, *arrays: Any) -> F:
    """Return the machine code of a kernel for some arrays, for who calls it often.

    A call of a kernel takes 2 to 6 us, most of them to find the types of records; a call of its
    machine code takes 0.2 to 0.7. It finds nothing: all later calls must pass arrays of the types
    of these, and integers, floats or truth values where the kernel says so.

    Args:
        function: a kernel.
        arrays: in order, for the parameters that are no ``int``, ``float`` or ``bool``.
    """
    if not hasattr(function, "py_func"):
        return function  # under NUMBA_DISABLE_JIT
    # To find the types of records takes longer than all the rest of this.
    key = (function, *((array.dtype, array.ndim, array.flags.num) for array in arrays))
    found = _machine_code.get(key)
    if found is None:
        given = iter(arrays)
        types = [
            _SCALARS.get(parameter.annotation) or numba.typeof(next(given))
            for parameter in inspect.signature(function.py_func).parameters.values()
        ]
        found = _machine_code[key] = cast(Any, function).compile(tuple(types))
    return cast(F, found)


_machine_code: dict[Any, Any] = {}


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


class _SealedFile(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Files of a cache with a digest of contents and sources at their end.

    Numba reads machine code as it finds it. What is cut, garbled or of other sources must not run.
    """

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[BinaryIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as stream:
            stream.write(content.getvalue() + self._seal(content.getvalue()))

    def _load_index(self) -> Any:
        self._check(self._index_path)
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        self._check(self._data_path(name))
        return super()._load_data(name)

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self._source_stamp.encode() + content).digest()

    def _check(self, path: str) -> None:
        if os.path.exists(path):
            content = Path(path).read_bytes()
            size = len(content) - hashlib.sha256().digest_size
            if size < 0 or self._seal(content[:size]) != content[size:]:
                raise ValueError(f"{path}: cut, garbled or of other sources")


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """The cache of one kernel; whatever is wrong with it costs a compilation and nothing else."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _SealedFile(self.cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what unpickling leads to is anybody's guess
            with suppress(OSError):
                self.flush()  # an empty index: the entry is written again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        # Without room or right to write, the next process compiles again.
        with suppress(OSError, ValueError):
            super().save_overload(sig, data)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = numba.njit(**options)(function)
    cache = _cache_of(function)
    if cache is not None and dispatcher is not function:  # equal under NUMBA_DISABLE_JIT
        dispatcher._cache = cache
    return dispatcher


def _cache_of(function: Callable[..., Any]) -> _Cache | None:
    """The cache of a kernel, in the temporary folder where no other can be written."""
    with suppress(RuntimeError):  # no location can be written
        return _Cache(function)
    folder = _temporary_folder()
    if folder is None:
        return None
    # The processes that this one starts find it too, and say nothing.
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(folder)
    with suppress(RuntimeError):
        return _Cache(function)
    return None


def cache_root() -> Path | None:
    """Folder under which compiled kernels are kept; ``None`` if none can be written."""
    cache = _cache_of(cache_root)
    if cache is None:
        return None
    folder = Path(cache.cache_path)
    return _PACKAGE if _PACKAGE in folder.parents else folder.parent


@functools.cache
def _temporary_folder() -> Path | None:
    """A folder for kernels that nobody else can write; ``None`` if there is none. Says so once."""
    folder = None
    with suppress(OSError):
        folder = Path(tempfile.gettempdir(), f"accelsim-kernels-{os.getuid()}")
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        status = folder.lstat()
        own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if not own or status.st_mode & 0o77:
            folder = Path(tempfile.mkdtemp(prefix="accelsim-kernels-"))
    where = "compiled each time" if folder is None else f"kept in {folder}"
    print(
        "note: no folder for compiled kernels can be written (beside the package, in the home "
        f"folder, in NUMBA_CACHE_DIR); they are {where}",
        file=sys.stderr,
    )
    return folder
