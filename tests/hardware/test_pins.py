"""No cycle moves unseen: every engine against what was written down of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "pin.py"


@pytest.mark.slow
def test_every_engine_gives_the_cycles_that_are_written_down() -> None:
    spec = importlib.util.spec_from_file_location("pin", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    pin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pin)
    written = json.loads(pin.PINS.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(pin.pinned()))
    moved = {
        name: (written.get(name), now) for name, now in found.items() if written.get(name) != now
    }
    assert not moved, "if on purpose: python tests/hardware/pin.py"
    assert set(written) == set(found)
