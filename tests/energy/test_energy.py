"""Energy is counts times table entries, and a table says where each number is from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load, preset_names
from accelsim.energy import (
    EnergyTable,
    energy_factor,
    evaluate,
    operation_pj,
    sram,
)
from accelsim.energy import _library as library
from accelsim.energy._evaluate import _Line, _parts_of_reach, intervals
from accelsim.energy._table import LIBRARIES, Term
from accelsim.errors import ConfigError
from accelsim.hardware import accelerator_of
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig

TABLE = """
description: t
source: t
node_nm: 40
dynamic:
  - {counter: dram_activations, part: dram, pj: 900, unit: activation, source: a}
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
        ("unit: activation, ", "", "unit' is missing"),
        ("qk_macs", "QK macs", "should match pattern"),
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


CHIPS = [name for name in preset_names("energy") if name.startswith("spatten")]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("memory", preset_names("memories"))
def test_chip_and_memory_together_price_every_counter_that_is_work(chip: str, memory: str) -> None:
    technology = load(MemoryConfig, memory, "memories").technology
    tables = [load(EnergyTable, name, "energy") for name in (chip, f"dram-{technology}")]
    priced = {entry.counter for table in tables for entry in table.dynamic}
    for kind in ("spatten", "spatten-rtl", "spatten-e2e"):
        work = {counter.name for counter in accelerator_of(kind).declared if counter.charged}
        # HBM has a line of its own for the interface; elsewhere it is in the bits moved.
        assert work - {"dram_io_bits"} <= priced


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
    # A symmetric triangle of half-width w has its 5 % quantile at w (1 - sqrt(0.1)) below the peak.
    spread = 3e-9 * (1 - 0.1**0.5)
    assert report.low_j == pytest.approx(9e-9 + 1e-7 - spread, rel=2e-3)
    assert report.high_j == pytest.approx(9e-9 + 1e-7 + spread, rel=2e-3)
    assert report.average_power_w == pytest.approx(0.109)


def test_a_range_must_hold_its_value(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE.replace("pj: 900,", "pj: 900, low: 901,"))
    with pytest.raises(ConfigError, match="expected low <= 900"):
        load(EnergyTable, str(tmp_path / "t.yaml"), "energy")


def test_leakage_follows_buffers_and_multipliers() -> None:
    table = load(EnergyTable, "spatten-40nm", "energy")
    activity = Activity(1000, 1e9)
    paper = SpattenRtlConfig(kind="spatten-rtl", description="", source="")
    small = paper.model_copy(update={"multipliers": 64})  # SpAtten1/8: 128 multipliers in all
    full = evaluate(activity, table, paper).energy_j_by_entry
    eighth = evaluate(activity, table, small).energy_j_by_entry
    assert full["key_and_value_sram_leakage"] == pytest.approx(0.403e-6, rel=1e-3)
    for name in ("key_and_value_sram_leakage", "arithmetic_leakage"):
        assert eighth[name] == pytest.approx(full[name] / 8)
    assert eighth["softmax_leakage"] == pytest.approx(full["softmax_leakage"])


def test_a_full_key_line_costs_300_pj() -> None:
    # CACTI 7.0 at 40 nm: 768 B as 12 banks of 64 B at 25.0 pJ.
    table = load(EnergyTable, "spatten-40nm", "energy")
    report = evaluate(Activity(1, 1e9, counters={"key_sram_read_bytes": 768}), table)
    assert report.energy_j_by_part["sram"] == pytest.approx(300e-12, rel=2e-3)


def test_the_memory_brings_its_own_energy() -> None:
    table = load(EnergyTable, "spatten-40nm", "energy")
    activity = Activity(1000, 1e9, {"value": 4096}, counters={"dram_activations": 4})
    dram = {
        name: evaluate(activity, table, memory=load(MemoryConfig, name, "memories"))
        for name in ("hbm2-nominal", "hbm3", "ddr4")
    }
    by_part = dram["hbm2-nominal"].energy_j_by_part
    assert by_part["dram"] == pytest.approx((4 * 909 + 8 * 4096 * 2.71) * 1e-12)
    assert dram["ddr4"].energy_j_by_part["dram"] > dram["hbm3"].energy_j_by_part["dram"]
    assert dram["hbm3"].energy_j_by_part["sram"] == by_part["sram"]


