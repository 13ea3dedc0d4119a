"""Sweeps: the same rows from every executor, and nothing lost when processes die."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelsim import configs, load_results, replay, search, sweep
from accelsim.errors import AccelsimError
from accelsim.exploration import Front, Results
from accelsim.exploration._store import Store, StoreError, read_rows
from accelsim.exploration.metrics import ACCURACY, METRICS
from accelsim.exploration.sweep_file import Plan, SweepConfig, load_file
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
VOLATILE = ("elapsed_s", "finished_at_unix_s", "worker")


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    save_trace(synthetic_trace(head_dim=64), tmp_path / "tiny.safetensors")
    return write(tmp_path / "small.yaml", accelerator="[64, 128, 256, 512]")


def write(path: Path, accelerator: str, extra: str = "") -> Path:
    path.write_text(
        f"""
sources: [tiny.safetensors]
policy: spatten-full
axes:
  - {{key: accelerator.multipliers, values: {accelerator}}}
  - {{key: accelerator.topk.parallelism, values: [1, 8]}}
{extra}
"""
    )
    return path


def lasting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]
    return sorted(kept, key=lambda row: row["key"])


@pytest.mark.slow
def test_executors_give_the_same_rows(sweep_file: Path, tmp_path: Path) -> None:
    runs = {
        name: lasting(sweep(sweep_file, tmp_path / name, name, workers=2).rows)
        for name in ("local", "processes", "dask")
    }
    assert len(runs["local"]) == 8
    assert all(row["status"] == "ok" for row in runs["local"])
    assert runs["local"] == runs["processes"] == runs["dask"]
    assert lasting(load_results(tmp_path / "dask").rows) == lasting(read_rows(tmp_path / "local"))


def test_second_run_runs_nothing(sweep_file: Path, tmp_path: Path) -> None:
    first = sweep(sweep_file, tmp_path / "store").rows
    calls: list[int] = []
    second = sweep(
        sweep_file, tmp_path / "store", on_point=lambda row, done, total: calls.append(done)
    ).rows
    assert calls == [8]
    assert {r["key"]: r["finished_at_unix_s"] for r in first} == {
        r["key"]: r["finished_at_unix_s"] for r in second
    }


def test_a_point_reads_no_configuration_file(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read for a sweep, not for a point: parsing YAML would be most of the overhead."""
    read: list[Path] = []
    original = configs.read_yaml
    monkeypatch.setattr(configs, "read_yaml", lambda path: read.append(path) or original(path))
    counts = []
    for number, multipliers in enumerate(("[64]", "[64, 128, 256, 512]")):
        write(sweep_file, multipliers)
        read.clear()
        assert sweep(sweep_file, tmp_path / str(number)).usable
        counts.append(len(read))
    assert counts[1] <= counts[0]


def test_failures_are_rows(sweep_file: Path, tmp_path: Path) -> None:
    write(sweep_file, "[64, 100]")
    results = sweep(sweep_file, tmp_path / "store")
    assert len(results.failed) == 2
    assert len(results.usable) == 2
    assert "power of two" in results.failed[0]["error"]


def test_constraints_exclude_and_mark(sweep_file: Path, tmp_path: Path) -> None:
    everything = sweep(sweep_file, tmp_path / "all").rows
    middle = sorted(row["latency_s"] for row in everything)[4]
    write(
        sweep_file,
        "[64, 128, 256, 512]",
        f"constraints: ['accelerator.multipliers <= 256', 'latency_s <= {middle!r}']",
    )
    results = sweep(sweep_file, tmp_path / "all")
    assert results.excluded == 2
    assert len(results.rows) == 6
    assert {r["feasible"] for r in results.rows} == {True, False}
    assert all(r["latency_s"] <= middle for r in results.pareto())


def test_a_reported_figure_that_no_module_has_names_the_nearest(
    sweep_file: Path, tmp_path: Path
) -> None:
    write(sweep_file, "[64]", "metrics: {modules.fetchr.busy_cycles: report}")
    with pytest.raises(AccelsimError, match=r"no metric or key .*; did you mean 'modules\.fetcher"):
        sweep(sweep_file, tmp_path / "store")


