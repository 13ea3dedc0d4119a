"""README: short, its tour by question, its recording the one of the page."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import accelsim
from accelsim.cli import VERBS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
VISIT = (ROOT / "docs/first-visit.md").read_text(encoding="utf-8")


def test_the_tour_has_ten_verbs_at_most_by_question() -> None:
    tour = README.partition("## The tour")[2].partition("## ")[0]
    rows = [row.split("|")[1:3] for row in tour.splitlines() if row.startswith("| ")][1:]
    verbs = [words.split("`accelsim ")[1].split("`")[0].split()[0] for _, words in rows]
    assert 5 <= len(verbs) <= 10
    assert set(verbs) <= set(VERBS)
    questions = [question.strip() for question, _ in rows if question.strip()]
    assert len(questions) == 5
    assert all(question.endswith("?") for question in questions)


def test_the_words_of_the_demo_are_those_of_the_recorded_visit() -> None:
    shown = README.partition("<!-- demo -->")[2].partition("<!-- end of demo -->")[0]
    words = re.findall(r"^\* (.*)$", shown, re.M)
    assert len(words) == 10
    for sentence in words:
        assert sentence in VISIT


def test_the_visit_ends_every_command_with_its_time() -> None:
    commands = re.findall(r"^\$ (.*)$", VISIT, re.M)
    times = re.findall(r"^[\d.]+ s of processor time, \d+ s by the clock\.$", VISIT, re.M)
    assert len(commands) == len(times) >= 6
    assert any(command == "accelsim demo" for command in commands)
    assert "Traceback" not in VISIT
    # A mistake is told in one line, with what was meant.
    assert "did you mean 'static-8'" in VISIT


def test_a_release_has_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    sections = re.findall(r"^## ([\d.]+) \(([\d-]+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    dated = re.search(r"^date-released: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert citation is not None
    assert dated is not None
    assert project["version"] == accelsim.__version__ == citation[1] == sections[0][0]
    assert dated[1] == sections[0][1]