def test_a_ddr4_channel_that_reads_all_the_time_draws_idd4r() -> None:
    """The data sheet's own operating point; it fails if table and preset differ in devices."""
    memory = load(MemoryConfig, "ddr4", "memories")
    devices = memory.row_bytes // 1024  # an x8 device has a page of 1 KB
    size = round(memory.bytes_per_tick * memory.clock_hz)
    second = Activity(int(1e9), 1e9, {"value": size})
    table = load(EnergyTable, "spatten-40nm", "energy")
    parts = evaluate(second, table, memory=memory).energy_j_by_part
    assert parts["dram"] + parts["dram_background"] == pytest.approx(
        devices * 1.2 * 0.168, rel=0.02
    )
    assert parts["dram_background"] == pytest.approx(devices * 1.2 * 0.052, rel=0.01)


def test_a_memory_without_a_table_is_explained() -> None:
    table = load(EnergyTable, "spatten-40nm", "energy")
    memory = load(MemoryConfig, "hbm3", "memories", {"technology": "hbm33"})
    with pytest.raises(ConfigError, match="did you mean 'dram-hbm3"):
        evaluate(Activity(1, 1e9), table, memory=memory)


def test_unit_library_by_hand() -> None:
    assert operation_pj("int-multiply", 8, 45) == pytest.approx(0.2)
    assert operation_pj("int-multiply", 12, 45) == pytest.approx(0.446, abs=1e-3)
    assert operation_pj("int-multiply", 16, 40, "aladdin") == pytest.approx(12.68 / 4)
    assert energy_factor(45, 40) == pytest.approx(0.869, abs=2e-3)
    assert sram(16384, 64, 40).read_pj == 25.0
    assert 25.0 < sram(18000, 64, 40).read_pj < 26.1
    assert sram(196608, 128, 40).read_pj == pytest.approx(127)
    with pytest.raises(ConfigError, match="did you mean 'int-multiply'"):
        operation_pj("int-multply", 8, 45)


@pytest.mark.parametrize("node", [3, 90])
def test_a_node_without_scaling_data_is_refused(node: int) -> None:
    with pytest.raises(ConfigError, match=f"{node} nm has no scaling data"):
        load(EnergyTable, "spatten-40nm", "energy", {"target_node_nm": node})


def test_a_smaller_node_costs_less_and_dram_stays() -> None:
    activity = Activity(1000, 1e9, {"value": 4096}, counters={"qk_macs": 1000})
    memory = load(MemoryConfig, "hbm2-nominal", "memories")
    old, new = (
        evaluate(activity, load(EnergyTable, "spatten-40nm", "energy", extra), memory=memory)
        for extra in ({}, {"target_node_nm": 16})
    )
    assert new.energy_j_by_part["logic"] < 0.4 * old.energy_j_by_part["logic"]
    assert new.energy_j_by_part["dram"] == old.energy_j_by_part["dram"]
    assert (new.area_mm2 or 0) < 0.4 * (old.area_mm2 or 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1e3), st.floats(0, 1)), min_size=1, max_size=12
    ),
    st.integers(1, 12),
)
def test_every_total_lies_in_its_interval(
    ranges: list[tuple[float, float, float]], groups: int
) -> None:
    lines = [
        _Line(str(i), "dram", str(i % groups), value * below, value, value * (1 + above))
        for i, (below, value, above) in enumerate(ranges)
    ]
    total = sum(line.value for line in lines)
    ((low, high),) = intervals(lines, printed=[total])
    assert low <= total <= high
    assert sum(line.low for line in lines) <= low * (1 + 1e-9) + 1e-9
    assert high <= sum(line.high for line in lines) * (1 + 1e-9) + 1e-9


def test_half_of_a_range_is_below_its_printed_value() -> None:
    below, above = _parts_of_reach((np.arange(1000) + 0.5) / 1000)
    drawn = 1 + 1 * below + 8 * above  # from 0 over 1 to 9
    assert (np.diff(drawn) >= 0).all()
    assert (drawn < 1).mean() == 0.5
    assert drawn.min() < 0.05
    assert drawn.max() > 8.5


def test_interval_is_reproducible_and_holds_the_total() -> None:
    table = load(EnergyTable, "spatten-40nm", "energy")
    activity = Activity(1000, 1e9, counters={"qk_macs": 10**6, "key_sram_read_bytes": 10**6})
    first, second = (evaluate(activity, table) for _ in range(2))
    assert (first.low_j, first.high_j) == (second.low_j, second.high_j)
    assert first.low_j < first.total_j < first.high_j
    assert 0 < first.area_low_mm2 <= (first.area_mm2 or 0) < first.area_high_mm2


