"""Families of models for the tests of capture."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Saves a family of ``families.py`` once, and gives its folder."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    path = Path(__file__).parent / "families.py"
    spec = importlib.util.spec_from_file_location("families_of_media", path)
    assert spec is not None
    assert spec.loader is not None
    families = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = families  # a dataclass looks its module up
    spec.loader.exec_module(families)
    by_name = {family.name: family for family in families.FAMILIES}
    kept: dict[str, str] = {}

    def model(name: str) -> str:
        if name not in kept:
            kept[name] = families.save(by_name[name], tmp_path_factory.mktemp("model"))
        return kept[name]

    return model
