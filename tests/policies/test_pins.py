"""No decision moves unseen: every rule against what was written down of it."""

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


@pytest.mark.parametrize("trace", pin_script.TRACES)
def test_every_rule_decides_what_is_written_down(trace: str) -> None:
    written = {name: pin for name, pin in WRITTEN.items() if name.split()[0] == trace}
    found = dict(pin_script.everything(trace))
    moved = {
        name: (written.get(name), now) for name, now in found.items() if written.get(name) != now
    }
    assert not moved, "if on purpose: python tests/policies/pin.py"
    assert set(written) == set(found)
