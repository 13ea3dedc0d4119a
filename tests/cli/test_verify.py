"""``accelsim verify``; inside a model it is tested in tests/functional/closed_loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim.functional import run_policy
from accelsim.policies import load_policy
from accelsim.traces import load_trace


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
