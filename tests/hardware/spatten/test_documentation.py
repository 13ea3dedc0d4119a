"""docs/accelerators/spatten.md says what the presets and the code say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from accelsim.exploration import differences
from accelsim.hardware import load_accelerator

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "accelerators" / "spatten.md").read_text(encoding="utf-8")
MAKE = runpy.run_path(str(ROOT / "docs" / "accelerators" / "make.py"))
KEYS = [
    d.key for d in differences(load_accelerator("spatten-rtl"), load_accelerator("spatten-paper"))
]


def between(name: str) -> str:
    return PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]


def test_the_table_of_fields_is_that_of_the_presets() -> None:
    assert between("fields").strip() == MAKE["field_table"]()
    rows = [line.split("|")[1:-1] for line in between("fields").strip().splitlines()[2:]]
    assert [row[0].strip(" `") for row in rows] == KEYS
    for row in rows:
        assert all(cell.strip() for cell in row), f"a value or a source is missing: {row}"


def test_the_ablation_has_every_field() -> None:
    rows = re.findall(r"^\| `([\w.]+)` ", between("ablation"), re.MULTILINE)
    assert sorted(rows) == sorted(KEYS)


def test_cited_sections_exist() -> None:
    known = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", PAGE, re.MULTILINE))
    cited: dict[str, str] = {}
    for path in sorted((ROOT / "accelsim").rglob("*.py")):
        text = " ".join(path.read_text(encoding="utf-8").split())
        for group in re.findall(r"(?:sections?|specification|RTL) (\d\.\d+)", text):
            cited[group] = path.name
        if "spatten" in path.parts:
            for group in re.findall(r"\(((?:\d\.\d+[-, ]*)+)", text):
                cited |= dict.fromkeys(re.findall(r"\d\.\d+", group), path.name)
    for preset in ("spatten-rtl", "spatten-paper"):
        for source in MAKE["sources"](preset).values():
            cited |= dict.fromkeys(re.findall(r"^(\d\.\d+)", source), preset)
    assert len(cited) > 20
    assert not {section: where for section, where in cited.items() if section not in known}


@pytest.mark.parametrize("column", [2, 3])
def test_blocks_are_where_the_page_says(column: int) -> None:
    table = PAGE.split("| block | section |")[1].split("\n\n")[0]
    folder = ROOT / "accelsim" / "hardware" / "spatten"
    found = 0
    for line in table.splitlines()[2:]:
        cell = line.split("|")[column + 1]
        for name, functions in re.findall(r"`(_?\w+\.py)`((?:[:,] `\w+`)*)", cell):
            path = folder / "cycle" / name if column == 3 else folder / name
            path = path if path.exists() else folder / name
            source = path.read_text(encoding="utf-8")
            for function in re.findall(r"`(\w+)`", functions):
                assert f"def {function}(" in source, (name, function)
                found += 1
    assert found >= 6
