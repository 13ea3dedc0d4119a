"""docs/accelerators/your-own.md, followed literally: its files, its commands, its result."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accelsim.cli import main
from accelsim.configs import config_root
from accelsim.errors import ConfigError, InvariantError
from accelsim.exploration import replay
from accelsim.hardware import (
    _registry,
    accelerator_kinds,
    accelerator_of,
    load_accelerator,
    machines,
    register_accelerator,
)
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
DRAW = runpy.run_path(str(ROOT / "docs" / "accelerators" / "draw.py"))
FILES: dict[str, str] = DRAW["page_files"]()
TRACE = synthetic_trace(seed=6, num_layers=4, head_dim=64, prefill_tokens=120, decode_tokens=3)
PAGE = (ROOT / "docs/accelerators/your-own.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "small.safetensors"
    save_trace(TRACE, path)
    return path


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped presets and those of the page."""
    shutil.copytree(config_root(), tmp_path / "hw_configs")
    for name, text in FILES.items():
        if name.endswith(".yaml"):
            (tmp_path / "hw_configs" / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("ACCELSIM_CONFIGS", str(tmp_path / "hw_configs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine of the page, registered or as a file beside the others."""
    presets = request.getfixturevalue("presets")
    (presets / "vector_unit.py").write_text(FILES["vector_unit.py"], encoding="utf-8")
    monkeypatch.setattr(_registry, "_REGISTERED", {})
    if request.param == "registered":
        module = runpy.run_path(str(presets / "vector_unit.py"))
        register_accelerator("vector-unit", module["ACCELERATOR"])
    else:
        monkeypatch.setattr(machines, "__path__", [*machines.__path__, str(presets)])
        _registry._modules.cache_clear()
    yield
    monkeypatch.undo()
    _registry._modules.cache_clear()


WAYS = pytest.mark.parametrize("machine", ["registered", "a file"], indirect=True)


def test_the_page_is_short_enough() -> None:
    assert set(FILES) == {
        "vector_unit.py", "accelerators/vector-unit.yaml", "energy/vector-unit-45nm.yaml",
        "pyproject.toml",
    }  # fmt: skip
    assert 60 <= len(FILES["vector_unit.py"].splitlines()) <= 140


@WAYS
def test_every_verb_knows_it(
    machine: None, presets: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "vector-unit" in accelerator_kinds()
    common = ["--accelerator", "vector-unit"]
    main(["replay", str(source), *common, "--policy", "spatten-full", "--out", "out",
          "--json", "r.json", "--timeline", "unit.json"])  # fmt: skip
    main(["replay", str(source), *common, "--timeline", "unit.svg"])
    assert (presets / "unit.svg").read_text(encoding="utf-8").count("<svg") == 1
    result = json.loads((presets / "r.json").read_text(encoding="utf-8"))
    spans = json.loads((presets / "unit.json").read_text(encoding="utf-8"))["traceEvents"]
    for name, module in result["modules"].items():
        total = module["busy_cycles"] + sum(module["stall_cycles"].values())
        assert total == result["metrics"]["latency_cycles"], name
    assert {e["args"]["name"] for e in spans if e["name"] == "thread_name"} == {
        "loader", "vector_unit", "DRAM channel 0", "DRAM channel 1"
    }  # fmt: skip
    assert "vector_unit" in (presets / "out/report.html").read_text(encoding="utf-8")
    (presets / "lanes.yaml").write_text(
        "kind: sweep\ndescription: lanes\naccelerator: vector-unit\npolicy: dense\n"
        f"sources: [{source}]\n"
        "axes: [{key: accelerator.lanes, values: [64, 256]}]\nmetrics: {latency_s: minimize}\n"
    )
    main(["sweep", "lanes.yaml", "--out", "store"])
    main(["report", "store", "--out", "front.html"])
    assert "lanes" in (presets / "front.html").read_text(encoding="utf-8")


@WAYS
def test_policies_change_its_bytes_and_lanes_its_time(
    machine: None, presets: Path, source: Path
) -> None:
    def run(policy: str, **overrides: Any) -> Any:
        return replay(source, "vector-unit", policy, overrides=overrides, baselines=[])

    dense, static, full = (run(p) for p in ("static-12", "static-8", "spatten-full"))
    for tensor in ("key_msb", "value"):
        read = [r.dram_read_bytes_by_tensor[tensor] for r in (dense, static, full)]
        assert read[1] == pytest.approx(read[0] * 8 / 12, rel=0.01)
        assert read[2] < read[1]
    lsbs = run("spatten-full", **{"policy.quantization.threshold": 1.0})
    assert lsbs.dram_read_bytes_by_tensor["key_lsb"] > 0
    assert lsbs.activity.counters["qk_macs"] > full.activity.counters["qk_macs"]
    slow = run("static-12", lanes=16)
    assert slow.metrics["latency_cycles"] > 4 * dense.metrics["latency_cycles"]
    assert slow.activity.queues["heads"].depth == slow.activity.queues["heads"].high_water == 2
    unit = slow.activity.modules["vector_unit"]
    assert unit.operations == slow.metrics["macs"]
    assert unit.peak_operations_per_cycle == 16
    energy = slow.energy_j_by_part
    assert energy["logic"] == pytest.approx(
        2e-12 * slow.metrics["macs"]
        + 3.7e-12 * slow.activity.counters["exponentials"]
        + 0.072e-12 * slow.activity.counters["lane_register_bytes"]
    )
    assert slow.activity.counters["lane_register_bytes"] > 0
    # Leakage grows with a size of its own.
    for result, lanes in ((slow, 16), (dense, 256)):
        watts = result.energy_j_by_part["leakage"] / result.metrics["latency_s"]
        assert watts == pytest.approx(0.173e-3 * lanes)


@pytest.fixture
def package(tmp_path: Path, source: Path, install: Callable[..., None]) -> Path:
    """A folder that a package of the machine was installed into, as pip leaves it."""
    (tmp_path / "vector_unit.py").write_text(FILES["vector_unit.py"], encoding="utf-8")
    accelerator = FILES["accelerators/vector-unit.yaml"]
    accelerator = accelerator.replace("vector-unit-45nm", "vector-unit-45nm.yaml")
    (tmp_path / "vector-unit.yaml").write_text(accelerator, encoding="utf-8")
    (tmp_path / "vector-unit-45nm.yaml").write_text(ENERGY, encoding="utf-8")
    group, _ = FILES["pyproject.toml"].splitlines()
    assert group == '[project.entry-points."accelsim.accelerators"]'
    install(tmp_path, "vector-unit", FILES["pyproject.toml"])
    (tmp_path / "test_own.py").write_text(
        "from accelsim.testing import AcceleratorContract\n\n\n"
        "class TestVectorUnit(AcceleratorContract):\n"
        '    accelerator = "vector-unit.yaml"\n'
    )
    shutil.copy(source, tmp_path / "small.safetensors")
    return tmp_path


Run = Callable[..., subprocess.CompletedProcess[str]]
REPLAY = ("-m", "accelsim", "replay", "small.safetensors", "--accelerator", "vector-unit.yaml")


def test_a_package_with_an_entry_point_works_in_every_verb_and_worker(
    package: Path, python_in: Run
) -> None:
    found = python_in(package, *REPLAY, "--json", "r.json")
    assert found.returncode == 0, found.stderr
    record = json.loads((package / "r.json").read_text(encoding="utf-8"))
    assert record["metrics"]["latency_cycles"] > 0
    (package / "s.yaml").write_text(
        "sources: [small.safetensors]\naccelerator: vector-unit.yaml\npolicy: dense\n"
        "axes: [{key: accelerator.lanes, values: [64, 256]}]\n"
    )
    sweep = ("-m", "accelsim", "sweep", "s.yaml", "--out", "store", "--executor", "processes")
    found = python_in(package, *sweep)
    assert found.returncode == 0, found.stderr
    assert "2 points" in found.stdout
    assert "0 failed" in found.stdout
    found = python_in(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own.py")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name\n", "cannot be imported (No module named "),
        ("ACCELERATOR = 3\n", "vector_unit:ACCELERATOR is of type int; expected an Accelerator"),
    ],
)
def test_a_broken_package_is_one_line(package: Path, python_in: Run, text: str, said: str) -> None:
    (package / "vector_unit.py").write_text(text)
    found = python_in(package, *REPLAY)
    assert found.returncode == 2
    assert len(found.stderr.strip().splitlines()) == 1
    told = "vector-unit.yaml: key 'kind': entry point 'vector-unit' of package 'vector-unit'"
    assert told in found.stderr
    assert said in found.stderr


ENERGY = FILES["energy/vector-unit-45nm.yaml"]


@WAYS
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lane_register_bytes", "lane_register_byte", "did you mean 'lane_register_bytes'"),
        ("pj: 0.072, unit: byte", "pj: 0.072, unit: bit", "counts in units of 'byte'"),
        ("per: lane", "per: lanes", "unknown size 'lanes'; did you mean 'lane'?"),
        ("per: lane", "per: softmax_lane", "'vector-unit' declares: machine, multiplier, "),
    ],
)
def test_an_energy_table_that_does_not_fit_is_refused_in_one_line(
    machine: None,
    presets: Path,
    source: Path,
    old: str,
    new: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ENERGY.count(old) == 1
    (presets / "wrong.yaml").write_text(ENERGY.replace(old, new), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["replay", str(source), "--accelerator", "vector-unit", "--set",
              "energy=wrong.yaml", "--json", "r.json"])  # fmt: skip
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert "energy table 'wrong.yaml': key '" in said
    assert len(said) <= 310
    assert not (presets / "r.json").exists()


@WAYS
def test_what_is_counted_must_be_declared(
    machine: None, presets: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FILES["vector_unit.py"].replace("counters=Lanes.counters", "counters=(QK_MACS, PV_MACS)")
    assert text != FILES["vector_unit.py"]
    (presets / "silent.py").write_text(text, encoding="utf-8")
    silent = runpy.run_path(str(presets / "silent.py"))["ACCELERATOR"]
    monkeypatch.setitem(_registry._REGISTERED, "vector-unit", silent)
    overrides = {"energy": str(presets / "no-lanes.yaml")}
    lines = [line for line in ENERGY.splitlines() if "lane_register" not in line]
    (presets / "no-lanes.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InvariantError, match="counter 'exponentials' is not declared"):
        replay(source, "vector-unit", "dense", overrides=overrides, baselines=[])


@WAYS
def test_a_machine_that_forgets_the_lsb_plane_is_refused(
    machine: None, presets: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FILES["vector_unit.py"].replace('if w["refetch_lsb"] else 0', "* 0")
    assert text != FILES["vector_unit.py"]
    (presets / "forgets.py").write_text(text, encoding="utf-8")
    forgets = runpy.run_path(str(presets / "forgets.py"))["ACCELERATOR"]
    monkeypatch.setitem(_registry._REGISTERED, "vector-unit", forgets)
    overrides = {"policy.quantization.threshold": 1.0}
    with pytest.raises(InvariantError, match="bytes of key_lsb were fetched; the decisions name"):
        replay(source, "vector-unit", "spatten-full", overrides=overrides, baselines=[])


@WAYS
def test_errors_name_file_and_key(machine: None, presets: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lanes'"):
        load_accelerator("vector-unit", {"lane": 3})
    with pytest.raises(ConfigError, match=r"vector-unit.*lanes"):
        load_accelerator("vector-unit", {"lanes": 0})


@pytest.mark.slow
def test_the_result_on_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_REGISTERED", {})
    monkeypatch.chdir(ROOT)
    assert DRAW["put"](PAGE, "result", DRAW["own_result"]()) == PAGE


@pytest.mark.parametrize("page", sorted(DRAW["PAGES"]))
def test_diagrams_are_up_to_date(page: str) -> None:
    text = (ROOT / "docs/accelerators" / page).read_text(encoding="utf-8")
    assert DRAW["put"](text, "diagram", DRAW["diagram"](DRAW["PAGES"][page])) == text


def test_the_table_of_blocks_is_complete() -> None:
    """Every block file and every module of a drawn machine has a line; files exist."""
    page = (ROOT / "docs/accelerators/blocks.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")][1:]
    files = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row[3])}
    hardware = ROOT / "accelsim/hardware"
    assert all((hardware / name).is_file() for name in files)
    blocks = {f"blocks/{path.name}" for path in (hardware / "blocks").glob("[a-z]*.py")}
    assert blocks <= files
    named = {name for row in rows for name in re.findall(r"^ `(\w+)`", row[4])}
    for preset in DRAW["PAGES"].values():
        text = DRAW["diagram"](preset)
        modules = set(re.findall(r"^  (\w+)\[", text, re.M)) - {"DRAM"}
        assert modules <= named, preset
    for row in rows:
        for block in re.findall(r"`(\w+)`", row[2]):
            sources = [(hardware / f).read_text(encoding="utf-8") for f in
                       re.findall(r"`([\w/]+\.py)`", row[3])]  # fmt: skip
            assert any(f"class {block}" in text for text in sources), block


def test_a_kind_without_wiring_has_no_diagram(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(accelerator_of("mnnfast"), wiring=None)
    monkeypatch.setattr(_registry, "_module", lambda name: type("M", (), {"ACCELERATOR": bare}))
    with pytest.raises(ValueError, match="kind 'mnnfast' tells no wiring"):
        DRAW["diagram"]("mnnfast")
