"""Search: finds what a sweep would, goes on where it stopped, shares a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accelsim import search
from accelsim.errors import AccelsimError
from accelsim.traces import save_trace, synthetic_trace

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
