"""``accelsim presets``: names, numbers, units and sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from accelsim.cli.presets import command
from accelsim.configs import FAMILIES, preset_names
from accelsim.errors import ConfigError


def _run(*arguments: str) -> str:
    return CliRunner().invoke(command, arguments, catch_exceptions=False).output


def test_list_names_everything() -> None:
    output = _run("list")
    for family in FAMILIES:
        assert all(name in output for name in preset_names(family))


def test_sources_are_printed_on_request_only() -> None:
    assert "pj: 909" in _run("show", "dram-hbm2")
    assert "CACTI 7.0, 40 nm" not in _run("show", "spatten-40nm")
    assert "CACTI 7.0, 40 nm" in _run("show", "spatten-40nm", "--sources")


def test_json_is_the_resolved_document(tmp_path: Path) -> None:
    document = json.loads(_run("show", "titan-xp", "--json", "-"))
    assert document["bandwidth_byte_per_s"] == 547.6e9
    _run("show", "titan-xp", "--json", str(tmp_path / "t.json"))
    assert json.loads((tmp_path / "t.json").read_text()) == document


def test_wrong_names_give_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'titan-xp'"):
        _run("show", "titan-x")
    with pytest.raises(ConfigError, match="did you mean 'baselines'"):
        _run("list", "baseline")
