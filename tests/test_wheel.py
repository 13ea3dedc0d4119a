"""What is built and installed into an empty environment works in an empty folder, far from here."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The accelsim of a wheel that was built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    # The wheel comes from the sdist, so that the sdist is whole.
    run(folder, sys.executable, "-m", "build", "--outdir", folder, ROOT)
    venv.create(folder / "venv", with_pip=True)
    (wheel,) = folder.glob("*.whl")
    run(folder, folder / "venv/bin/pip", "install", "--quiet", wheel)
    return folder / "venv/bin/accelsim"


def run(folder: Path, *words: object) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_is_whole(program: Path, tmp_path: Path) -> None:
    python = program.with_name("python")
    where = run(tmp_path, python, "-c", "import accelsim; print(accelsim.__file__)")
    assert Path(where.strip()).is_relative_to(program.parents[1])
    # Every package that the base installation needs came with the wheel.
    assert "missing" not in run(tmp_path, program, "doctor").partition("extra")[0]
    for family in ("benchmarks", "traces", "accelerators", "policies", "sweeps"):
        assert len(run(tmp_path, program, "presets", "list", family).splitlines()) > 2
    assert "spatten" in run(tmp_path, program, "presets", "show", "spatten-paper")


def test_verbs_find_what_ships_with_them(program: Path, tmp_path: Path) -> None:
    out = run(tmp_path, program, "validate", "traffic")
    assert "bar met" in out
    out = run(
        tmp_path, program, "replay", "minilm-128", "--policy", "static-8", "--out", "run",
        "--baseline", "a100",
    )  # fmt: skip
    assert "latency" in out
    assert (tmp_path / "run/report.html").stat().st_size > 10_000


def test_the_demo_runs_without_a_clone(program: Path, tmp_path: Path) -> None:
    out = run(tmp_path, program, "demo")
    assert "Good: " in out
    assert "Lost: " in out
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 50_000


def test_benchmarks_and_a_sweep_run(program: Path, tmp_path: Path) -> None:
    out = run(tmp_path, program, "replay", "bert-base-cola", "--baseline", "titan-xp")
    assert "titan-xp" in out
    (tmp_path / "small.yaml").write_text(
        "kind: sweep\nsources: [minilm-128]\n"
        "axes: [{key: accelerator.multipliers, values: [256, 512]}]\n"
    )
    out = run(tmp_path, program, "sweep", "small.yaml", "--out", "store", "--executor", "local")
    assert "256" in out
    run(tmp_path, program, "report", "store", "--out", "store.md")
    assert "multipliers" in (tmp_path / "store.md").read_text(encoding="utf-8")
