"""The trace that Perfetto loads, and the picture: the same spans, in the documented format."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accelsim import replay
from accelsim.cli import main
from accelsim.exploration import RunResult
from accelsim.reports import timeline_figure, trace_events, write_timeline
from accelsim.reports._timeline import _CNAMES
from accelsim.workloads import Workload, write_parquet

CHROME = {
    "thread_state_uninterruptible", "thread_state_iowait", "thread_state_running",
    "thread_state_runnable", "thread_state_sleeping", "thread_state_unknown",
    "background_memory_dump", "light_memory_dump", "detailed_memory_dump",
    "vsync_highlight_color", "generic_work", "good", "bad", "terrible", "black", "grey", "white",
    "yellow", "olive", "rail_response", "rail_animation", "rail_idle", "rail_load", "startup",
    "heap_dump_stack_frame", "heap_dump_object_type", "heap_dump_child_node_arrow",
    "cq_build_running", "cq_build_passed", "cq_build_failed", "cq_build_abandoned",
    "cq_build_attempt_runnig", "cq_build_attempt_passed", "cq_build_attempt_failed",
}  # fmt: skip
"""Reserved names of Chrome's trace viewer."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timeline") / "stream.parquet"
    rows = {
        "keys": [120] * 6, "values": [40] * 6, "key_bits": [8] * 6, "value_bits": [8] * 6,
        "refetch_lsb": [True, False] * 3, "key_lsb_bits": [4] * 6, "layer": [0, 0, 0, 1, 1, 1],
        "head": [0, 1, 2] * 2,
    }  # fmt: skip
    write_parquet(Workload.from_columns(rows, name="stream"), path)
    return path


@pytest.fixture(scope="module", params=["event", "cycle"])
def result(request: pytest.FixtureRequest, source: Path) -> RunResult:
    return replay(
        source, "spatten-rtl-eighth", engine=request.param, baselines=[], timeline=(None, None)
    )


