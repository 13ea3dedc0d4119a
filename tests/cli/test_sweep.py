"""``accelsim sweep``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim import load_results, replay

FILE = """
axes: [{{key: accelerator.channels, values: [8, 16]}}]
sources: [{source}]
metrics: {{latency_s: minimize, area_mm2: minimize}}
"""


@pytest.fixture
def file(tiny_workload: Path, tmp_path: Path) -> Path:
    path = tmp_path / "channels.yaml"
    path.write_text(FILE.format(source=tiny_workload))
    return path


def test_points_are_replays_and_stay_in_the_store(
    file: Path, tiny_workload: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    store = tmp_path / "store"
    words = ["sweep", file, "--out", store]
    document = accelsim(*words, "--json", "-").document("accelsim.sweep/1")
    assert (document["points"], document["failed"]) == (2, 0)
    rows = {row["accelerator.channels"]: row for row in load_results(store).rows}
    for channels, row in rows.items():
        run = replay(tiny_workload, overrides={"channels": channels}, baselines=[])
        assert row["latency_cycles"] == run.metrics["latency_cycles"]
    # Run again: nothing is left to do, and the table is the same.
    again = accelsim(*words).out
    assert f"2 points in {store}: 0 failed" in again
    after = {row["accelerator.channels"]: row for row in load_results(store).rows}
    assert after == rows


def test_a_sweep_of_failures_ends_with_status_1(
    file: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    file.write_text(file.read_text() + "accelerator: mnnfast\n")
    done = accelsim("sweep", file, "--out", tmp_path / "store", status=1)
    assert "error: every point failed" in done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("accelerator.channels", "accelerator.chanels"), "did you mean 'channels'"),
        (("latency_s", "latency"), "latency_s"),
        (("[8, 16]", "[]"), "values"),
    ],
)
def test_refusals(
    change: tuple[str, str],
    message: str,
    file: Path,
    tmp_path: Path,
    accelsim: Callable[..., Any],
) -> None:
    file.write_text(file.read_text().replace(*change))
    refused = accelsim("sweep", file, "--out", tmp_path / "store", status=2)
    assert message in refused.err
    assert "channels.yaml" in refused.err
    assert not (tmp_path / "store").exists()
