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
RELEASED, PUBLISHED = "spatten-rtl", "spatten-paper"


def between(name: str) -> str:
    return PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]


def flat(preset: str) -> dict[str, object]:
    """Dotted fields of a preset, without its description."""
    found: dict[str, object] = {}
    for key, value in load_accelerator(preset).model_dump().items():
        if key not in ("kind", "description", "source"):
            nested = value if isinstance(value, dict) else {"": value}
            found |= {f"{key}.{name}".rstrip("."): inner for name, inner in nested.items()}
    return found


def test_the_table_of_the_readings_is_that_of_the_presets() -> None:
    """Every field that one of the two has alone, or with another value, and only those."""
    released, published = flat(RELEASED), flat(PUBLISHED)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in between("fields").strip().splitlines()[2:]
    ]
    missing = object()
    differ = {
        key
        for key in released.keys() | published.keys()
        if released.get(key, missing) != published.get(key, missing)
    }
    assert sorted(row[1].strip("`") for row in rows) == sorted(differ)
    for row in rows:
        assert all(row), f"a value or a source is missing: {row}"
        key = row[1].strip("`")
        for preset, values, cell, source in (
            (RELEASED, released, *row[2:4]),
            (PUBLISHED, published, *row[4:6]),
        ):
            if key not in values:
                assert cell == "–", (preset, key)
                continue
            assert cell == MAKE["_text"](values[key]), (preset, key)
            assert source == MAKE["sources"](preset)[key], (preset, key)


def test_the_ablation_has_every_field() -> None:
    before, after = (load_accelerator(MAKE[name]) for name in ("BEFORE", "AFTER"))
    rows = re.findall(r"^\| `([\w.]+)` ", between("ablation"), re.MULTILINE)
    assert sorted(rows) == sorted(d.key for d in differences(before, after))


def test_cited_sections_exist() -> None:
    known = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", PAGE, re.MULTILINE))
    cited: dict[str, str] = {}
    for path in sorted((ROOT / "accelsim").rglob("*.py")):
        text = " ".join(path.read_text(encoding="utf-8").split())
        for group in re.findall(r"(?:sections?|specification|RTL) (\d\.\d+)", text):
            cited[group] = path.name
        if {"spatten", "spatten_rtl"} & set(path.parts):
            for group in re.findall(r"\(((?:\d\.\d+[-, ]*)+)", text):
                cited |= dict.fromkeys(re.findall(r"\d\.\d+", group), path.name)
    for row in between("fields").strip().splitlines()[2:]:
        what, source = row.split("|")[1], row.split("|")[4]
        cited |= dict.fromkeys(re.findall(r"^ (\d\.\d+)", source), what)
    assert len(cited) > 20
    assert not {section: where for section, where in cited.items() if section not in known}


@pytest.mark.parametrize(
    ("title", "column", "folder"),
    [
        ("| block |", 3, "."),
        ("| block |", 4, "machines/spatten/cycle"),
        ("| released block |", 3, "machines/spatten_rtl"),
        ("| released block |", 4, "machines/spatten_rtl/cycle"),
    ],
)
def test_blocks_are_where_the_page_says(title: str, column: int, folder: str) -> None:
    table = PAGE.split(title)[1].split("\n\n")[0]
    hardware = ROOT / "accelsim" / "hardware"
    found = 0
    for line in table.splitlines()[2:]:
        cell = line.split("|")[column]
        for name, functions in re.findall(r"`([\w/]+\.py)`((?:[:,] `\w+`)*)", cell):
            places = hardware / folder, (hardware / folder).parent, hardware
            path = next(place / name for place in places if (place / name).exists())
            source = path.read_text(encoding="utf-8")
            for function in re.findall(r"`(\w+)`", functions):
                assert f"def {function}(" in source, (name, function)
                found += 1
    assert found >= 6
