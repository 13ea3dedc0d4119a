"""CONTRIBUTING.md, "A policy", followed literally: a package of its own, in every verb."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL))
Run = Callable[..., subprocess.CompletedProcess[str]]
SWEEP = """
sources: [small.safetensors]
policy: every-second.yaml
axes:
  - {key: policy.selection.stride, values: [2, 4]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, install: Callable[..., None]) -> Path:
    """A folder that a package was installed into, as pip leaves it, with a trace."""
    path = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        if not name.endswith(".toml"):
            (path / name).write_text(text, encoding="utf-8")
    install(path, "every-second", FILES["pyproject.toml"])
    save_trace(synthetic_trace(head_dim=64), path / "small.safetensors")
    (path / "s.yaml").write_text(SWEEP)
    return path


def test_the_package_works_in_replay_sweep_and_report(folder: Path, python_in: Run) -> None:
    verb = ("-m", "accelsim")
    asked = ("replay", "small.safetensors", "--policy", "every-second.yaml", "--json", "r.json")
    found = python_in(folder, *verb, *asked)
    assert found.returncode == 0, found.stderr
    record = json.loads((folder / "r.json").read_text())
    assert 0.4 < record["accuracy"]["kept_token_fraction"] < 1
    assert record["manifest"]["configs"]["policy"]["selection"]["kind"] == "every_second"
    # Worker processes find it too.
    found = python_in(folder, *verb, "sweep", "s.yaml", "--out", "store", "--executor", "processes")
    assert found.returncode == 0, found.stderr
    for source, page in (("r.json", "r.html"), ("store", "s.html")):
        found = python_in(folder, *verb, "report", source, "--out", page)
        assert found.returncode == 0, found.stderr
        assert "every_second" in (folder / page).read_text(encoding="utf-8")


def test_its_contract_holds(folder: Path, python_in: Run) -> None:
    found = python_in(
        folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_every_second.py"
    )
    assert found.returncode == 0, found.stdout


def test_a_broken_package_is_one_line(folder: Path, tmp_path: Path, python_in: Run) -> None:
    shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True)
    (tmp_path / "broken" / "every_second.py").write_text("import nothing_of_that_name\n")
    asked = ("replay", "small.safetensors", "--policy", "every-second.yaml")
    found = python_in(tmp_path / "broken", "-m", "accelsim", *asked)
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
