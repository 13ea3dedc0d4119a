"""Optional libraries that capture needs."""

from __future__ import annotations

import importlib
from typing import Any

from accelsim.errors import TraceError


def require(module: str, package: str) -> Any:
    """Import an optional library.

    Raises:
        TraceError: it is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise TraceError(
            f"capture needs the package '{package}': pip install 'accelsim[capture]'"
        ) from None
