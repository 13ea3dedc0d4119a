"""Fixtures of more than one room."""

from __future__ import annotations

import importlib.util
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
