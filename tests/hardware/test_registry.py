"""Contract of the accelerator registry, for every kind and preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from accelsim.configs import preset_names
from accelsim.errors import ConfigError
from accelsim.hardware import (
    _registry,
    accelerator_kinds,
    accelerator_of,
    load_accelerator,
    register_accelerator,
    simulate,
)
from accelsim.hardware.config import AcceleratorConfig
from accelsim.workloads import Workload

PRESETS = preset_names("accelerators")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_with_the_schema_of_their_kind(name: str) -> None:
    machine = load_accelerator(name)
    assert type(machine) is accelerator_of(machine.kind).config
    assert machine.multiplier_count > 0
    assert machine.buffer_bytes > 0


def test_every_kind_has_a_preset() -> None:
    assert {load_accelerator(name).kind for name in PRESETS} == set(accelerator_kinds())


@pytest.mark.parametrize("kind", ["spaten", "memories", "config", "_registry", "os"])
def test_unknown_kind(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.yaml").write_text(f"kind: {kind}\n")
    with pytest.raises(ConfigError, match=rf"x\.yaml: key 'kind': unknown accelerator '{kind}'"):
        load_accelerator(str(tmp_path / "x.yaml"))


def test_nearest_kind_and_key(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("kind: spaten\n")
    with pytest.raises(ConfigError, match="did you mean 'spatten'"):
        load_accelerator(str(tmp_path / "x.yaml"))
    with pytest.raises(ConfigError, match="did you mean 'channels'"):
        load_accelerator("spatten-paper", {"chanels": 2})
    (tmp_path / "x.yaml").write_text("description: none\n")
    with pytest.raises(ConfigError, match="key 'kind' is missing"):
        load_accelerator(str(tmp_path / "x.yaml"))


def test_unknown_engine() -> None:
    machine: AcceleratorConfig = load_accelerator("spatten-paper")
    work = Workload.from_columns({"keys": [8], "values": [8], "key_bits": [12], "value_bits": [12]})
    from accelsim.configs import load
    from accelsim.hardware.config import MemoryConfig

    memory = load(MemoryConfig, machine.memory, "memories")
    with pytest.raises(ConfigError, match="did you mean 'event'"):
        simulate(work, machine, memory, engine="events")


def test_an_accelerator_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_REGISTERED", {})
    (tmp_path / "x.yaml").write_text("extends: mnnfast\nkind: twin\n")
    with pytest.raises(ConfigError, match="unknown accelerator 'twin'"):
        load_accelerator(str(tmp_path / "x.yaml"))
    original = accelerator_of("mnnfast")

    class TwinConfig(original.config):  # type: ignore[name-defined, misc]
        kind: Literal["twin"]

    register_accelerator("twin", replace(original, config=TwinConfig))
    assert "twin" in accelerator_kinds()
    assert type(load_accelerator(str(tmp_path / "x.yaml"))) is TwinConfig
    with pytest.raises(ConfigError, match="'spatten-e2e' is one of accelsim's"):
        register_accelerator("spatten-e2e", original)


def test_what_a_machine_does_not_serve_is_told() -> None:
    real = accelerator_of("spatten")
    with pytest.raises(ConfigError, match=r"unknown service 'plane'.*'planes'"):
        replace(real, serves=frozenset({"plane"}))
    from accelsim.configs import load
    from accelsim.functional import run_policy
    from accelsim.hardware.config import MemoryConfig
    from accelsim.policies import load_policy
    from accelsim.traces import synthetic_trace

    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    trace = synthetic_trace(seed=3, num_layers=4, head_dim=64, prefill_tokens=40, decode_tokens=8)
    for name, expected in (
        ("dense", set()),
        ("progressive-6-4", set()),
        ("h2o", {"updates"}),
        ("quest", {"write_backs"}),
        ("spatten-full", {"updates"}),
    ):
        work = run_policy(trace, load_policy(name)).workload
        told = simulate(work, machine, memory).not_served
        assert set(told) == expected, name
        assert told == {n: work.asks()[n] for n in expected}
    assert work.asks()["updates"] == int(work["score_updates"].sum()) > 0
    assert work.asks()["runs"] == int((work["key_runs"] - 1).sum()) > 0
