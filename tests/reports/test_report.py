"""Reports of results, comparisons and stores: the numbers, and nothing trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import accelsim
from accelsim.cli import main
from accelsim.errors import AccelsimError
from accelsim.exploration._store import Store
from accelsim.reports.interactive import page_of, report
from accelsim.reports.interactive._names import heading, unit_of
from accelsim.reports.interactive._sensitivity import explained

EVIL = "<script>alert(1)</script>|`</script>"


def result(**changes: Any) -> dict[str, Any]:
    document = {
        "schema": "accelsim.result/1",
        "metrics": {
            "latency_cycles": 123457,
            "latency_s": 0.000123457,
            "dram_read_bytes": 7654321,
            "dram_write_bytes": 4321,
            "macs": 5000000,
            "energy_j": 0.00151,
            "energy_j_low": 0.001,
            "energy_j_high": 0.002,
        },
        "dram_read_bytes_by_tensor": {"query": 100, "key_msb": 7654221},
        "energy_j_by_part": {"dram": 0.001, "logic": 0.00051},
        "accuracy": {"mode": "open-loop", "relative_output_error": 0.25},
        "modules": {"topk": {"busy_cycles": 3, "stall_cycles": {"no_scores": 123454}}},
        "baselines": {"gpu/tuned": {"latency_s": 1.0, "speedup": 8100.0, "energy_ratio": 7.0}},
        "per_layer": [{"layer": 0, "relative_output_error": 0.25}],
        "policy_read_bytes_by_head": [
            {"layer": 0, "head": 1, "key_msb": 8, "key_lsb": 4, "value": 2}
        ],
        "warnings": [],
        "manifest": {
            "source": "t.safetensors",
            "configs": {"energy": {"dynamic": [{"counter": "macs", "pj": 1.5, "source": "Me"}]}},
        },
    }
    return document | changes


def saved(folder: Path, document: Any) -> Path:
    path = folder / "result.json"
    path.write_text(json.dumps(document))
    return path


def point(key: int, **columns: Any) -> dict[str, Any]:
    return {"key": f"{key:064x}", "status": "ok", **columns}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    with Store(folder) as opened:
        for n, (lanes, keep) in enumerate([(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]):
            axes = {"accelerator.lanes": lanes, "policy.keep": keep, "source": f"{EVIL}{lanes}"}
            metrics = {"latency_s": 8e-6 / lanes + keep * 1e-6, "energy_j": 1e-3 * keep + 1e-5 * n}
            opened.append(point(n, **axes, **metrics))
        failed = {"key": "f" * 64, "status": "failed", "error": EVIL, "accelerator.lanes": 3}
        opened.append(failed)
    return folder


def test_a_result_has_every_chart_and_its_constants_have_sources(tmp_path: Path) -> None:
    page = page_of(saved(tmp_path, result()))
    assert [chart.title for chart in page.charts] == [
        "Roofline",
        "Stall breakdown",
        "Traffic by tensor",
        "Traffic by layer and head",
        "Energy by part",
        "Speedup over baselines",
        "Energy ratio over baselines",
        "Output error by layer",
    ]
    tables = {table.title: table for table in page.tables}
    assert ["latency_s (s)", 0.000123457] in tables["Metrics"].rows
    assert tables["Sources of constants"].rows == [["energy", "dynamic.macs", "pj=1.5", "Me", ""]]


@pytest.mark.slow
def test_a_real_result_with_every_baseline_is_read(tmp_path: Path) -> None:
    """What a replay writes, a report reads: intervals, flags and the machine that was measured."""
    found = accelsim.replay("bert-base-cola")
    (tmp_path / "result.json").write_text(found.to_json())
    assert page_of(tmp_path / "result.json").charts
    found.baselines["measured/numpy"] = {"kind": "measured", "machine": {"device": "cpu"}}
    (tmp_path / "result.json").write_text(found.to_json())
    assert page_of(tmp_path / "result.json").charts


def test_roofline_is_operations_over_all_bytes(tmp_path: Path) -> None:
    roofline = page_of(saved(tmp_path, result())).charts[0]
    (drawn,) = roofline.spec["layer"][1]["data"]["values"]
    assert drawn["x"] == pytest.approx(10_000_000 / 7658642)
    assert drawn["y"] == pytest.approx(10_000_000 / 0.000123457)


def test_a_store_shows_front_worth_points_and_failures(store: Path) -> None:
    page = page_of(store)
    tables = {table.title: table for table in page.tables}
    front = [row[0] for row in tables["Points"].rows if row[2] == "yes"]
    assert [key[-1] for key in front] == ["0"] * len(front)
    assert len(front) == 2  # slower with less energy, faster with more
    assert len(tables["Points"].rows) == 5
    assert tables["Failures"].rows[0][1] == EVIL
    worth = {
        (axis, metric): share for axis, metric, share, _ in tables["What each axis is worth"].rows
    }
    assert worth["accelerator.lanes", "latency_s"] > 0.9
    assert worth["policy.keep", "energy_j"] > 0.9
    assert ("source", "latency_s") in worth


def test_objectives_can_be_chosen_and_maximized(store: Path) -> None:
    rows = {t.title: t for t in page_of(store, ["latency_s:maximize"]).tables}["Points"].rows
    (front,) = [row for row in rows if row[2] == "yes"]
    assert front[front.index("ok") + 2 :]  # the slowest: one lane, everything kept
    assert front[0] == f"{1:064x}"[:12]
    with pytest.raises(AccelsimError, match="did you mean 'latency_s'"):
        page_of(store, ["latency"])


def test_explained_variance_of_known_tables() -> None:
    assert explained([1, 1, 2, 2], [1.0, 1.0, 3.0, 3.0]) == (1.0, 3.0)
    share, ratio = explained(["a", "b", "a", "b"], [1.0, 1.0, 3.0, 3.0])
    assert (share, ratio) == (0.0, 1.0)
    many = [x / 100 for x in range(100)]
    share, _ = explained(many, many)
    assert 0.9 < share < 1.0  # in five groups, so what is inside them is not explained


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("latency_s", "s"),
        ("dram_read_bytes_per_s", "B/s"),
        ("dense_equivalent_op_per_s", "op/s"),
        ("energy_j_by_part.dram", "J"),
        ("area_mm2_low", "mm²"),
        ("modules.topk.stall_cycles.idle", "cycles"),
        ("baselines.titan-xp/roofline.speedup", "×"),
        ("row_hit_rate", ""),
        ("accuracy.relative_output_error", ""),
    ],
)
def test_units(name: str, unit: str) -> None:
    assert unit_of(name) == unit
    assert heading(name) == (f"{name} ({unit})" if unit else name)


@pytest.mark.parametrize("kind", ["html", "md", "svg"])
def test_text_from_files_is_escaped(tmp_path: Path, store: Path, kind: str) -> None:
    document = result(
        warnings=[EVIL],
        modules={EVIL: {"busy_cycles": 1}},
        energy_j_by_part={EVIL: 1.0},
        manifest={"source": EVIL, EVIL: EVIL, "configs": {EVIL: {"source": EVIL, "name": EVIL}}},
    )
    for source in (saved(tmp_path, document), store):
        text = report(source, tmp_path / f"out.{kind}").read_text()
        assert "<script>alert" not in text
        assert "alert(1)" in text


def test_png_and_markdown_hold_the_result(tmp_path: Path) -> None:
    source = saved(tmp_path, result())
    assert report(source, tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    text = report(source, tmp_path / "r.md").read_text()
    assert "| latency\\_cycles (cycles) | 123,457 |" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected a document of schema"),
        ('{"schema": "accelsim.compare/1", "results": {}}', "expected a document of schema"),
        ('{"schema": "accelsim.result/1"}', "key 'metrics': field required"),
        (json.dumps(result(metrics={"latency_s": "fast"})), "key 'metrics.latency_s"),
        (json.dumps(result(metrics={"latency_s": float("nan")})), "is not JSON"),
    ],
)
def test_bad_documents_end_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    source = tmp_path / "bad.json"
    source.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["report", str(source), "--out", str(tmp_path / "x.html")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.html").exists()


def test_the_target_is_checked_first(tmp_path: Path, store: Path) -> None:
    with pytest.raises(AccelsimError, match=r"ends in \.html"):
        report(store, tmp_path / "x.pdf")
    with pytest.raises(AccelsimError, match="folder does not exist"):
        report(store, tmp_path / "none" / "x.html")
