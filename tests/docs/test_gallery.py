"""The gallery holds every picture of the pages, with a command that is there and its data."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from accelsim.exploration import replay

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def make() -> Any:
    spec = importlib.util.spec_from_file_location("gallery_make", DOCS / "images" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_shown_once_with_command_and_data(make: Any) -> None:
    drawn = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.svg")}
    assert {picture.file for picture in make.PICTURES} == drawn
    assert len(make.PICTURES) == len(drawn)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for picture in make.PICTURES:
        assert (DOCS / picture.data).is_file()
        program, first, *_ = picture.command.split()
        if program == "make":
            assert f"\n{first}:" in makefile
        else:
            assert (ROOT / first).is_file()


def test_the_page_is_what_the_script_writes(make: Any) -> None:
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == make.gallery()


@pytest.mark.parametrize("name", ["frontier", "policies", "pareto"])
def test_pictures_are_drawn_from_the_data_beside_them(make: Any, name: str) -> None:
    _, draw, table = make.DRAWN[name]
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8")
    again = draw(rows)
    words = re.compile(r"<!-- (.*?) -->")
    assert words.findall(again) == words.findall(shown)
    if name == "policies":
        assert len(set(words.findall(shown)) & {row["policy"] for row in rows}) > 25


def test_the_ablation_beside_its_picture_is_what_the_machine_gives_today() -> None:
    page = DOCS / "accelerators"
    with (page / "spatten-ablation.csv").open(encoding="utf-8") as file:
        base, *others = csv.DictReader(file)
    found = replay("gpt2-small-wikitext2", "spatten-paper-serial", baselines=[]).activity
    assert int(base["latency_cycles"]) == found.cycles
    assert int(base["dram_read_bytes"]) == sum(found.dram_read_bytes.values())
    last = [row for row in others if row["series"] == "cumulative"][-1]
    found = replay("gpt2-small-wikitext2", "spatten-paper", baselines=[]).activity
    assert int(last["latency_cycles"]) == found.cycles
    assert f"{int(base['latency_cycles']):,} cycles" in (page / "spatten.md").read_text("utf-8")