def test_the_largest_number_may_be_derived(sweep_file: Path) -> None:
    write(sweep_file, "[64]", "derived: {memory.rows: '1e18'}")
    plan = Plan(*load_file(SweepConfig, str(sweep_file)))
    chosen = next(plan.settings(plan.config.sampling))
    assert chosen["memory.rows"] == 10**18


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("axis: 1", "unknown key 'axis'; did you mean 'axes'"),
        ("constraints: ['latncy_s < 1']", "no metric or key 'latncy_s'; did you mean 'latency_s'"),
        ("constraints: ['__import__(1)']", "unknown function '__import__'"),
        ("set: {memory.inflight_limits: 2}", "did you mean 'inflight_limit'"),
        ("set: {policy.tokens.mean_kep: 0.5}", "did you mean 'mean_keep'"),
        ("sampling: {method: random}", "needs 'samples'"),
        ("accelerator: spaten-paper", "did you mean 'spatten-paper'"),
        (
            "metrics: {latency_s: minimize, accuracy.relative_output_eror: minimize}",
            "did you mean 'accuracy.relative_output_error'",
        ),
        ("constraints: [accuracy.mean_k < 1]", "did you mean 'accuracy.mean_kl'"),
        ("constraints: ['1 / latncy_s > 2 and energy_j < 3']", "did you mean 'latency_s'"),
        ("constraints: ['accelerator.multiplers < 3']", "did you mean 'multipliers'"),
        ("metrics: {key: minimize}", "no metric or key 'key'"),
        ("metrics: {source: minimize}", "no metric or key 'source'"),
        ("metrics: {streamed_cycles: minimize}", "no metric or key 'streamed_cycles'"),
        (
            "derived: {accelerator.fetch_channels: 2 * acelerator.multipliers}",
            "'acelerator.multipliers' is neither an axis nor in 'set'",
        ),
        ("derived: {accelerator.channels: 2 * latency_s}", "'latency_s' is neither an axis"),
        (
            "derived: {accelerator.channels: ceil(1e300) * accelerator.multipliers}",
            "derived.accelerator.channels",
        ),
        (
            "derived: {accelerator.channels: 1e18 * accelerator.multipliers}",
            "derived.accelerator.channels': expected a number up to 1e+18, got 6.4e+19",
        ),
        (f"constraints: ['latency_s < {'9' * 50 + '0' * 260}']", "expected numbers up to 1e+300"),
        ("set: {source: x}", "give it as 'sources'"),
        ("derived: {source: accelerator.multipliers}", "'source' takes names, got 64"),
        ("set: {memory: 1}", "'memory' takes names, got 1"),
        ("set: {memory.rows: .nan}", "'memory.rows': expected numbers up to 1e+18, got nan"),
        ("set: {memory.rows: .inf}", "'memory.rows': expected numbers up to 1e+18, got inf"),
    ],
)
def test_mistakes_name_file_and_remedy(
    sweep_file: Path, tmp_path: Path, extra: str, message: str
) -> None:
    write(sweep_file, "[64]", extra)
    ran: list[Any] = []
    with pytest.raises(AccelsimError, match=r"\S") as caught:
        sweep(sweep_file, tmp_path / "store", on_point=lambda *told: ran.append(told[0]))
    assert message in str(caught.value)
    assert "small.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    # Before any point has run, and before there is a store.
    assert not ran
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("values: [.inf]", "axis 'accelerator.channels': expected numbers up to 1e+18, got inf"),
        ("values: [1, -.inf]", "got -inf"),
        ("values: [.nan]", "got nan"),
        ("values: [{a: [.nan]}]", "got nan"),
        (f"values: [{'9' * 30}]", "got 1e+30"),
        ("values: [!!set {a}]", "tag '!!set' is not allowed"),
        ("values: [!!binary AAAA]", "tag '!!binary' is not allowed"),
        ("values: [{1: a, b: 2}]", "all words or all whole numbers"),
        ("range: {from: 1, to: 10, step: 4}", "do not end at 'to' 10, but at 9 or 13"),
        ("range: {from: 0, to: 1, step: 0.3}", "but at 0.9 or 1.2"),
        ("range: {from: 0.2, to: 0.8}, integer: true", "no whole number from 0.2 to 0.8"),
        (
            "range: {from: 0, to: 1e300}",
            "key 'axes.1.range.to': expected less than",
        ),
        ("range: {from: yes, to: 4}", "expected a valid number, got true"),
        ("log_range: {from: 0, to: 4, points: 3}", "needs 'from' above 0"),
    ],
)
def test_values_that_no_point_can_have(
    sweep_file: Path, tmp_path: Path, axis: str, message: str
) -> None:
    old = "accelerator.topk.parallelism, values: [1, 8]"
    sweep_file.write_text(sweep_file.read_text().replace(old, f"accelerator.channels, {axis}"))
    with pytest.raises(AccelsimError) as caught:
        sweep(sweep_file, tmp_path / "store")
    assert message in str(caught.value)
    assert "small.yaml" in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "axis",
    [
        "{key: source, values: [1]}",
        "{key: source, values: [null]}",
        "{key: memory, values: [[flat]]}",
        "{key: accelerator, values: [true]}",
        "{key: policy, range: {from: 0, to: 1, step: 1}}",
    ],
)
def test_names_are_texts(sweep_file: Path, tmp_path: Path, axis: str) -> None:
    text = sweep_file.read_text()
    sweep_file.write_text(text.replace("axes:", f"axes:\n  - {axis}"))
    with pytest.raises(AccelsimError, match=r"takes (names, got|'values')"):
        sweep(sweep_file, tmp_path / "store")


