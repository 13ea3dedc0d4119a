"""``accelsim presets``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim.configs import FAMILIES, preset_names
from accelsim.policies import load_policy


def test_list_names_every_preset(accelsim: Callable[..., Any]) -> None:
    lines = accelsim("presets", "list").out.splitlines()
    named = {line.split()[0] for line in lines if line.startswith("  ")}
    for family in FAMILIES:
        assert family in lines
        assert set(preset_names(family)) <= named
    of_one = accelsim("presets", "list", "policies").out
    assert "spatten-full" in of_one
    assert "hbm2-spatten" not in of_one


def test_show_gives_a_file_that_means_the_same(
    tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(accelsim("presets", "show", "spatten-full").out)
    assert load_policy(str(file)) == load_policy("spatten-full")


def test_sources_and_json(accelsim: Callable[..., Any]) -> None:
    shown = accelsim("presets", "show", "spatten-40nm", "--sources").out
    assert "CACTI" in shown
    document = accelsim("presets", "show", "spatten-paper", "--json", "-").document()
    assert document["multipliers"] == 512  # SpAtten, section 5.1: 512 a unit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "spaten-full"], "did you mean 'spatten-full'"),
        (["list", "policy"], "unknown family 'policy'; did you mean 'policies'"),
        (["show", "minilm-128"], "is a trace"),
        (["show", "dense", "--family", "memories"], "dense"),
    ],
)
def test_refusals(words: list[str], message: str, accelsim: Callable[..., Any]) -> None:
    assert message in accelsim("presets", *words, status=2).err
