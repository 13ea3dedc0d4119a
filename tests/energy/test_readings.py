"""Two readings of SRAM and arithmetic, for every machine alike; two totals, and their ranges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.cli import main
from accelsim.configs import load, preset_names
from accelsim.energy import (
    ACCESSES,
    READINGS,
    EnergyReport,
    EnergyTable,
    across_readings,
    evaluate,
    operation_area_mm2,
    operation_leak_mw,
    operation_pj,
    sram,
)
from accelsim.errors import ConfigError
from accelsim.exploration import ablate, diff, replay
from accelsim.hardware import accelerator_of, load_accelerator
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.counters import by_name
from accelsim.reports import comparison
from accelsim.traces import save_trace, synthetic_trace

MACHINES = preset_names("accelerators")
ON_CHIP = [name for name in preset_names("energy") if not name.startswith("dram-")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readings") / "small.safetensors"
    trace = synthetic_trace(seed=3, num_layers=2, head_dim=64, prefill_tokens=24, decode_tokens=2)
    save_trace(trace, path)
    return path


def test_the_foundry_library_is_table_one_of_a3() -> None:
    # HPCA 2020, Table I: 2.901 mW, 0.987 mW, 0.350 mm2 for 20 KB; 14.338 mW for 64 multipliers.
    row = sram(20480, 72, 40, "foundry")
    assert (row.read_pj, row.leak_mw, row.area_mm2) == pytest.approx((2.901, 0.987, 0.350))
    assert row.read_pj / 72 == pytest.approx(0.0403, abs=1e-4)
    assert 64 * operation_pj("int-mac", 9, 40, "foundry") == pytest.approx(14.338, rel=1e-3)
    assert 64 * operation_leak_mw("int-mac", 9, 40, "foundry") == pytest.approx(1.265, rel=1e-3)
    assert 64 * operation_area_mm2("int-mac", 9, 40, "foundry") == pytest.approx(0.098, rel=1e-3)
    both = 32 * operation_pj("compare", 23, 40, "foundry")
    assert both == pytest.approx(2.055, rel=1e-3)


def test_a3_under_foundry_is_its_own_table_one() -> None:
    table = load(EnergyTable, "a3-40nm", "energy").under("foundry")
    assert sum(table.module_mm2(entry)[1] for entry in table.area) == pytest.approx(2.082, abs=2e-3)
    leak = sum(table.static_mw(entry)[1] for entry in table.static)
    assert leak == pytest.approx(11.502, abs=5e-3)
    pj = {entry.counter: table.dynamic_pj(entry)[1] for entry in table.dynamic}
    # A cycle at full rate: dot product, output, exponent, both SRAMs (dynamic mW of Table I).
    cycle = 64 * (pj["qk_macs"] + pj["pv_macs"]) + pj["exponentials"]
    assert cycle == pytest.approx(14.338 + 50.918 + 0.224, rel=2e-3)
    assert 72 * pj["key_sram_read_bytes"] == pytest.approx(2.901)
    assert pj["candidate_iterations"] == 19.48
    assert 2 * pj["sorted_key_reads"] == pytest.approx(6.1)


def test_other_sizes_lines_and_nodes_keep_the_foundry_s_ratio_to_cacti() -> None:
    for size, line, node in ((8192, 64, 40), (196608, 128, 40), (16384, 64, 28), (20480, 72, 45)):
        foundry, cacti = sram(size, line, node, "foundry"), sram(size, line, node)
        for field in ("read_pj", "leak_mw", "area_mm2"):
            anchor = getattr(sram(20480, 72, 40, "foundry"), field)
            ratio = anchor / getattr(sram(20480, 72, 40), field)
            assert getattr(foundry, field) == pytest.approx(ratio * getattr(cacti, field))


def test_a_mac_is_a_multiply_and_an_add_where_no_table_prints_it() -> None:
    for name in ("horowitz", "aladdin"):
        parts = (("int-multiply", 12), ("int-add", 24))
        both = sum(operation_pj(op, bits, 40, name) for op, bits in parts)
        assert operation_pj("int-mac", 12, 40, name) == pytest.approx(both)
    # Width goes by its square, from A3's 9 bit.
    nine, twelve = (operation_pj("int-mac", bits, 40, "foundry") for bits in (9, 12))
    assert twelve == pytest.approx(nine * (12 / 9) ** 2)


@pytest.mark.parametrize("name", ON_CHIP)
def test_the_value_of_each_reading_is_inside_the_range_of_the_other(name: str) -> None:
    table = load(EnergyTable, name, "energy")
    for reading in READINGS:
        other = table.under(reading)
        for entry in table.dynamic:
            low, value, high = other.dynamic_pj(entry)
            assert low <= value <= high
            assert low <= table.dynamic_pj(entry)[1] <= high
        for static in table.static:
            low, _, high = other.static_mw(static)
            assert low <= table.static_mw(static)[1] <= high
        for module in table.area:
            low, _, high = other.module_mm2(module)
            assert low <= table.module_mm2(module)[1] <= high


def test_every_machine_has_one_default_reading() -> None:
    names = {load_accelerator(name).energy for name in MACHINES}
    assert {load(EnergyTable, name, "energy").reading_name for name in names} == {"cacti"}


def test_readings_have_names() -> None:
    def name(table: str, **fields: Any) -> str:
        return load(EnergyTable, table, "energy", fields).reading_name

    assert name("spatten-40nm", reading="foundry") == "foundry"
    assert name("spatten-40nm-aladdin") == "cacti, aladdin arithmetic"
    assert name("mnnfast") == "own"
    assert load(EnergyTable, "mnnfast", "energy").under("foundry").reading_name == "own"


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        ("mnnfast", {"reading": "foundry"}, "no entry has 'terms' of the library"),
        ("spatten-40nm-aladdin", {"reading": "foundry"}, "brings arithmetic of its own"),
        ("spatten-40nm", {"reading": "fundry"}, "expected 'cacti' or 'foundry'"),
    ],
)
def test_a_reading_that_a_table_does_not_have_is_refused(
    table: str, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(EnergyTable, table, "energy", fields)


def test_a_result_names_its_reading_and_both_totals(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for reading in READINGS:
        files[reading] = str(tmp_path / f"{reading}.json")
        main(
            ["replay", str(source), "--set", f"energy.reading={reading}", "--json", files[reading]]
        )
        shown = capsys.readouterr().out
        line = next(text for text in shown.splitlines() if text.strip().startswith("reading "))
        assert line.split()[-1] == reading
        assert "in neither total: clock" in shown
        document = json.loads(Path(files[reading]).read_text())
        assert document["manifest"]["energy_reading"] == reading
        energy, metrics = document["energy"], document["metrics"]
        assert energy["reading"] == reading
        assert energy["totals"]["everything"]["energy_j"] == metrics["energy_j"]
        assert energy["totals"]["accesses"]["energy_j"] == metrics["energy_accesses_j"]
        assert metrics["energy_accesses_j"] < metrics["energy_j"]
        parts = document["energy_j_by_part"]
        assert sum(parts.values()) == pytest.approx(metrics["energy_j"])
        assert sum(energy["power_w_by_part"].values()) == pytest.approx(metrics["average_power_w"])
        assert sum(document["area_mm2_by_module"].values()) == pytest.approx(metrics["area_mm2"])
        assert "clock tree" in energy["left_out"]
    main(["diff", files["cacti"], files["foundry"]])
    captured = capsys.readouterr()
    assert "energies and areas are of different readings (cacti; foundry)" in captured.err
    assert "energy_j" in captured.out
    assert diff(files["cacti"], files["cacti"])["notes"] == []


def test_a_table_of_results_marks_several_readings(source: Path) -> None:
    results = {
        reading: replay(source, overrides={"energy.reading": reading}, baselines=[])
        for reading in READINGS
    }
    rows = {label: cells for part in comparison(results) for label, cells in part.rows}
    assert rows["reading"] == ["cacti", "foundry"]
    assert any(label.startswith("energies and areas are of different readings") for label in rows)
    alone = comparison({"cacti": results["cacti"]})
    labels = [label for part in alone for label, _ in part.rows]
    assert not any("different readings" in label for label in labels)
    assert across_readings(["cacti", None, "cacti"]) == ""


def test_an_ablation_across_readings_is_marked(source: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        "extends: spatten-40nm\ndescription: t\nreading: foundry\n"
    )
    (tmp_path / "machine.yaml").write_text(
        "extends: spatten-paper\ndescription: t\nenergy: other.yaml\n"
    )
    found = ablate("spatten-paper", str(tmp_path / "machine.yaml"), source)
    assert "different readings (cacti; foundry)" in found.note
    assert found.to_dict()["notes"] == [found.note]
    assert not ablate("spatten-paper-serial", "spatten-paper", source, order=()).note


COUNTS = st.dictionaries(
    st.sampled_from(sorted(c.name for c in accelerator_of("spatten").declared if c.charged)),
    st.integers(0, 10**9),
    max_size=8,
)


def report(counts: dict[str, int], cycles: int, reading: str, memory: str) -> EnergyReport:
    machine = load_accelerator("spatten-paper")
    table = load(EnergyTable, machine.energy, "energy").under(reading)  # type: ignore[arg-type]
    stored = {name: n for name, n in counts.items() if not name.endswith("_bits")}
    activity = Activity(cycles, 1e9, {"value": counts.get("dram_read_bits", 0)}, counters=stored)
    return evaluate(activity, table, machine, load(MemoryConfig, memory, "memories"))


@settings(max_examples=40, deadline=None)
@given(
    COUNTS,
    st.integers(1, 10**7),
    st.sampled_from(READINGS),
    st.sampled_from(["hbm2-nominal", "hbm3", "ddr4", "gddr6"]),
)
def test_totals_are_sums_of_parts_and_inside_their_ranges(
    counts: dict[str, int], cycles: int, reading: str, memory: str
) -> None:
    found = report(counts, cycles, reading, memory)
    parts = found.energy_j_by_part
    assert math.isclose(sum(parts.values()), found.total_j)
    assert math.isclose(sum(found.energy_j_by_entry.values()), found.total_j, rel_tol=1e-9)
    assert math.isclose(sum(parts[part] for part in ACCESSES), found.accesses_j)
    assert 0 <= found.accesses_j <= found.total_j
    assert found.low_j <= found.total_j <= found.high_j
    assert found.accesses_low_j <= found.accesses_j <= found.accesses_high_j
    # In the same draws, power only adds.
    assert found.accesses_low_j <= found.low_j
    assert found.accesses_high_j <= found.high_j
    assert math.isclose(found.average_power_w, sum(found.power_w_by_part.values()))


def test_background_power_is_in_one_total_and_has_no_convention_in_its_range() -> None:
    idle = report({}, 10**6, "cacti", "hbm2-nominal")
    assert idle.accesses_j == idle.accesses_high_j == 0
    background = idle.energy_j_by_part["dram_background"]
    assert background == pytest.approx(16 * 0.1175 * 1e-3)
    assert idle.low_j >= background


@pytest.mark.parametrize("name", MACHINES)
def test_every_charged_counter_of_a_machine_has_a_line(name: str) -> None:
    machine = load_accelerator(name)
    memory = load(MemoryConfig, machine.memory, "memories")
    tables = [machine.energy, f"dram-{memory.technology}"]
    priced = {
        entry.counter for table in tables for entry in load(EnergyTable, table, "energy").dynamic
    }
    declared = by_name(accelerator_of(machine.kind).declared).values()
    charged = {counter.name for counter in declared if counter.charged}
    assert charged - {"dram_io_bits"} <= priced
