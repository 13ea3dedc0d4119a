"""``accelsim reproduce``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from accelsim import replay
from accelsim.reproduction import FIGURES, Figure, Row
from accelsim.reproduction._runs import Job, Outcome


def test_rows_files_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelsim: Callable[..., Any]
) -> None:
    """A figure of one point, which `replay` gives too."""
    job = Job("bert-base-cola")

    def rows(outcomes: Mapping[Job, Outcome]) -> list[Row]:
        return [Row("latency", 1e6 * outcomes[job].seconds, 20.0, "µs")]

    monkeypatch.setitem(FIGURES, "small", Figure("small", "One point", "none", (job,), rows))
    words = ["reproduce", "--only", "small", "--workers", "1", "--out", tmp_path]
    document = accelsim(*words, "--json", "-").document("accelsim.reproduction/1")
    assert list(document["figures"]) == ["small"]
    (row,) = document["figures"]["small"]["rows"]
    alone = replay("bert-base-cola", baselines=[]).metrics["latency_s"]
    assert row["ours"] == pytest.approx(1e6 * alone)
    assert row["ratio"] == pytest.approx(row["ours"] / 20)
    assert json.loads((tmp_path / "reproduction.json").read_text()) == document
    assert "latency" in (tmp_path / "output.txt").read_text()
    assert (tmp_path / "small.svg").read_text().startswith("<?xml")
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(accelsim: Callable[..., Any]) -> None:
    assert "did you mean 'ladder'" in accelsim("reproduce", "--only", "lader", status=2).err
    assert "--workers" in accelsim("reproduce", "--workers", "0", status=2).err


def test_help_names_every_figure(accelsim: Callable[..., Any]) -> None:
    shown = accelsim("reproduce", "--help").out.replace(",", " ").replace(".", " ")
    assert set(FIGURES) <= set(shown.split())


@pytest.mark.slow
def test_design_space_is_figure_19(tmp_path: Path, accelsim: Callable[..., Any]) -> None:
    words = ["reproduce", "--only", "design-space", "--workers", "2", "--out", tmp_path]
    rows = accelsim(*words, "--json", "-").document()["figures"]["design-space"]["rows"]
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"] / rows[0]["theirs"])
    assert (tmp_path / "design-space.svg").stat().st_size > 1000
    # SpAtten Fig. 19: more comparators help up to 16, hardly beyond.
    rates = [row["ours"] for row in rows[:6]]
    assert rates[0] < rates[1] < rates[2] < rates[3] < rates[4]
    assert rates[5] == pytest.approx(rates[4], rel=0.1)
