"""Fixtures of more than one room."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none of them is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def needs() -> Callable[..., None]:
    """Skip the test if a package is not installed; tells without importing it.

    Weights are read from their package without importing it, which needs a command-line tool.
    """

    def check(*packages: str) -> None:
        for package in packages:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")

    return check
