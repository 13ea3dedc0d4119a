"""Fixtures of more than one room."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def install() -> Callable[..., None]:
    """Give a folder the files that pip writes for a package with an entry point.

    Takes the folder, the name of the package, and the section of its pyproject.toml.
    """

    def written(folder: Path, name: str, section: str) -> None:
        group, point = section.splitlines()[-2:]
        assert group.startswith('[project.entry-points."'), section
        installed = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        installed.mkdir()
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (installed / "METADATA").write_text(about)
        named = group.removeprefix('[project.entry-points."').removesuffix('"]')
        points = f"[{named}]\n{point.replace(chr(34), '')}\n"
        (installed / "entry_points.txt").write_text(points)

    return written


@pytest.fixture(scope="session")
def python_in() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a folder whose modules and packages it finds."""

    def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        paths = f"{folder}{os.pathsep}{ROOT}"
        return subprocess.run(
            [sys.executable, *command], cwd=folder, env=os.environ | {"PYTHONPATH": paths},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small Llama with random weights; three layers and the sizes that are given."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def made(hidden: int, positions: int) -> Path:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=hidden, intermediate_size=3 * hidden // 2,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=positions,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("llama")
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    return made
