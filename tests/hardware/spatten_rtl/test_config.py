"""The schema of the released SpAtten: its fields, and those that made another machine of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accelsim.configs import set_dotted
from accelsim.errors import ConfigError
from accelsim.hardware import load_accelerator
from accelsim.hardware.machines.spatten_rtl.requests import requests
from accelsim.workloads import Workload

OF_ANOTHER_MACHINE = {
    "buffer_banks": 2,
    "key_prefetch_depth": 2,
    "requant_bits": "as-recorded",
    "softmax_latency": 30,
    "query_traffic": True,
    "output_traffic": True,
    "topk.drain": "pipelined",
    "topk.engines": 2,
}


@pytest.mark.parametrize(("key", "value"), OF_ANOTHER_MACHINE.items())
def test_a_file_with_a_field_of_another_machine_is_told_which(
    key: str, value: Any, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"extends": "spatten-rtl"}
    set_dotted(fields, key, value)
    path = tmp_path / "old.yaml"
    path.write_text(json.dumps(fields))
    message = rf"old\.yaml: no key '{key}': SpAtten as released .*'kind: spatten'"
    with pytest.raises(ConfigError, match=message):
        load_accelerator(str(path))


def test_a_file_that_says_what_the_release_does_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(
        "extends: spatten-rtl\nbuffer_banks: 1\nkey_prefetch_depth: 0\nrequant_bits: forced\n"
        "softmax_latency: 0\nquery_traffic: false\noutput_traffic: false\n"
        "topk: {drain: serial, engines: 1, parallelism: 8}\n"
    )
    machine = load_accelerator("spatten-rtl", {"topk.parallelism": 8})
    assert load_accelerator(str(path)).model_dump() == machine.model_dump()


@pytest.mark.parametrize("key", ["buffer_banks: true", "query_traffic: 0", "softmax_latency: 0.0"])
def test_what_the_release_does_is_said_in_its_own_type(key: str, tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(f"extends: spatten-rtl\n{key}\n")
    with pytest.raises(ConfigError, match=f"no key '{key.partition(':')[0]}'"):
        load_accelerator(str(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multipliers": 96}, "multiple of 64"),
        ({"channels": 12}, "power of two"),
        ({"fetch_channels": 12}, "multiple of multipliers/64"),
        ({"rounding": 8}, r"would deadlock .* multiple of fetch_channels \(32\)"),
    ],
)
def test_machines_that_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_accelerator("spatten-rtl", fields)


def test_the_tokens_of_a_workload_are_those_of_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"'index_pattern: workload': .* table .*'kind: spatten'"):
        load_accelerator("spatten-rtl", {"index_pattern": "workload"})


def test_each_pass_of_a_search_costs_its_overhead() -> None:
    """3 cycles as released (3.2)."""
    given = {"keys": [512] * 4, "values": [64] * 4, "key_bits": [8] * 4, "value_bits": [8] * 4}
    three, five = (
        requests(Workload.from_columns(given), load_accelerator("spatten-rtl", fields))
        for fields in ({}, {"topk.pass_overhead": 5})
    )
    assert (three.topk_passes > 1).any()
    assert (five.topk_passes == three.topk_passes).all()
    assert (five.topk_cycles == three.topk_cycles + 2 * three.topk_passes).all()


def test_its_size_is_that_of_both_units_and_buffers() -> None:
    """Full scale (2.1): 512 multipliers a unit, 256 lines of 512 elements of 12 bit a buffer."""
    machine = load_accelerator("spatten-rtl")
    assert machine.multiplier_count == 2 * 512
    assert machine.buffer_bytes == 2 * 256 * 512 * 12 / 8
    assert machine.sizes["topk_comparator"].amount == 16