def test_a_source_with_a_name_too_long_is_a_failed_point(sweep_file: Path, tmp_path: Path) -> None:
    axis = f"{{key: source, values: [tiny.safetensors, {'x' * 300}]}}"
    write(sweep_file, "[64]")
    sweep_file.write_text(sweep_file.read_text().replace("axes:", f"axes:\n  - {axis}"))
    results = sweep(sweep_file, tmp_path / "store")
    assert len(results.failed) == 2
    assert len(results.usable) == 2
    assert all(len(row["error"]) <= 300 for row in results.failed)


def test_dates_are_texts_that_no_field_takes(sweep_file: Path, tmp_path: Path) -> None:
    write(sweep_file, "[2024-01-01, 64]")
    results = sweep(sweep_file, tmp_path / "store")
    assert len(results.failed) == 2
    assert "expected a valid integer, got '2024-01-01'" in results.failed[0]["error"]


def test_a_workload_has_no_accuracy(sweep_file: Path, tmp_path: Path) -> None:
    write(sweep_file, "[64]", "metrics: {latency_s: minimize, accuracy.mean_kl: minimize}")
    text = sweep_file.read_text().replace("tiny.safetensors", "bert-base-cola")
    sweep_file.write_text(text.replace("policy: spatten-full", ""))
    with pytest.raises(AccelsimError, match=r"'accuracy\.mean_kl': a workload has no accuracy"):
        sweep(sweep_file, tmp_path / "store")


