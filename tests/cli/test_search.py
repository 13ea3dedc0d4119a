"""``accelsim search``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

FILE = """
kind: search
axes: [{{key: accelerator.channels, values: [8, 16]}}]
sources: [{source}]
trials: 2
sampler: random
metrics: {{latency_s: minimize}}
"""


def test_trials_are_kept_and_the_best_is_shown(
    tiny_workload: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    file, store = tmp_path / "find.yaml", tmp_path / "store"
    file.write_text(FILE.format(source=tiny_workload))
    words = ["search", file, "--out", store]
    document = accelsim(*words, "--trials", "4", "--json", "-").document("accelsim.sweep/1")
    assert document["failed"] == 0
    assert 1 <= document["points"] <= 2  # two points there are
    (best,) = document["pareto"]
    again = accelsim(*words, "--trials", "4").out  # nothing is left to try
    assert f"{document['points']} points in {store}: 0 failed" in again
    assert f"{best['latency_s']:.4g}" in again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kind: search", "kind: serch"), "serch"),
        (("sampler: random", "sampler: rondom"), "sampler"),
        (("trials: 2", "trials: yes"), "trials"),
    ],
)
def test_refusals(
    change: tuple[str, str],
    message: str,
    tiny_workload: Path,
    tmp_path: Path,
    accelsim: Callable[..., Any],
) -> None:
    file = tmp_path / "find.yaml"
    file.write_text(FILE.format(source=tiny_workload).replace(*change))
    refused = accelsim("search", file, "--out", tmp_path / "store", status=2)
    assert message in refused.err
    assert not (tmp_path / "store").exists()
