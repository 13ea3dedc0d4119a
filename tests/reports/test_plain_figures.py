"""Figures are the same whatever the environment and the user's matplotlibrc say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import accelsim

SCRIPT = """
import sys
from pathlib import Path
from accelsim.hardware.activity import Activity
from accelsim.exploration import RunResult
from accelsim.reports._plots import figures
from accelsim.reports.trace_plot import plot_skew
from accelsim.traces import layer_skew, synthetic_trace
from accelsim.reproduction._base import Row
from accelsim.reproduction._plots import draw

out = Path(sys.argv[1])
result = RunResult(
    metrics={"latency_cycles": 10}, dram_read_bytes_by_tensor={"value": 1000},
    energy_j_by_part={"dram": 1e-6}, accuracy=None, modules={"a": {"busy_cycles": 5}},
    baselines={"b": {"speedup": 2.0}}, manifest={},
    per_layer=[], activity=Activity(10, 1e9), warnings=[])
for title, svg in figures({"one": result}).items():
    (out / f"{title.split()[0]}.svg").write_text(svg)
trace = synthetic_trace(num_layers=2)
plot_skew([layer_skew(trace, i) for i in range(2)], "skew", out / "skew.svg")
draw({"ratios": [Row("a", 1.0, 2.0, "x", ""), Row("b", 3.0, 2.0, "x", "")]}, out)
"""
USER = "text.usetex: True\nfont.size: 30\nfigure.figsize: 1, 1\nsvg.fonttype: none\n"
CASES = {
    "backend unknown": {"MPLBACKEND": "nonsense"},
    "backend of a window": {"MPLBACKEND": "TkAgg"},
    "backend of a notebook": {"MPLBACKEND": "module://not_there"},
    "user's rc": {"MATPLOTLIBRC": "rc"},
}


def draw(folder: Path, **environment: str) -> dict[str, bytes]:
    out = folder / "out"
    out.mkdir(parents=True)
    (folder / "rc").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "out"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return draw(tmp_path_factory.mktemp("plain") / "work")


@pytest.mark.parametrize("case", CASES)
def test_figures_do_not_depend_on_the_environment(
    tmp_path: Path, plain: dict[str, bytes], case: str
) -> None:
    assert draw(tmp_path / "work", **CASES[case]) == plain
    assert len(plain) >= 5


def test_colours_and_canvases_have_one_home() -> None:
    package = Path(accelsim.__file__).parent
    allowed = {package / "drawing.py", package / "reports" / "_style.py"}
    colour = re.compile(r"""["']#[0-9a-fA-F]{3,6}["']""")
    for path in set(package.rglob("*.py")) - allowed:
        source = path.read_text(encoding="utf-8")
        # Two greys of Vega's axes and error bars are no colours of series.
        found = set(colour.findall(source)) - {'"#eee"', '"#222"'}
        assert not found, path
        for word in ("pyplot", "rcParams", "savefig", "matplotlib.use"):
            assert word not in source, path


def test_the_user_s_own_settings_stay(tmp_path: Path) -> None:
    script = (
        "import os; from accelsim.drawing import plain_figures\n"
        "with plain_figures(): import matplotlib; assert matplotlib.rcParams['font.size'] == 10\n"
        "assert matplotlib.rcParams['font.size'] == 30\n"
        "assert matplotlib.get_backend() == 'svg' and os.environ['MPLBACKEND'] == 'svg'\n"
    )
    (tmp_path / "matplotlibrc").write_text("font.size: 30")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "svg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
