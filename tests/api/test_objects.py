"""What a call takes and gives, as a notebook sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accelsim
from accelsim.errors import AccelsimError
from accelsim.exploration import Results
from accelsim.traces import load_trace, save_trace, synthetic_trace

LINE = 200


def test_a_trace_in_memory_is_replayed(tmp_path: Path) -> None:
    trace = synthetic_trace(num_layers=2)
    path = tmp_path / "t.safetensors"
    save_trace(trace, path, np.float32)
    memory = accelsim.replay(trace, policy="spatten-full", baselines=[])
    disk = accelsim.replay(path, policy="spatten-full", baselines=[])
    assert memory.metrics == disk.metrics
    assert memory.accuracy == disk.accuracy
    assert memory.manifest["source"] == "(in memory)"
    assert memory.manifest["source_sha256"] == disk.manifest["source_sha256"]


def test_a_loaded_trace_is_what_runs_and_not_its_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=1), path)
    trace = load_trace(path)
    same = accelsim.replay(trace, policy="spatten-full", baselines=[])
    assert same.metrics == accelsim.replay(path, policy="spatten-full", baselines=[]).metrics
    assert same.manifest["source"] == str(path)
    sharper = replace(trace, scale=8 * trace.scale)
    other = accelsim.compare(sharper, ["spatten-full"], baselines=[])["spatten-full"]
    assert other.accuracy != same.accuracy


@pytest.mark.parametrize("source", [3, None, ["a"], {}])
def test_other_sources_are_refused(source: Any) -> None:
    with pytest.raises(AccelsimError, match="expected a file, the name of a benchmark or an Att"):
        accelsim.replay(source)


def test_results_are_short_to_print() -> None:
    trace = synthetic_trace(num_layers=1)
    both = accelsim.compare(trace, ["dense", "h2o"], baselines=[])
    text = repr(both["dense"])
    assert len(text) < LINE
    assert "\n" not in text
    for word in ("RunResult", "on spatten", " s", "B read", "J", "error"):
        assert word in text
    assert len(repr(both)) < 3 * LINE
    assert "h2o" in repr(both)
    for table in (both._repr_html_(), both["h2o"]._repr_html_()):
        assert table.startswith("<table>")
        assert len(table) < 5000
        assert "latency" in table
    assert both._repr_html_().count("<th>h2o</th>") == 1


def test_names_are_escaped_in_tables() -> None:
    result = accelsim.replay(synthetic_trace(num_layers=1), baselines=[])
    odd = replace(result, manifest=result.manifest | {"source": "<b>.csv"})
    assert "<b>" not in odd._repr_html_()
    points = Results([{"status": "ok", "a<b": "<i>"}], axes=["a<b"])
    assert "<i>" not in points._repr_html_()


def test_points_are_short_to_print() -> None:
    rows = [{"status": "ok", "a": n, "config.accelerator": "x" * 1000} for n in range(500)]
    points = Results([*rows, {"status": "failed", "a": 1}], axes=["a"])
    assert repr(points) == "Results(501 points, 1 failed over a)"
    assert points._repr_html_().count("<tr>") == 21
