"""``accelsim diff``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def results(tiny_trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results of one trace that differ in a multiplier count."""
    from accelsim import replay

    folder = tmp_path_factory.mktemp("diff")
    for name, multipliers in (("a", 512), ("b", 64)):
        result = replay(tiny_trace, overrides={"multipliers": multipliers}, baselines=[])
        (folder / f"{name}.json").write_text(result.to_json())
    return folder


def test_what_changed(results: Path, accelsim: Callable[..., Any]) -> None:
    words = ["diff", results / "a.json", results / "b.json"]
    document = accelsim(*words, "--json", "-").document("accelsim.diff/1")
    change = document["configuration"]["accelerator.multipliers"]
    assert change == {"a": 512, "b": 64, "ratio": 0.125}
    assert document["numbers"]["latency_cycles"]["ratio"] > 1
    shown = accelsim(*words).out
    assert "accelerator.multipliers: 512 → 64  (0.125×)" in shown
    assert "versions: nothing changed" in shown


def test_of_one_with_itself_is_empty(results: Path, accelsim: Callable[..., Any]) -> None:
    shown = accelsim("diff", results / "a.json", results / "a.json").out
    assert shown.count("nothing changed") == 3


def test_refusals(results: Path, tiny_trace: Path, accelsim: Callable[..., Any]) -> None:
    refused = accelsim("diff", results / "a.json", results / "none.json", status=2)
    assert "none.json" in refused.err
    refused = accelsim("diff", results / "a.json", tiny_trace, status=2)
    assert "cannot be read as text" in refused.err
