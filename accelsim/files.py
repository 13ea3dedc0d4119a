"""Text files that are read one way, and files that are written whole or not at all."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from accelsim.errors import AccelsimError


def shipped(name: str) -> Path:
    """Return a file or folder that comes with accelsim.

    Args:
        name: where it lies in a checkout: ``hw_configs``, ``traces/benchmarks``.

    Returns:
        The copy inside the installed package, else the checkout's; it need not exist.
    """
    package = Path(__file__).parent
    data = package / "_data"
    return (data if data.is_dir() else package.parent) / name


def read_text(
    path: str | Path, error_type: type[AccelsimError] = AccelsimError, most: int = -1
) -> str:
    """Return the text of a UTF-8 file, without the byte-order mark that some editors put first.

    Args:
        path: file.
        error_type: class of what is raised.
        most: characters to read; all if negative.

    Raises:
        AccelsimError: of ``error_type``: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = stream.read(most)
    except UnicodeDecodeError as error:
        if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise error_type(f"{path}: is UTF-16; expected UTF-8 (save it anew)") from None
        raise error_type(
            f"{path}: cannot be read as text (expected UTF-8; byte {error.start} is not)"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise error_type(f"{path}: cannot be read ({reason})") from None
    if "\0" in text[:_LOOKED_AT]:
        raise error_type(f"{path}: is UTF-16 or no text (null characters); expected UTF-8")
    return text


_LOOKED_AT = 1024
"""Characters in which UTF-16 without a mark shows: every other byte of plain letters is null."""


@contextmanager
def whole_file(
    path: str | Path, error_type: type[AccelsimError] = AccelsimError
) -> Iterator[BinaryIO]:
    """Yield a stream whose contents become the file when all is written.

    A link is followed, and its target replaced. The new file has the mode and owner of the old
    one; without an old one, what the umask leaves. What is no plain file (a device, a FIFO, the
    process's own standard output) is written through, as is a file in a folder where no other may
    be made.

    Raises:
        AccelsimError: of ``error_type``: the file cannot be written, or the disk is full.
    """
    old = _status(path, error_type)
    number = _standard(old)
    try:
        if number is not None:
            _flush(number)
            with os.fdopen(os.dup(number), "wb") as stream:
                yield stream
        elif old is not None and not stat.S_ISREG(old.st_mode):
            with open(path, "wb") as stream:
                yield stream
        else:
            yield from _replaced(Path(os.path.realpath(path)), old)
    except OSError as error:
        if number == 1 and isinstance(error, BrokenPipeError):
            raise  # the reader of standard output left, as it may
        raise error_type(f"{path}: cannot be written ({error.strerror or error})") from None


def check_target(path: str | Path, error_type: type[AccelsimError] = AccelsimError) -> None:
    """Refuse a file that :func:`whole_file` cannot write, before any work is done.

    Raises:
        AccelsimError: of ``error_type``: a folder, a folder that is missing, or no right to write.
    """
    old = _status(path, error_type)
    if old is not None:
        if stat.S_ISDIR(old.st_mode):
            raise error_type(f"{path}: is a folder; expected the name of a file")
        if _standard(old) is None and not os.access(path, os.W_OK):
            raise error_type(f"{path}: cannot be written (no right to write)")
        return
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise error_type(f"{path}: cannot be written (the folder does not exist)")
    if not os.access(folder, os.W_OK):
        raise error_type(f"{path}: cannot be written (no right to write in '{folder}')")


def _status(path: str | Path, error_type: type[AccelsimError]) -> os.stat_result | None:
    """What stands at a path, links followed; ``None``: nothing."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise error_type(f"{path}: cannot be written ({reason})") from None


def _standard(old: os.stat_result | None) -> int | None:
    """1 or 2 if a path names standard output or error, as ``/dev/stdout`` does.

    To replace the file that the shell opened would lose what else is printed into it.
    """
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if old is not None and os.path.samestat(old, os.fstat(number)):
                return number
    return None


def _flush(number: int) -> None:
    stream = sys.stdout if number == 1 else sys.stderr
    if stream is not None:
        stream.flush()


def _replaced(target: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """Write beside a plain file, or beside the place of a new one, and rename."""
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    temporary = target.with_name(f".accelsim-{secrets.token_hex(6)}.part")
    try:
        # The kernel takes the umask off a mode that is given here.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except PermissionError:
        if old is None:
            raise
        with target.open("wb") as stream:
            yield stream
        return
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        if old is not None:
            with contextlib.suppress(OSError):
                os.chown(temporary, old.st_uid, old.st_gid)
            os.chmod(temporary, stat.S_IMODE(old.st_mode))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
