"""``accelsim report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelsim import replay


@pytest.fixture(scope="module")
def result(tiny_workload: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "result.json"
    path.write_text(replay(tiny_workload, baselines=["titan-xp"]).to_json())
    return path


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_formats(suffix: str, result: Path, tmp_path: Path, accelsim: Callable[..., Any]) -> None:
    out = tmp_path / f"x.{suffix}"
    done = accelsim("report", result, "--out", out, "--json", "-")
    document = done.document("accelsim.report/1")
    assert document == document | {"source": str(result), "report": str(out)}
    assert f"wrote {out}" in done.err
    text = out.read_text()
    assert "stream" in text
    assert "titan-xp" in text
    assert text.startswith("<!doctype html>" if suffix == "html" else "# ")


def test_refusals(result: Path, tmp_path: Path, accelsim: Callable[..., Any]) -> None:
    for words in (["--out", tmp_path / "x.pdf"], ["--out", tmp_path / "none" / "x.html"]):
        accelsim("report", result, *words, status=2)
    accelsim("report", tmp_path / "none.json", status=2)
    assert not list(tmp_path.iterdir())
