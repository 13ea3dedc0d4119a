"""``accelsim presets``: names, numbers, units and sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from accelsim.baselines._platform import Platform
from accelsim.cli.presets import command
from accelsim.configs import FAMILIES, load, preset_names, resolve
from accelsim.energy import EnergyTable
from accelsim.errors import ConfigError
from accelsim.hardware import load_accelerator
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import load_policy
from accelsim.workloads import benchmark_names
from accelsim.workloads.models import load_model


def _run(*arguments: str) -> str:
    return CliRunner().invoke(command, arguments, catch_exceptions=False).output


def test_list_names_everything() -> None:
    output = _run("list")
    for family in FAMILIES:
        assert all(name in output for name in preset_names(family))


def test_sources_are_listed_beside_the_numbers() -> None:
    assert "pj: 909" in _run("show", "dram-hbm2")
    lines = _run("show", "spatten-40nm", "--sources").splitlines()
    at = next(i for i, line in enumerate(lines) if "key_sram_read_bytes" in line)
    assert lines[at] == "dynamic key_sram_read_bytes"
    assert lines[at + 1].strip().startswith("CACTI 7.0, 40 nm")


LOADERS: dict[str, Callable[[str], Any]] = {
    "accelerators": load_accelerator,
    "memories": lambda name: load(MemoryConfig, name, "memories"),
    "energy": lambda name: load(EnergyTable, name, "energy"),
    "baselines": lambda name: load(Platform, name, "baselines"),
    "policies": load_policy,
    "models": load_model,
    "sweeps": lambda name: resolve(name, "sweeps")[0],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_shown_is_a_file_that_can_be_used(family: str, tmp_path: Path) -> None:
    for name in preset_names(family):
        file = tmp_path / f"{name}.yaml"
        file.write_text(_run("show", name, "--family", family), encoding="utf-8")
        assert LOADERS[family](str(file)) == LOADERS[family](name), name


def test_benchmarks_and_traces_are_listed() -> None:
    assert all(name in _run("list", "benchmarks") for name in benchmark_names())
    assert "smollm2-64p-32d" in _run("list", "traces")
    assert "kind: encoder" in _run("show", "bert-base-cola")
    with pytest.raises(ConfigError, match="accelsim inspect"):
        _run("show", "minilm-128")


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
