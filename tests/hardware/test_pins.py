"""No cycle moves unseen: every engine against what was written down of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("pin", Path(__file__).parent / "pin.py")
assert _SPEC is not None
assert _SPEC.loader is not None
pin_script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pin_script)
WRITTEN = json.loads(pin_script.PINS.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("family", pin_script.FAMILIES)
def test_every_engine_gives_the_cycles_that_are_written_down(family: str) -> None:
    written = {name: pin for name, pin in WRITTEN.items() if pin_script.family_of(name) == family}
    found = json.loads(json.dumps(dict(pin_script.FAMILIES[family]())))
    moved = {
        name: (written.get(name), now) for name, now in found.items() if written.get(name) != now
    }
    assert not moved, "if on purpose: python tests/hardware/pin.py"
    assert set(written) == set(found)
