"""What a call takes and gives, as a notebook sees it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import accelsim
from accelsim.cli import cli
from accelsim.errors import AccelsimError
from accelsim.exploration import Request, Results, replay_many
from accelsim.hardware import load_accelerator
from accelsim.traces import load_trace, save_trace, synthetic_trace
from accelsim.workloads import load_benchmark, write_parquet

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


def test_a_workload_in_memory_is_replayed(tmp_path: Path) -> None:
    workload = load_benchmark("bert-base-cola")
    path = tmp_path / "w.parquet"
    write_parquet(workload, path)
    memory, disk = (accelsim.replay(source, baselines=["titan-xp"]) for source in (workload, path))
    assert memory.metrics == disk.metrics
    assert memory.baselines == disk.baselines
    assert memory.manifest["source"] == "bert-base-cola"
    assert memory.area_mm2_by_module
    assert sum(memory.energy_j_by_entry.values()) == pytest.approx(memory.metrics["energy_j"])
    config = load_accelerator("spatten-paper", {"topk.parallelism": 1})
    named = accelsim.replay(workload, overrides={"topk.parallelism": 1}, baselines=[])
    assert accelsim.replay(workload, config, baselines=[]).metrics == named.metrics
    assert named.metrics["latency_cycles"] > memory.metrics["latency_cycles"]


def test_the_digest_of_a_workload_holds_its_numbers_and_not_its_name() -> None:
    workload = load_benchmark("bert-base-cola")
    heads = {**workload.columns, "head": workload["head"][::-1].copy()}
    assert workload.key_indices is not None
    same, other, fewer = (
        replace(workload, name="another"),
        replace(workload, columns=heads),
        replace(workload, key_indices=(*workload.key_indices[:-1], workload.key_indices[-1] + 1)),
    )
    digests = [
        accelsim.replay(each, baselines=[]).manifest["source_sha256"]
        for each in (workload, same, other, fewer)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_workload_in_memory_is_checked() -> None:
    workload = load_benchmark("bert-base-cola")
    more = {**workload.columns, "values": workload["keys"] + 1}
    with pytest.raises(AccelsimError, match=r"bert-base-cola.* values .*at most keys"):
        accelsim.replay(replace(workload, columns=more), baselines=[])
    with pytest.raises(AccelsimError, match="bert-base-cola: a workload already holds"):
        accelsim.replay(workload, policy="dense")


def test_many_runs_are_as_many_rows() -> None:
    workload = load_benchmark("bert-base-cola")
    serial = {"topk.parallelism": 1}
    requests = [Request(workload), Request(workload, overrides=serial), Request(workload)]
    done: list[int] = []
    rows = replay_many(iter(requests), on_done=lambda: done.append(1))
    assert len(done) == len(rows) == 3
    assert rows[0] is rows[2]
    single = accelsim.replay(workload, overrides=serial, baselines=[]).to_row()
    assert single.items() <= rows[1].items()
    pooled = replay_many(requests, "processes", workers=2)
    assert [row["latency_s"] for row in pooled] == [row["latency_s"] for row in rows]
    impossible = Request(workload, "a3-base")
    with pytest.raises(AccelsimError, match=r"bert-base-cola: .*prunes by its own rule"):
        replay_many([impossible])


@pytest.mark.parametrize("source", [3, None, ["a"], {}])
def test_other_sources_are_refused(source: Any) -> None:
    with pytest.raises(AccelsimError, match="expected a file, the name of a benchmark, an Att"):
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


def test_verify_is_that_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(), path)
    words = ["verify", str(path), "--policy", "static-8:quantization.key_bits=6", "--json", "-"]
    printed = json.loads(CliRunner().invoke(cli, words).stdout)
    result = accelsim.verify(path, "static-8:quantization.key_bits=6").to_dict()
    assert {key: printed[key] for key in result} == json.loads(json.dumps(result))
    with pytest.raises(accelsim.AccelsimError, match="did you mean 'rtl'"):
        accelsim.verify(path, datapath="rlt")
