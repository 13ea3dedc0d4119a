"""``accelsim verify``; inside a model it is tested in tests/functional/closed_loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim.functional import run_policy
from accelsim.policies import load_policy
from accelsim.traces import load_trace, save_trace, synthetic_trace


def test_table_json_and_folder(
    tiny_trace: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    words = ["verify", tiny_trace, "--policy", "spatten-full"]
    assert "open loop" in accelsim(*words, "--out", tmp_path / "o").out
    written = json.loads((tmp_path / "o" / "verify.json").read_text())
    assert accelsim(*words, "--json", "-").document("accelsim.verify/1") == written
    trace = load_trace(tiny_trace)
    assert len(written["per_head"]) == trace.num_layers * trace.num_query_heads
    # The datapath drops nothing that the policy keeps.
    kept = run_policy(trace, load_policy("spatten-full")).accuracy["kept_mass"]
    assert written["summary"]["kept_mass"] == pytest.approx(kept)


def test_table_of_many_heads_shows_the_worst(tmp_path: Path, accelsim: Callable[..., Any]) -> None:
    path = tmp_path / "t.safetensors"
    save_trace(synthetic_trace(num_layers=7), path)
    words = ["verify", path, "--policy", "static-8"]
    rows = accelsim(*words, "--json", "-").document("accelsim.verify/1")["per_head"]
    worst = max(rows, key=lambda row: row["relative_output_error"])
    shown = [
        tuple(line.split("│")[:2]) for line in accelsim(*words).out.splitlines() if "│" in line
    ]
    cells = [(layer.strip(), head.strip()) for layer, head in shown]
    assert (str(worst["layer"]), str(worst["head"])) in cells
    assert len(cells) == 12 + 1
    assert f"12 of {len(rows)} heads" in accelsim(*words).out
    every = accelsim(*words, "--all-heads").out
    assert sum("│" in line for line in every.splitlines()) == len(rows) + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--datapath", "rlt"], "did you mean 'rtl'"),
        (["--rounding", "floors"], "did you mean 'floor'"),
        (["--policy", "dense", "--policy", "static-8"], "expected one SOURCE and one --policy"),
    ],
)
def test_refusals(
    words: list[str], message: str, tiny_trace: Path, accelsim: Callable[..., Any]
) -> None:
    assert message in accelsim("verify", tiny_trace, *words, status=2).err
