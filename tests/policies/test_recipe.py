"""CONTRIBUTING.md, "A policy", followed literally: a package of its own, in every verb."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL))
SWEEP = """
sources: [small.safetensors]
policy: every-second.yaml
axes:
  - {key: policy.selection.stride, values: [2, 4]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a package was installed into, as pip leaves it, with a trace."""
    path = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        if not name.endswith(".toml"):
            (path / name).write_text(text, encoding="utf-8")
    installed = path / "every_second-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: every-second\nVersion: 1.0\n")
    group = re.search(r'\[project.entry-points."(.*?)"\]\n(.*)', FILES["pyproject.toml"])
    assert group is not None
    points = f"[{group[1]}]\n{group[2].replace(chr(34), '')}\n"
    (installed / "entry_points.txt").write_text(points)
    save_trace(synthetic_trace(head_dim=64), path / "small.safetensors")
    (path / "s.yaml").write_text(SWEEP)
    return path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = f"{folder}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_package_works_in_replay_sweep_and_report(folder: Path) -> None:
    verb = ("-m", "accelsim")
    asked = ("replay", "small.safetensors", "--policy", "every-second.yaml", "--json", "r.json")
    found = run(folder, *verb, *asked)
    assert found.returncode == 0, found.stderr
    record = json.loads((folder / "r.json").read_text())
    assert 0.4 < record["accuracy"]["kept_token_fraction"] < 1
    assert record["manifest"]["configs"]["policy"]["selection"]["kind"] == "every_second"
    # Worker processes find it too.
    found = run(folder, *verb, "sweep", "s.yaml", "--out", "store", "--executor", "processes")
    assert found.returncode == 0, found.stderr
    for source, page in (("r.json", "r.html"), ("store", "s.html")):
        found = run(folder, *verb, "report", source, "--out", page)
        assert found.returncode == 0, found.stderr
        assert "every_second" in (folder / page).read_text(encoding="utf-8")


def test_its_contract_holds(folder: Path) -> None:
    found = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_every_second.py")
    assert found.returncode == 0, found.stdout


def test_a_broken_package_is_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True)
    (tmp_path / "broken" / "every_second.py").write_text("import nothing_of_that_name\n")
    asked = ("replay", "small.safetensors", "--policy", "every-second.yaml")
    found = run(tmp_path / "broken", "-m", "accelsim", *asked)
    assert found.returncode == 2
    assert len(found.stderr.strip().splitlines()) == 1
    assert "every-second.yaml: key 'selection': entry point 'every_second'" in found.stderr
    assert "cannot be imported (No module named 'nothing_of_that_name')" in found.stderr


def test_inside_accelsim_the_file_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelsim.policies import _registry, load_policy, selections

    (tmp_path / "every_second.py").write_text(FILES["every_second.py"])
    (tmp_path / "p.yaml").write_text(FILES["every-second.yaml"])
    monkeypatch.setattr(selections, "__path__", [*selections.__path__, str(tmp_path)])
    _registry._modules.cache_clear()
    try:
        policy = load_policy(str(tmp_path / "p.yaml"))
        assert policy.selection is not None
        assert type(policy.selection).__module__ == "accelsim.policies.selections.every_second"
    finally:
        _registry._modules.cache_clear()
        sys.modules.pop("accelsim.policies.selections.every_second", None)
