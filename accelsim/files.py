"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from accelsim.errors import AccelsimError


@contextmanager
def whole_file(
    path: str | Path, error_type: type[AccelsimError] = AccelsimError
) -> Iterator[BinaryIO]:
    """Yield a stream whose contents become the file when all is written.

    Raises:
        AccelsimError: of ``error_type``: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise error_type(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
