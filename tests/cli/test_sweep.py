"""``accelsim sweep``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim import load_results, replay
from accelsim.cli.sweep import show
from accelsim.exploration import Results

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


def test_long_names_are_whole_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty points of a front with long names, on a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    names = ["policy.quantization.msb_bits_of_each_layer", "accuracy.relative_output_error_of_all"]
    value = "a-policy-file-with-a-very-long-name-that-says-what-it-is.yaml"
    rows = [
        {"key": str(n), "status": "ok", "policy": value, names[0]: n, names[1]: 20.0 - n}
        for n in range(20)
    ]
    goals = dict.fromkeys(names, "minimize")
    show(Results(rows, ["policy"], goals, tmp_path / "my store"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].replace("┃", "").split() == ["policy", *names]
    assert [line.replace("│", "").split() for line in lines[3:15]] == [
        [value, str(n), f"{20 - n}"] for n in range(12)
    ]
    assert lines[15] == f"… and 8 more: accelsim report '{tmp_path}/my store'"


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
