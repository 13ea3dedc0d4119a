"""A few changes to energy, CSV import and the store, each of which a test of that room must notice.

The same few until the lines that they change are edited; ``benchmarks/mutants.py`` tries more.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EACH = 3


@pytest.fixture(scope="module")
def mutants() -> Any:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Processes that it starts import it by its name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mutants", module)
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec.loader.exec_module(module)
        yield module


TRIAL = """
import json, pathlib, sys
import mutants

room, each, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
copy = mutants.Copy(folder)
fastest = mutants.ROOMS[room].tests[:1]
assert not copy.fails(*fastest), "they must pass without a change"
listed = mutants.reasons()
survivors = [
    f"{mutant.file}: {mutant.what}"
    for mutant in mutants.drawn(room, each, seed=0)
    if (mutant.file, mutant.what) not in listed and not copy.noticed(mutant, fastest)
]
pathlib.Path(folder, "survivors.json").write_text(json.dumps(survivors))
"""
"""In a process of its own: the fork server of this one may have loaded accelsim as it is."""


@pytest.mark.slow
@pytest.mark.parametrize("room", ["energy", "CSV import", "store"])
def test_changes_are_noticed(room: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, room, str(EACH), str(tmp_path)],
        cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    survivors = json.loads((tmp_path / "survivors.json").read_text())
    assert not survivors, "write a test, or list it with the reason in benchmarks/mutants.yaml"


def test_what_is_listed_is_there_and_has_a_reason(mutants: Any) -> None:
    text = (ROOT / "benchmarks" / "mutants.yaml").read_text(encoding="utf-8")
    for file, changes in yaml.safe_load(text).items():
        known = {mutant.what for mutant in mutants.mutants_of("", ROOT / file)}
        for change, reason in changes.items():
            assert change in known, f"{file}: no such line any more: {change}"
            assert len(reason) > 10


def test_draws_do_not_move_with_other_lines(mutants: Any) -> None:
    few, more = (mutants.drawn("energy", each, seed=0) for each in (5, 10))
    assert few == more[:5]
    assert few != mutants.drawn("energy", 5, seed=1)


def test_a_run_of_one_room_keeps_what_stands_of_the_others(
    mutants: Any, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "testing.md"
    page.parent.mkdir()
    a, b = "accelsim/energy/_table.py: a = 1 → a = 2", "accelsim/exploration/_store.py: b → (not b)"
    found = {"energy": (4, 3), "store": (5, 4)}
    text = mutants.written(found, {a: "read as `a`", b: "no test yet"})
    assert "| all | 9 | 7 | 78 % |" in text
    assert mutants.read_page(text) == (found, {a: "read as `a`", b: "no test yet"})
    marks = ("<!-- made by benchmarks/mutants.py -->\n", "<!-- end of benchmarks/mutants.py -->\n")
    page.write_text(text.join(marks), encoding="utf-8")
    # All that is drawn of the store is known, so that no test runs.
    drawn = mutants.drawn("store", 3, seed=0)
    known = tmp_path / "known.txt"
    known.write_text("".join(f"+ {mutant.key}\n" for mutant in drawn), encoding="utf-8")
    monkeypatch.setattr(mutants, "PAGE", page)
    monkeypatch.setattr(mutants, "Copy", lambda folder: None)
    argv = ["mutants.py", "store", "--each", "3", "--known", str(known), "--write"]
    monkeypatch.setattr(sys, "argv", argv)
    mutants.main()
    assert "3/3 noticed" in capsys.readouterr().out
    now = mutants.read_page(page.read_text(encoding="utf-8"))
    assert now == ({"energy": (4, 3), "store": (3, 3)}, {a: "read as `a`"})


def test_what_is_changed_is_code(mutants: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "x.py").write_text(
        '"""Text with 1."""\n'
        "from functools import lru_cache\n"
        "@lru_cache(maxsize=4)\n"
        "def f(a, b=2):\n"
        "    if a < 3 and not b:\n"
        '        raise ValueError(f"{a + 1} {5}")\n'
        '    return min(a, 6) * 7, ROOT / "x" / f"{a}.yaml"\n'
    )
    found = [mutant.what for mutant in mutants.mutants_of("", tmp_path / "x.py")]
    assert found == [
        "def f(a, b=2): → def f(a, b=3):",
        "if a < 3 and not b: → if (a < 3 or not b):",
        "if a < 3 and not b: → if a <= 3 and not b:",
        "if a < 3 and not b: → if a < 4 and not b:",
        "if a < 3 and not b: → if a < 3 and (b):",
        'return min(a, 6) * 7, ROOT / "x" / f"{a}.yaml" → '
        'return (min(a, 6) + 7), ROOT / "x" / f"{a}.yaml"',
        'return min(a, 6) * 7, ROOT / "x" / f"{a}.yaml" → '
        'return max(a, 6) * 7, ROOT / "x" / f"{a}.yaml"',
        'return min(a, 6) * 7, ROOT / "x" / f"{a}.yaml" → '
        'return min(a, 7) * 7, ROOT / "x" / f"{a}.yaml"',
        'return min(a, 6) * 7, ROOT / "x" / f"{a}.yaml" → '
        'return min(a, 6) * 8, ROOT / "x" / f"{a}.yaml"',
    ]
