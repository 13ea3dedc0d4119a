"""Energy is counts times table entries, and a table says where each number is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelsim.configs import load, preset_names
from accelsim.energy import EnergyTable, evaluate
from accelsim.errors import ConfigError
from accelsim.hardware.activity import COUNTERS, Activity
from accelsim.hardware.config import SpattenConfig

TABLE = """
description: t
source: t
node_nm: 40
dynamic:
  - {counter: dram_activations, part: dram, pj: 900, unit: row, source: a}
  - {counter: dram_read_bits, part: dram, pj: 2, unit: bit, source: b}
  - {counter: qk_macs, part: logic, pj: 0.5, unit: MAC, source: c, assumed: true}
static:
  - {name: sram, mw: 100, source: d}
"""


def test_hand_computed(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE)
    table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
    activity = Activity(
        cycles=1000,
        frequency_hz=1e9,
        dram_read_bytes={"key_msb": 64, "value": 32},
        counters={"dram_activations": 3, "qk_macs": 10},
    )
    report = evaluate(activity, table)
    assert report.energy_j_by_part["dram"] == pytest.approx((3 * 900 + 96 * 8 * 2) * 1e-12)
    assert report.energy_j_by_part["logic"] == pytest.approx(5e-12)
    assert report.energy_j_by_part["leakage"] == pytest.approx(0.1 * 1e-6)
    assert report.total_j == pytest.approx(sum(report.energy_j_by_entry.values()))
    assert "qk_macs" in report.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pj: 900", "pj: -1", "greater than or equal to 0"),
        ("unit: row, ", "", "unit' is missing"),
        ("qk_macs", "qk_mac", "did you mean 'qk_macs'"),
        ("source: d", "source: ''", "at least 1 character"),
    ],
)
def test_bad_tables_are_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(TABLE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load(EnergyTable, str(tmp_path / "t.yaml"), "energy")


@pytest.mark.parametrize("name", preset_names("energy"))
def test_presets_name_a_source_for_every_number(name: str) -> None:
    table = load(EnergyTable, name, "energy")
    assert all(len(entry.source) > 3 for entry in (*table.dynamic, *table.static))


@pytest.mark.parametrize("name", [n for n in preset_names("energy") if n.startswith("spatten")])
def test_presets_price_every_counter_that_is_work(name: str) -> None:
    priced = {entry.counter for entry in load(EnergyTable, name, "energy").dynamic}
    work = {counter for counter in COUNTERS if counter.endswith(("_macs", "_bytes"))}
    assert work | {"exponentials", "divisions", "topk_comparisons", "dram_activations"} <= priced


def test_work_without_an_entry_is_reported(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE)
    table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
    activity = Activity(1, 1e9, counters={"exponentials": 5, "row_hits": 3, "fc_macs": 0})
    (warning,) = evaluate(activity, table).warnings
    assert "exponentials" in warning
    assert "row_hits" not in warning


def test_bounds_and_average_power(tmp_path: Path) -> None:
    text = TABLE.replace("pj: 900,", "pj: 900, low: 600, high: 1200,")
    (tmp_path / "t.yaml").write_text(text)
    table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
    report = evaluate(Activity(1000, 1e9, counters={"dram_activations": 10}), table)
    assert report.total_j == pytest.approx(9e-9 + 1e-7)
    assert report.low_j == pytest.approx(6e-9 + 1e-7)
    assert report.high_j == pytest.approx(12e-9 + 1e-7)
    assert report.average_power_w == pytest.approx(0.109)


def test_a_range_must_hold_its_value(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE.replace("pj: 900,", "pj: 900, low: 901,"))
    with pytest.raises(ConfigError, match="expected low <= 900"):
        load(EnergyTable, str(tmp_path / "t.yaml"), "energy")


def test_leakage_follows_buffers_and_multipliers() -> None:
    table = load(EnergyTable, "spatten-40nm", "energy")
    activity = Activity(1000, 1e9)
    paper = SpattenConfig(kind="spatten", description="", source="")
    small = paper.model_copy(update={"multipliers": 64})  # SpAtten1/8: 128 multipliers in all
    full = evaluate(activity, table, paper).energy_j_by_part["leakage"]
    assert full == pytest.approx((0.403 + 0.014) * 1e-6)
    assert full == pytest.approx(evaluate(activity, table).energy_j_by_part["leakage"])
    assert evaluate(activity, table, small).energy_j_by_part["leakage"] == pytest.approx(full / 8)


def test_a_full_key_line_costs_300_pj() -> None:
    # CACTI 7.0 at 40 nm: 768 B as 12 banks of 64 B at 25.0 pJ.
    table = load(EnergyTable, "spatten-40nm", "energy")
    report = evaluate(Activity(1, 1e9, counters={"key_sram_read_bytes": 768}), table)
    assert report.energy_j_by_part["sram"] == pytest.approx(300e-12, rel=2e-3)