def spans_of(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group complete events by the name that the metadata gives their track."""
    names = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in document["traceEvents"]
        if e["ph"] == "M" and e["name"] == "thread_name"
    }
    tracks: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for event in document["traceEvents"]:
        if event["ph"] == "X":
            tracks[names[event["pid"], event["tid"]]].append(event)
    return tracks


def test_follows_the_trace_event_format(result: RunResult, tmp_path: Path) -> None:
    assert result.timeline is not None
    write_timeline(tmp_path / "t.json", result.timeline, result.manifest)
    document = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert document == json.loads(json.dumps(trace_events(result.timeline, result.manifest)))
    assert document["displayTimeUnit"] in ("ms", "ns")
    other = document["otherData"]
    assert "µs" in other["ts_unit"]
    assert other["core_clock_hz"] == 1e9
    assert other["total_cycles"] == result.metrics["latency_cycles"]
    assert other["manifest"]["source_sha256"] == result.manifest["source_sha256"]
    kinds = {event["ph"] for event in document["traceEvents"]}
    assert kinds == {"X", "M"}
    for event in document["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            continue
        assert isinstance(event["tid"], int)
        assert event["cname"] in CHROME
        # Cut to nanoseconds as Perfetto does; a cycle is one.
        assert int(event["ts"] * 1e3) == event["args"]["start_cycle"]
        assert int(event["dur"] * 1e3) == event["args"]["cycles"] > 0
    assert set(_CNAMES) <= CHROME
    assert len(set(_CNAMES)) == len(_CNAMES)


def test_tracks_do_not_overlap_and_add_up(result: RunResult) -> None:
    assert result.timeline is not None
    tracks = spans_of(trace_events(result.timeline))
    assert [n for n in tracks if n.startswith("DRAM")] == ["DRAM channel 0", "DRAM channel 1"]
    assert set(tracks) - {"DRAM channel 0", "DRAM channel 1"} == set(result.modules)
    for name, events in tracks.items():
        for before, after in pairwise(events):
            assert int(before["ts"] * 1e3) + int(before["dur"] * 1e3) <= int(after["ts"] * 1e3)
        if name not in result.modules:
            continue
        cycles: dict[str, int] = {}
        for event in events:
            state = event["args"].get("waiting_for", "busy")
            assert event["cat"] == ("busy" if state == "busy" else "stall")
            cycles[state] = cycles.get(state, 0) + event["args"]["cycles"]
        module = result.modules[name]
        assert cycles.pop("busy", 0) == module["busy_cycles"]
        assert cycles == {k: v for k, v in module["stall_cycles"].items() if k != "idle"}
    reads = sum(e["args"]["reads"] for n in tracks if n.startswith("DRAM") for e in tracks[n])
    assert reads == result.activity.counters["dram_reads"]


def test_names_are_those_of_the_work(result: RunResult) -> None:
    assert result.timeline is not None
    tracks = spans_of(trace_events(result.timeline))
    names = {e["name"] for e in tracks["qk_unit"] if e["cat"] == "busy"}
    assert names == {f"L{i} H{j} keys MSB" for i in (0, 1) for j in (0, 1, 2)} | {
        "L0 H0 keys LSB", "L0 H2 keys LSB", "L1 H1 keys LSB",
    }  # fmt: skip
    colors: dict[str, set[str]] = {}
    for events in tracks.values():
        for event in events:
            if "waiting_for" in event["args"]:
                assert event["name"] == event["args"]["waiting_for"].replace("_", " ")
                colors.setdefault(event["name"], set()).add(event["cname"])
    assert all(len(found) == 1 for found in colors.values())
    assert len({c for found in colors.values() for c in found}) > 3


def test_the_picture_shows_the_same_spans(result: RunResult, tmp_path: Path) -> None:
    timeline = result.timeline
    assert timeline is not None
    figure = timeline_figure(timeline, "six requests", requests=2)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(timeline.tracks)
    assert "cycles" in axes.get_xlabel()
    assert axes.get_title() == "six requests"
    left, right = axes.get_xlim()
    # The first two requests are over, the last are not.
    assert result.activity.completion_cycles[1] - 5 <= right < result.metrics["latency_cycles"]
    starts = timeline.spans[:, 1]
    shown = int(((starts >= left) & (starts < right)).sum())
    assert sum(len(c.get_paths()) for c in axes.collections) == shown
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert "awaiting keys" in legend
    for name in ("t.svg", "t.png"):
        write_timeline(tmp_path / name, timeline)
        assert (tmp_path / name).stat().st_size > 10_000


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["replay", str(source), "--accelerator", "spatten-rtl-eighth", "--baseline", "titan-xp"]
    target, folder = tmp_path / "t.json", tmp_path / "out"
    main([*words, "--timeline", str(target), "--timeline-window", "100:600", "--out", str(folder)])
    assert "spans" in capsys.readouterr().err
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["otherData"]["window_cycles"] == [100, 600]
    spans = [e for e in document["traceEvents"] if e["ph"] == "X"]
    assert min(e["args"]["start_cycle"] for e in spans) == 100
    assert max(e["args"]["start_cycle"] + e["args"]["cycles"] for e in spans) == 600
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "The first requests, module by module" in page
    main([*words, "--out", str(folder)])
    assert "module by module" not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timeline", "t.json", "--timeline-window", "9:3"], "0 <= START < END"),
        (["--timeline", "t.json", "--timeline-window", "x:3"], "expected START:END"),
        (["--timeline", "t.json", "--timeline-window", "99999999:"], "the run ends at cycle"),
        (["--timeline", "t.txt"], "expected a name that ends in .json"),
        (["--timeline", "no/such/t.json"], "cannot be written"),
        (["--timeline-window", "0:10"], "needs --timeline"),
        (["--timeline", "t.json", "--accelerator", "spatten-e2e"], "records no timeline"),
    ],
)
def test_bad_input(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(source), *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
