"""Every verb has its test."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelsim.cli import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_file_of_its_own(verb: str) -> None:
    file = Path(__file__).parent / f"test_{verb}.py"
    assert file.is_file(), f"add tests/cli/{file.name}"
    text = file.read_text(encoding="utf-8")
    assert f'"{verb}"' in text, f"{file.name} does not run the verb"
    assert "def test_" in text