def test_area_follows_multipliers_and_buffers() -> None:
    table = load(EnergyTable, "spatten-40nm", "energy")
    paper = SpattenRtlConfig(kind="spatten-rtl", description="", source="")

    def area(**fields: int) -> dict[str, float]:
        machine = paper.model_copy(update=fields)
        return evaluate(Activity(1, 1e9), table, machine).area_mm2_by_module

    # The matrix units are printed for the paper's machine.
    printed = evaluate(Activity(1, 1e9), table).area_mm2_by_module
    for unit in ("qk_unit", "pv_unit"):
        assert area()[unit] == pytest.approx(printed[unit])
    whole, half, quarter = (area(multipliers=m)["qk_unit"] for m in (512, 256, 128))
    # Lines are as wide as the multipliers, so buffers shrink with them: all of it is in proportion.
    assert half == pytest.approx(whole / 2)
    assert quarter == pytest.approx(whole / 4)
    buffers = area(buffer_lines=2 * paper.buffer_lines)["qk_unit"] - whole
    assert 0 < buffers < whole
    assert area(multipliers=128)["softmax"] == area()["softmax"]


def test_areas_and_leakage_by_hand() -> None:
    printed = library.arithmetic("aladdin").node_nm
    assert library.operation_area_mm2("int-multiply", 32, printed) == pytest.approx(6350e-6)
    one, two = (Term(op="sram", bytes=4096, count=n) for n in (1, 2))
    for units in LIBRARIES:
        assert two.area_mm2(40, units) == 2 * one.area_mm2(40, units) > 0
        assert two.leak_mw(40, units) == 2 * one.leak_mw(40, units) > 0


def test_background_of_dram_does_not_follow_the_node_of_the_chip() -> None:
    memory = load(MemoryConfig, "hbm2-nominal", "memories")
    old, new = (
        evaluate(
            Activity(1000, 1e9), load(EnergyTable, "spatten-40nm", "energy", extra), memory=memory
        ).energy_j_by_part
        for extra in ({}, {"target_node_nm": 16})
    )
    assert new["dram_background"] == old["dram_background"] > 0
    assert 0 < new["leakage"] < old["leakage"]


def test_a_very_wide_line_takes_the_nearest_width() -> None:
    # Energy is in proportion to the width, from the nearest that is tabulated.
    widths = {row.line_bytes for row in library.sram_library().nodes[40]}
    widest = max(widths)
    near, far = sram(16384, widest, 40), sram(16384, 2 * widest, 40)
    assert far.read_pj == pytest.approx(2 * near.read_pj, rel=0.3)


def test_leakage_is_that_of_so_many_units() -> None:
    one, eight = (library.operation_leak_mw("int-multiply", 32, 40) * count for count in (1, 8))
    units = LIBRARIES[0]
    assert Term(op="int-multiply", bits=32).leak_mw(40, units) == one
    assert Term(op="int-multiply", bits=32, count=8).leak_mw(40, units) == eight
    # Aladdin's rows, at the node for which they are printed.
    printed = library.arithmetic("aladdin").node_nm
    assert library.operation_leak_mw("int-multiply", 32, printed) == pytest.approx(0.08)
    assert library.operation_leak_mw("fp-multiply", 32, printed) == pytest.approx(0.12)


def test_an_entry_has_a_number_or_terms(tmp_path: Path) -> None:
    both = TABLE.replace("pj: 900,", "pj: 900, terms: [{op: int-add, bits: 8}],")
    neither = TABLE.replace("pj: 900, ", "")
    for text in (both, neither):
        (tmp_path / "t.yaml").write_text(text)
        with pytest.raises(ConfigError, match="either 'pj' or 'terms'"):
            load(EnergyTable, str(tmp_path / "t.yaml"), "energy")


def test_a_width_between_the_tabulated_ones_scales_from_the_nearest() -> None:
    narrow, wide = sram(16384, 64, 40), sram(16384, 96, 40)
    assert wide.read_pj == pytest.approx(1.5 * narrow.read_pj)
    assert wide.leak_mw == narrow.leak_mw
    assert wide.area_mm2 == narrow.area_mm2


def stillmaker(node: float) -> float:
    """Energy of logic at 0.8 V: the quadratic of Stillmaker & Baas, of a row as printed."""
    (row,) = (row for row in library.scaling().rows if row.node_nm == node)
    return row.a * 0.64 + row.b * 0.8 + row.c


def test_scaling_between_nodes_by_hand() -> None:
    area = {row.node_nm: row.area for row in library.scaling().rows}
    for old, new in ((45, 32), (32, 16), (7, 65), (65, 7)):
        assert energy_factor(old, new) == pytest.approx(stillmaker(new) / stillmaker(old))
        assert library.area_factor(old, new) == pytest.approx(area[new] / area[old])
    # Half way between two rows, half way between their values.
    middle = (stillmaker(45) + stillmaker(32)) / 2
    assert energy_factor(45, 38.5) == pytest.approx(middle / stillmaker(45))
    assert energy_factor(40, 40) == library.area_factor(40, 40) == 1


