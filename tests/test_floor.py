"""The oldest libraries that ``pyproject.toml`` allows are old enough to be true, and new enough."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROGRAM = """
from importlib.metadata import version
import sys
for name in sys.argv[1:]:
    print(name, version(name))
"""


def direct() -> dict[str, Requirement]:
    """Direct dependencies by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {found.name: found for found in map(Requirement, project["dependencies"])}


def test_every_dependency_names_its_oldest_version() -> None:
    for name, found in direct().items():
        assert any(spec.operator == ">=" for spec in found.specifier), name


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="old wheels are of the oldest Python")
def test_the_oldest_versions_run(tmp_path: Path) -> None:
    """A trace, a benchmark, a sweep and both reports that need no extra."""
    # Beside this interpreter: an environment need not be on the path to be used.
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    # The file system of packages may be another one; certificates are the system's.
    environment = {**os.environ, "UV_LINK_MODE": "copy", "UV_SYSTEM_CERTS": "1"}
    environment.pop("PYTHONPATH", None)

    def run(*words: object) -> str:
        done = subprocess.run(
            [str(word) for word in words], cwd=tmp_path, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run(uv, "venv", "--quiet", "--python", sys.executable, "old")
    python = tmp_path / "old/bin/python"
    run(uv, "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct", ROOT)
    installed = dict(line.split() for line in run(python, "-c", PROGRAM, *direct()).splitlines())
    for name, found in direct().items():
        (oldest,) = (spec.version for spec in found.specifier if spec.operator == ">=")
        # 3.15 may be withdrawn in favour of 3.15.1: the same minor version.
        assert installed[name].startswith(".".join(oldest.split(".")[:2])), name
    program = tmp_path / "old/bin/accelsim"
    run(
        program,
        "compare",
        "minilm-128",
        "--policy",
        "dense",
        "--policy",
        "static-8",
        "--out",
        "two",
    )
    assert (tmp_path / "two/report.html").stat().st_size > 10_000
    run(program, "report", "two/compare.json", "--out", "two.md")
    assert "relative output error" in run(
        program, "replay", "smollm2-64p-32d", "--policy", "spatten-full", "--baseline", "a100"
    )
    (tmp_path / "small.yaml").write_text(
        "kind: sweep\nsources: [bert-base-cola]\n"
        "axes: [{key: accelerator.multipliers, values: [512]}]\n"
    )
    run(program, "sweep", "small.yaml", "--out", "store", "--executor", "local")
