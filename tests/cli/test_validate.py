"""``accelsim validate``; its suites are tested in tests/validation."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim.validation import SUITES

CASES = Path(__file__).parents[2] / "accelsim" / "validation" / "data" / "dram"


def test_functional(accelsim: Callable[..., Any]) -> None:
    done = accelsim("validate", "functional", "--count", "2", "--json", "-")
    document = done.document()
    assert set(document) >= {"suite", "engine", "cases", "mean_abs_relative_error", "failed"}
    assert document["suite"] == "functional"
    assert document["failed"] == []
    assert document["max_abs_relative_error"] < 1e-6
    # Standard output is the document alone; the verdict goes beside it.
    assert "cases, 0 failed" in done.err


def test_a_missed_bar_is_status_1(tmp_path: Path, accelsim: Callable[..., Any]) -> None:
    """The reference says half of what takes place."""
    with (CASES / "reads_2ch.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:4]
    for row in rows:
        row["total_cycles"] = str(int(row["total_cycles"]) // 2)
    wrong = tmp_path / "wrong.csv"
    with wrong.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = accelsim("validate", "dram", "--cases", wrong, status=1)
    assert "bar MISSED" in done.out
    assert "4 cases" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tming"], "tming"),
        (["timing", "--cases", "none.csv"], "none.csv"),
        (["engines", "--count", "0"], "--count"),
    ],
)
def test_refusals(words: list[str], message: str, accelsim: Callable[..., Any]) -> None:
    assert message in accelsim("validate", *words, status=2).err


def test_help_names_every_suite(accelsim: Callable[..., Any]) -> None:
    shown = accelsim("validate", "--help").out
    assert all(f"  {suite} " in shown for suite in SUITES)