def test_both_directions_are_charged_on_the_pins(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE.replace("dram_read_bits", "dram_io_bits"))
    table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
    activity = Activity(1, 1e9, dram_read_bytes={"value": 96}, dram_write_bytes=32)
    assert evaluate(activity, table).energy_j_by_entry["dram_io_bits"] == pytest.approx(
        8 * (96 + 32) * 2e-12
    )


def test_a_range_goes_to_the_node_with_its_value(tmp_path: Path) -> None:
    text = TABLE.replace("pj: 0.5,", "pj: 0.5, low: 0.4, high: 0.7,").replace("40", "45")
    text += "area:\n  - {name: unit, mm2: 2, low: 1, high: 6, source: e}\n"
    (tmp_path / "t.yaml").write_text(text + "target_node_nm: 16\n")
    table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
    energy, area = stillmaker(16) / stillmaker(45), 0.19  # area at 45 nm is 1
    assert table.dynamic_pj(table.dynamic[2]) == pytest.approx(
        (0.4 * energy, 0.5 * energy, 0.7 * energy)
    )
    assert table.static_mw(table.static[0]) == pytest.approx((100 * energy,) * 3)
    assert table.module_mm2(table.area[0]) == pytest.approx((area, 2 * area, 6 * area))
    # DRAM is made in a process of its own.
    assert table.dynamic_pj(table.dynamic[0]) == (900, 900, 900)


def test_printed_values_are_for_so_many_units(tmp_path: Path) -> None:
    text = TABLE.replace("mw: 100,", "mw: 100, per: multiplier, sized_for: 1024,")
    text += "area:\n  - {name: unit, mm2: 2, per: multiplier, sized_for: 1024, source: e}\n"
    (tmp_path / "t.yaml").write_text(text)
    table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
    machine = SpattenRtlConfig(kind="spatten-rtl", description="", source="", multipliers=256)
    second = Activity(10**9, 1e9)
    for report, share in ((evaluate(second, table), 1), (evaluate(second, table, machine), 0.5)):
        assert report.energy_j_by_part["leakage"] == pytest.approx(0.1 * share)
        assert report.area_mm2_by_module == pytest.approx({"unit": 2 * share})


@pytest.mark.parametrize("kind", ["dynamic", "static", "area"])
def test_entries_err_together_only_in_one_group(kind: str, tmp_path: Path) -> None:
    """Two entries, each a symmetric triangle of half-width 1 around 2."""
    rows = {
        "dynamic": "counter: {0}_macs, part: logic, unit: MAC, pj: 2",
        "static": "name: {0}, mw: 2",
        "area": "name: {0}, mm2: 2",
    }

    def spread(group: str) -> float:
        entries = "\n".join(
            f"  - {{{rows[kind].format(name)}, low: 1, high: 3, source: a{group}}}"
            for name in ("qk", "pv")
        )
        text = f"description: t\nsource: t\nnode_nm: 40\n{kind}:\n{entries}\n"
        (tmp_path / "t.yaml").write_text(text)
        table = load(EnergyTable, str(tmp_path / "t.yaml"), "energy")
        counters = {"qk_macs": 10**12, "pv_macs": 10**12}
        report = evaluate(Activity(10**12, 1e9, counters=counters), table)
        return (
            report.area_high_mm2 - report.area_low_mm2
            if kind == "area"
            else report.high_j - report.low_j
        )

    # One triangle has its 5 % quantile at 1 - sqrt(0.1) from the middle; two alike, at twice that.
    together = 4 * (1 - 0.1**0.5)
    # Of two that are drawn apart: from the convolution of their densities.
    density = 1 - np.abs(np.linspace(-1, 1, 2001))
    both = np.cumsum(np.convolve(density, density))
    low, high = np.interp([0.05, 0.95], both / both[-1], np.linspace(-2, 2, len(both)))
    assert spread(", group: x") == pytest.approx(together, rel=0.01)
    assert spread("") == pytest.approx(high - low, rel=0.03)
    assert spread("") < 0.8 * together


def test_a_mac_adds_a_product_of_twice_the_width() -> None:
    parts = [
        library.operation_area_mm2(*unit, 40) for unit in (("int-multiply", 12), ("int-add", 24))
    ]
    assert library.operation_area_mm2(library.MAC, 12, 40) == pytest.approx(sum(parts))
    assert min(parts) > 0
