"""What the demo states, and what it says of a folder that it cannot write.

Its numbers are checked where the wheel runs it (tests/test_wheel.py).
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from accelsim.cli import main
from accelsim.reports._demo import DEMO_STEPS, loss_of

ROOT = Path(__file__).parents[2]


def test_stated_losses_are_the_measured_ones() -> None:
    with (ROOT / "docs/tuning/smollm2.csv").open(encoding="utf-8") as table:
        (row,) = [row for row in csv.DictReader(table) if row["name"] == "tova-smollm2-1pct"]
    stated = loss_of("tova-smollm2-1pct")
    for name in ("loss", "loss_low", "loss_high", "held_out_loss"):
        assert f"{100 * float(row[name]):.2f}" in stated
    assert loss_of("spatten-full").startswith("Loss +68 %")
    assert loss_of("dense") == ""


def test_progress_and_a_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert DEMO_STEPS == 6
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["demo", "--out", str(tmp_path / "file" / "x")])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
