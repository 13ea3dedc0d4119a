"""Sweeps and searches that score each policy inside a model: once, and as ``verify`` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from accelsim import search, sweep
from accelsim.cli import main
from accelsim.errors import AccelsimError
from accelsim.exploration import Results
from accelsim.functional.closed_loop import load_model, open_loss, perplexity
from accelsim.policies import load_policy_spec
from accelsim.traces import save_trace, synthetic_trace

SKIP = 8
SPEC = "streaming-llm:selection.budget_fraction=null,selection.sinks=1,selection.budget_tokens="


@pytest.fixture(scope="module")
def folder(tiny_llama: Callable[..., Path]) -> Path:
    folder = tiny_llama(hidden=32, positions=64)
    rng = np.random.default_rng(0)
    windows = {str(i): rng.integers(0, 64, size=40).tolist() for i in range(2)}
    (folder / "ids.json").write_text(json.dumps({"windows": windows}))
    save_trace(synthetic_trace(head_dim=64), folder / "tiny.safetensors")
    return folder


def write(folder: Path, **changes: Any) -> Path:
    section = {
        "model": "./", "text": ["ids.json"], "windows": 2, "skip": SKIP,
    } | changes.pop("closed_loop", {})  # fmt: skip
    content = {
        "sources": ["tiny.safetensors"],
        "policy": "streaming-llm",
        "set": {
            "policy.selection.sinks": 1, "policy.selection.budget_fraction": None,
        },
        "axes": [
            {"key": "policy.selection.budget_tokens", "values": [4, 12, 40]},
            {"key": "accelerator.multipliers", "values": [64, 128]},
        ],
        "closed_loop": section,
        "metrics": ["latency_s", "closed_loop.loss", "closed_loop.score", "closed_loop.reduction"],
    } | changes  # fmt: skip
    path = folder / f"{content.get('kind', 'sweep')}.yaml"
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def by_budget(results: Results, name: str) -> dict[int, set[float]]:
    found: dict[int, set[float]] = {}
    for row in results.rows:
        found.setdefault(row["policy.selection.budget_tokens"], set()).add(row[name])
    return found


def test_scores_are_those_of_a_run_inside_the_model(folder: Path, tmp_path: Path) -> None:
    results = sweep(write(folder), tmp_path / "store")
    assert not results.failed
    assert results.goals == {
        "latency_s": "minimize", "closed_loop.loss": "minimize", "closed_loop.score": "report",
        "closed_loop.reduction": "maximize",
    }  # fmt: skip
    model = load_model(str(folder))
    windows = list(json.loads((folder / "ids.json").read_text())["windows"].values())
    dense = perplexity(model, windows, load_policy_spec("dense"), skip=SKIP)
    for budget, scores in by_budget(results, "closed_loop.score").items():
        own = perplexity(model, windows, load_policy_spec(f"{SPEC}{budget}"), skip=SKIP)
        assert scores == {own.perplexity}
        (loss,) = by_budget(results, "closed_loop.loss")[budget]
        assert loss == pytest.approx(own.perplexity / dense.perplexity - 1, abs=1e-12)
        (reduction,) = by_budget(results, "closed_loop.reduction")[budget]
        assert reduction == pytest.approx(dense.dram_bytes / own.dram_bytes)
    assert by_budget(results, "closed_loop.loss")[40] == {0.0}
    for row in results.rows:
        assert (
            row["closed_loop.loss_low"] <= row["closed_loop.loss"] <= row["closed_loop.loss_high"]
        )
        assert row["closed_loop.dense_score"] == dense.perplexity


def test_each_policy_runs_once_and_a_stopped_sweep_goes_on(folder: Path, tmp_path: Path) -> None:
    # Other tests have not asked for this, and a process keeps what it measured.
    file = write(folder, closed_loop={"skip": SKIP + 1})
    with mock.patch(
        "accelsim.functional.closed_loop.open_loss", side_effect=open_loss
    ) as opened, mock.patch(
        "accelsim.functional.closed_loop._loss.PerplexityLoss.measure", autospec=True,
        side_effect=lambda self, policy: self._loss(policy, self._windows, self._dense),
    ) as measured:  # fmt: skip
        sweep(file, tmp_path / "store")
        assert (opened.call_count, measured.call_count) == (1, 3)
        sweep(file, tmp_path / "store")
        assert (opened.call_count, measured.call_count) == (1, 3)


def test_what_is_scored_is_part_of_a_point(folder: Path, tmp_path: Path) -> None:
    axes = [{"key": "policy.selection.budget_tokens", "values": [4]}]
    one = sweep(write(folder, axes=axes), tmp_path / "store").rows[0]
    other = sweep(write(folder, axes=axes, closed_loop={"windows": 1}), tmp_path / "store").rows[0]
    plain = write(folder, axes=axes, closed_loop={}, metrics=["latency_s"])
    without = json.loads(plain.read_text())
    del without["closed_loop"]
    plain.write_text(json.dumps(without))
    none = sweep(plain, tmp_path / "store").rows[0]
    assert len({one["key"], other["key"], none["key"]}) == 3
    assert "closed_loop.loss" not in none
    assert one["latency_s"] == none["latency_s"]


def test_a_search_minimizes_what_is_lost(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    axes = [{"key": "policy.selection.budget_tokens", "values": [4, 8, 12, 40]}]
    file = write(
        folder, kind="search", axes=axes, sampler="random",
        metrics={"closed_loop.loss": "minimize", "closed_loop.reduction": "maximize"},
        constraints=["closed_loop.loss <= 0.02"],
    )  # fmt: skip
    results = search(file, tmp_path / "store", trials=8)
    assert not results.failed
    for row in results.rows:
        assert row["feasible"] == (row["closed_loop.loss"] <= 0.02)


def test_a_policy_that_cannot_run_inside_fails_alone(folder: Path, tmp_path: Path) -> None:
    axes = [{"key": "policy", "values": ["zero-tprune", "dense"]}]
    results = sweep(write(folder, axes=axes, policy=None, set=None), tmp_path / "store")
    failed = {row["policy"]: row.get("error") for row in results.rows}
    assert failed["dense"] is None
    assert failed["zero-tprune"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"score": "needel"}, "did you mean 'needle'"),
        ({"text": ["gone.txt"]}, "gone.txt: no such file"),
        ({"text": []}, "expected a text file"),
        ({"model": "minilm"}, "Lee task"),
        ({"model": "gone.gguf"}, "gone.gguf: no such file"),
        ({"model": "./gone"}, "./gone: no such file"),
        ({"windows": 0}, "closed_loop.windows"),
        ({"contxt": 3}, "did you mean 'context'"),
        (
            {"score": "needle", "text": ["words.txt"], "context": 65},
            "key 'closed_loop.context' = 65; expected at most 64 tokens, for which ./ has",
        ),
        (
            {"text": ["words.txt"], "window_tokens": 100},
            "key 'closed_loop.window_tokens' = 100; expected at most 64 tokens",
        ),
        ({"score": "needle", "text": ["words.txt"], "model": "./words.txt"}, "closed_loop.model"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, section: dict[str, Any], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (folder / "words.txt").write_text("A city has a number. " * 50)
    for verb in ("sweep", "search"):
        file = write(folder, closed_loop=section, kind=verb)
        with pytest.raises(SystemExit) as stopped:
            main([verb, str(file), "--out", str(tmp_path / "store")])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert str(file) in error


def test_metrics_of_a_model_need_one(folder: Path, tmp_path: Path) -> None:
    file = write(folder)
    content = json.loads(file.read_text())
    del content["closed_loop"]
    file.write_text(json.dumps(content))
    with pytest.raises(AccelsimError, match="expected a section 'closed_loop'"):
        sweep(file, tmp_path / "store")
    content["closed_loop"] = {"model": str(folder), "text": ["ids.json"]}
    content["metrics"] = ["closed_loop.lost"]
    file.write_text(json.dumps(content))
    with pytest.raises(AccelsimError, match=r"did you mean 'closed_loop\.loss'"):
        sweep(file, tmp_path / "store")


def test_a_text_that_changes_during_a_sweep_is_noticed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "more.json"
    copy.write_text((folder / "ids.json").read_text())
    axes = [{"key": "policy.selection.budget_tokens", "values": [4]}]
    file = write(folder, axes=axes, closed_loop={"text": [str(copy)]})

    def change(row: object, done: int, total: int) -> None:
        if row is None:
            copy.write_text((folder / "ids.json").read_text() + " " * 100)

    results = sweep(file, tmp_path / "store", on_point=change)
    (failed,) = results.failed
    assert "has changed" in failed["error"]
