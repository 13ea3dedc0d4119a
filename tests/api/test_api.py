"""The public API: lazily imported, complete, and its examples run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import accelsim
from accelsim.errors import AccelsimError
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "numba", "pydantic", "pyarrow", "pandas", "optuna", "dask", "torch", "matplotlib")


def test_import_is_light() -> None:
    script = f"import accelsim, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize("name", accelsim.__all__)
def test_every_name_exists_and_is_documented(name: str) -> None:
    assert name in dir(accelsim)
    thing = getattr(accelsim, name)
    if isinstance(thing, type):
        assert thing.__doc__
    elif callable(thing):
        assert thing.__doc__
        assert thing.__annotations__["return"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'replai'"):
        accelsim.replai  # noqa: B018


def test_report_takes_what_the_other_calls_return(tmp_path: Path) -> None:
    trace = tmp_path / "tiny.safetensors"
    save_trace(synthetic_trace(head_dim=64), trace)
    file = tmp_path / "two.yaml"
    file.write_text("sources: [tiny.safetensors]\naxes: [{key: engine, values: [event]}]\n")
    comparison = accelsim.compare(trace, ["dense", "spatten-full"], baselines=[])
    for thing, wanted in (
        (comparison["dense"], "tiny"),
        (comparison, "spatten-full"),
        (accelsim.sweep(file, tmp_path / "points"), "points"),
    ):
        text = accelsim.report(thing, tmp_path / "report.md").read_text()
        assert text.startswith("# accelsim: ")
        assert wanted in text.splitlines()[0]
    (tmp_path / "c.json").write_text(comparison.to_json())
    written = accelsim.report(tmp_path / "c.json", tmp_path / "c.md").read_text()
    assert written == accelsim.report(comparison, tmp_path / "d.md").read_text()
    with pytest.raises(AccelsimError, match="objectives are for the points"):
        accelsim.report(comparison, tmp_path / "e.md", objectives=["latency_s"])
