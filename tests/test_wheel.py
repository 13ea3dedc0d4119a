"""What is built and installed into an empty environment works in an empty folder, far from here.

The demo runs there, as it does for a first visitor: its numbers are those of its runs, its words
say them, its page holds them.
"""

from __future__ import annotations

import html
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The accelsim of a wheel that was built from the source distribution."""
    # Beside this interpreter: an environment need not be on the path to be used.
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    # The wheel comes from the sdist, so that the sdist is whole.
    run(folder, sys.executable, "-m", "build", "--installer", "uv", "--outdir", folder, ROOT)
    run(folder, uv, "venv", "--quiet", "--python", sys.executable, "venv")
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    run(folder, uv, "pip", "install", "--quiet", "--python", python, wheel)
    where = run(folder, python, "-c", "import accelsim; print(accelsim.__file__)")
    package = Path(where.strip()).parent
    assert package.is_relative_to(folder)
    # Kernels of the same sources, as far as tests have compiled them; else these here do.
    for kernel in (ROOT / "accelsim").rglob("*.nb[ci]"):
        place = package / kernel.relative_to(ROOT / "accelsim")
        place.parent.mkdir(exist_ok=True)
        shutil.copy2(kernel, place)
    return folder / "venv/bin/accelsim"


@pytest.fixture(scope="module")
def shown(program: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one run of the demo left: the document, the page."""
    folder = tmp_path_factory.mktemp("demo")
    out = run(folder, program, "demo")
    assert "Good: " in out
    assert "Lost: " in out
    folder /= "runs/demo"
    return {
        "document": json.loads((folder / "demo.json").read_text()),
        "page": html.unescape((folder / "report.html").read_text(encoding="utf-8")),
    }


def run(folder: Path, *words: object) -> str:
    # The file system of packages may be another one; certificates are the system's.
    environment = {**os.environ, "UV_LINK_MODE": "copy", "UV_SYSTEM_CERTS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_is_whole(program: Path, tmp_path: Path) -> None:
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


def test_its_words_are_its_numbers(shown: dict[str, Any]) -> None:
    document = shown["document"]
    words, runs, gpu = (document[name] for name in ("words", "trace", "gpu_s"))
    assert len(words) == 10
    dense, tuned, _ = (run["metrics"] for run in runs.values())
    faster = dense["decode_latency_cycles"] / tuned["decode_latency_cycles"]
    fewer = dense["decode_policy_read_bytes"] / tuned["decode_policy_read_bytes"]
    assert faster > 1.2  # else it shows nothing
    assert f"decodes a token {faster:.3g} times faster than dense" in words[0]
    assert f"with {fewer:.3g} times fewer bytes" in words[0]
    token_s = tuned["decode_cycles_per_token"] * 1e-9
    ratios = [seconds / token_s for seconds in gpu["a100"]["token"]]
    shape = "{:.3g} times faster ({:.3g} to {:.3g}) than an A100"
    assert shape.format(*ratios) in words[1]
    # One search a layer behind the prompt, and the last query's scores: less than 1 %.
    share = tuned["prefill_latency_cycles"] / dense["prefill_latency_cycles"]
    assert share == pytest.approx(1, abs=0.01)
    assert words[3].startswith("Not gained: the prompt takes as long as dense")
    for name, run in runs.items():
        assert run["manifest"]["dependencies"] == "causal", name
    for sentence in words:
        assert sentence in shown["page"]


def test_prompt_and_tokens_of_a_gpu_are_the_whole(shown: dict[str, Any]) -> None:
    """What is told apart adds up to the baseline of the whole run."""
    document = shown["document"]
    for name, spans in document["gpu_s"].items():
        whole = document["trace"]["dense"]["baselines"][f"{name}/measured-kernel"]
        # The fastest framework of each part is at least as fast as the fastest of both.
        total = spans["prompt"][0] + 32 * spans["token"][0]
        assert 0.9 * whole["latency_s"] < total <= whole["latency_s"] * 1.001
        assert spans["token"][1] < spans["token"][0] < spans["token"][2]


def test_a_token_behind_the_long_context_evicts_once(shown: dict[str, Any]) -> None:
    table = shown["document"]["tables"][1]
    runs = shown["document"]["long"]
    assert [row[0] for row in table["rows"]][:3] == list(runs)
    kept = runs["176 tokens"]["metrics"]
    # 32 layers, 8 KV heads, 176 keys and values of 128 elements at 6 bit, a scale of 2 bytes each.
    per_token = 32 * 8 * 176 * (2 * 128 * 6 // 8 + 2)
    assert kept["decode_policy_read_bytes"] == 2 * per_token


def test_the_readme_shows_what_it_prints(shown: dict[str, Any]) -> None:
    visit = runpy.run_path(str(ROOT / "docs/first_visit.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = visit["MARKS"]
    assert readme.partition(begin)[2].partition(end)[0].strip() == visit["shown"](shown["document"])


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