def test_a_benchmark_is_a_source(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    axes = "[{key: accelerator.channels, values: [8, 16]}, {key: source, values: [bert-base-rte]}]"
    file.write_text(f"sources: [bert-base-cola]\naxes: {axes.partition(', {key: source')[0]}]\n")
    first = sweep(file, tmp_path / "s").usable
    assert [Path(row["source"]).stem for row in first] == ["bert-base-cola"] * 2
    file.write_text(f"sources: [bert-base-cola]\naxes: {axes}\n")
    second = sweep(file, tmp_path / "s").usable
    assert [row["source"] for row in second] == ["bert-base-rte"] * 2


def test_a_goal_that_nothing_measures_is_told(sweep_file: Path, tmp_path: Path) -> None:
    write(sweep_file, "[64]", "set: {memory: flat}\nmetrics: {row_hit_rate: maximize}")
    with pytest.raises(AccelsimError, match="no point has 'row_hit_rate'"):
        sweep(sweep_file, tmp_path / "store")
    # What ran is kept.
    assert len(read_rows(tmp_path / "store")) == 2


def test_a_key_may_be_a_metric(sweep_file: Path, tmp_path: Path) -> None:
    write(sweep_file, "[64, 128]", "metrics: {latency_s: minimize, accelerator.channels: report}")
    results = sweep(sweep_file, tmp_path / "store")
    assert {row["accelerator.channels"] for row in results.rows} == {16}


def test_names_of_metrics_are_those_of_a_result(sweep_file: Path) -> None:
    trace = sweep_file.parent / "tiny.safetensors"
    rows = [replay(trace, accelerator=name, baselines=[]).to_row()
            for name in ("spatten-paper", "a3-base")]  # fmt: skip
    found = {name for row in rows for name in row if "." not in name}
    assert found | {"fc_macs"} == set(METRICS)  # that only a machine of whole layers has
    figures = {name for row in rows for name in row if name.startswith("accuracy.")}
    assert figures == {*ACCURACY, "accuracy.mode"}


def test_the_message_of_an_invalid_point_is_of_now(sweep_file: Path, tmp_path: Path) -> None:
    machine = tmp_path / "hw.yaml"
    write(sweep_file, "[100]", "accelerator: hw.yaml")
    machine.write_text("extends: spatten-paper\n")
    assert "power of two" in sweep(sweep_file, tmp_path / "s").failed[0]["error"]
    machine.write_text("extends: spatten-paper\nchannels: 3\nkey_prefetch_depth: 9\n")
    (error,) = {row["error"] for row in sweep(sweep_file, tmp_path / "s").failed}
    assert "value_prefetch_depth" in error or "channels" in error or "multipliers" in error
    machine.write_text("extends: spatten-rtl\n")
    (error,) = {row["error"] for row in sweep(sweep_file, tmp_path / "s").failed}
    assert "multiple of 64" in error


def test_files_are_looked_for_beside_the_sweep_first(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for place, channels in ((tmp_path, 8), (folder, 4)):
        (place / "hw.yaml").write_text(f"extends: spatten-paper\nchannels: {channels}\n")
        (place / "p.yaml").write_text(f"description: {place.name}\n")
        (place / "m.yaml").write_text(f"extends: flat\nflat_latency: {channels}\n")
    write(sweep_file, "[64]", "accelerator: hw.yaml\nset: {memory: m.yaml}")
    sweep_file.write_text(sweep_file.read_text().replace("spatten-full", "p.yaml"))
    monkeypatch.chdir(folder)
    row = sweep(sweep_file, tmp_path / "store").rows[0]
    assert json.loads(row["config.accelerator"])["channels"] == 8
    assert json.loads(row["config.memory"])["flat_latency"] == 8
    assert json.loads(row["config.policy"])["description"] == tmp_path.name


def start(sweep_file: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "accelsim", "sweep", str(sweep_file), "--out", str(store)]
    return subprocess.Popen(
        [*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(store: Path) -> int:
    return len(read_rows(store)) if (store / "store.json").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_sigkill_loses_only_points_in_flight(
    sweep_file: Path, tmp_path: Path, executor: str
) -> None:
    write(sweep_file, str([64 * n for n in (1, 2, 4, 8)]), "sampling: {method: grid}")
    sweep_file.write_text(
        sweep_file.read_text().replace("values: [1, 8]", "range: {from: 1, to: 40, step: 1}")
    )
    store = tmp_path / "store"
    process = start(sweep_file, store, "--executor", executor)
    while finished(store) < 5 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {row["key"]: row["finished_at_unix_s"] for row in read_rows(store)}
    assert 5 <= len(kept) < 160
    rows = sweep(sweep_file, store).rows
    assert len(rows) == 160
    assert all(row["status"] == "ok" for row in rows)
    times = {row["key"]: row["finished_at_unix_s"] for row in rows}
    assert kept.items() <= times.items(), "a stored point was run again"
    assert not list(store.glob("journal-*"))


@pytest.mark.slow
def test_two_processes_share_a_store(sweep_file: Path, tmp_path: Path) -> None:
    both = [start(sweep_file, tmp_path / "store") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    rows = read_rows(tmp_path / "store")
    assert len(rows) == 8
    assert lasting(rows) == lasting(read_rows_of_fresh(sweep_file, tmp_path))


def read_rows_of_fresh(sweep_file: Path, tmp_path: Path) -> list[dict[str, Any]]:
    sweep(sweep_file, tmp_path / "fresh")
    return read_rows(tmp_path / "fresh")


@pytest.mark.slow
def test_dask_worker_killed_in_mid_run(sweep_file: Path, tmp_path: Path) -> None:
    """A real scheduler and two worker processes on loopback; one dies."""
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    try:
        killed: list[int] = []

        def on_point(row: dict[str, Any] | None, done: int, total: int) -> None:
            if row is not None and not killed:
                killed.append(int(row["worker"].rpartition(":")[2]))
                os.kill(killed[0], signal.SIGKILL)

        results = sweep(
            sweep_file,
            tmp_path / "dask",
            "dask",
            scheduler=cluster.scheduler_address,
            on_point=on_point,
        )
    finally:
        cluster.close()
    assert killed
    assert lasting(results.rows) == lasting(sweep(sweep_file, tmp_path / "local").rows)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_a_point_that_hangs_is_given_up(tmp_path: Path, executor: str) -> None:
    """No point meets the limit, so each attempt is ended from outside the interpreter."""
    save_trace(synthetic_trace(head_dim=64), tmp_path / "tiny.safetensors")
    file = write(tmp_path / "hang.yaml", "[64]")
    sweep(file, tmp_path / "warm")  # compiles
    results = sweep(file, tmp_path / "store", executor, workers=1, point_timeout_s=1e-4)
    assert len(results.failed) == 2
    assert "over the limit of 0.0001 s" in results.failed[0]["error"]
    generous = sweep(
        file, tmp_path / "store", executor, workers=1, retry_failed=True, point_timeout_s=300
    )
    assert not generous.failed


@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_a_script_without_a_main_guard_is_told(
    sweep_file: Path, tmp_path: Path, executor: str
) -> None:
    script = tmp_path / "script.py"
    out = tmp_path / "out"
    script.write_text(
        f"import accelsim\naccelsim.sweep({str(sweep_file)!r}, {str(out)!r}, {executor!r}, 2)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode
    assert f"AccelsimError: executor '{executor}'" in done.stderr
    assert "if __name__ == '__main__'" in done.stderr.splitlines()[-1]


def test_a_limit_needs_a_process_to_end(sweep_file: Path, tmp_path: Path) -> None:
    with pytest.raises(AccelsimError, match="--point-timeout goes with"):
        sweep(sweep_file, tmp_path / "store", point_timeout_s=1.0)


def test_read_only_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=r"cannot be opened for writing \(Read-only file system"):
        Store(tmp_path / "store")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=12),
)
def test_live_front_is_the_final_one(points: list[tuple[int, int, bool]]) -> None:
    goals = {"a": "minimize", "b": "maximize", "c": "report"}
    rows = [{"key": str(i), "status": "ok" if ok else "failed", "a": a, "b": b}
            for i, (a, b, ok) in enumerate(points)]  # fmt: skip
    front = Front(goals)
    for row in rows:
        front.add(row)
    results = Results(rows, goals=goals)
    assert front.size == len(results.pareto())
    for name in ("a", "b"):
        best = results.best(name)
        assert front.best.get(name) == (None if best is None else best[name])


def test_full_disk_says_so(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: both cut a write short."""
    script = (
        "import resource, signal, sys; from accelsim.exploration._store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = Store(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "for i in range(1000): store.append({'key': str(i), 'status': 'ok', 'x': 'y' * 100})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "StoreError" in run.stderr
    assert "finished points are safe" in run.stderr
    kept = read_rows(tmp_path / "store")
    assert [row["key"] for row in kept] == [str(i) for i in range(len(kept))]
    assert len(kept) > 10


def test_a_store_is_a_folder(sweep_file: Path) -> None:
    with pytest.raises(StoreError, match=r"small\.yaml: is a file; expected a folder"):
        sweep(sweep_file, sweep_file)


def test_sweeps_and_searches_send_to_each_other(sweep_file: Path, tmp_path: Path) -> None:
    with pytest.raises(AccelsimError, match="is a sweep; run it with 'accelsim sweep'"):
        search(sweep_file, tmp_path / "s")
    with pytest.raises(AccelsimError, match="is a search; run it with 'accelsim search'"):
        sweep("codesign", tmp_path / "s")


def test_store_refuses_foreign_folders(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="neither empty nor a result store"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "thesis.tex" / "store")
    with pytest.raises(StoreError, match="not a result store"):
        read_rows(tmp_path)


def test_a_journal_that_parquet_refuses_stops_nobody(tmp_path: Path) -> None:
    """Whatever JSON a dead writer left: the store opens, and the rows of others are kept."""
    with Store(tmp_path / "s") as store:
        store.append({"key": "good", "status": "ok", "x": 1})
    lines = [
        {"key": "a", "status": "ok", "source_path": "x\udcff", "column \udcff": 1},
        {"key": "b", "status": "ok", "x": {"deep": [1, "\ud800"]}, "y": [1, "a", None]},
        {"key": "c", "status": "ok", "x": 10**400, "y": 2**64},
        {"key": "d", "status": "ok", "x": True, "y": float("inf")},
        {"key": 7, "status": "ok"},
        {"key": "no status"},
        ["no row"],
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "s" / "journal-dead.jsonl").write_text(text + '\n\x00\n{"key": "torn')
    for _ in range(2):
        Store(tmp_path / "s").close()
    assert sorted(row["key"] for row in read_rows(tmp_path / "s")) == ["a", "b", "c", "d", "good"]
    assert not list((tmp_path / "s").glob("journal-*"))


def test_a_row_with_any_text_is_stored(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append({"key": "a", "status": "failed", "error": "caf\udce9"})
    assert read_rows(tmp_path / "s")[0]["error"] == "caf\\udce9"


def test_a_source_whose_name_is_not_utf8(sweep_file: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors")
    os.link(tmp_path / "tiny.safetensors", odd)
    with pytest.raises(AccelsimError, match="not UTF-8; rename the file"):
        sweep(sweep_file, tmp_path / "store", sources=[odd])
    assert sweep(sweep_file, tmp_path / "store").usable


def test_store_merges_parts_and_torn_journals(tmp_path: Path) -> None:
    for index in range(20):
        with Store(tmp_path / "s") as store:
            store.append(
                {"key": f"{index:02}", "status": "ok", "value": index if index % 2 else 0.5}
            )
    (tmp_path / "s" / "journal-dead.jsonl").write_text(
        json.dumps({"key": "99", "status": "ok"}) + '\n{"key": "98", "stat'
    )
    Store(tmp_path / "s").close()
    keys = sorted(row["key"] for row in read_rows(tmp_path / "s"))
    assert keys == [*(f"{index:02}" for index in range(20)), "99"]
    assert len(list((tmp_path / "s").glob("part-*"))) <= 17


def test_what_is_only_reported_does_not_make_another_study(sweep_file: Path) -> None:
    write(sweep_file, accelerator="[64]", extra="metrics: {latency_s: minimize, energy_j: report}")
    plan = Plan(*load_file(SweepConfig, str(sweep_file)))
    assert plan.identity()["metrics"] == {"latency_s": "minimize"}
