"""The contract of every memory preset."""

from __future__ import annotations

import pytest

from accelsim.configs import preset_names
from accelsim.testing import MemoryContract


class TestEveryMemory(MemoryContract):
    """The contract, preset by preset."""

    @pytest.fixture(autouse=True, params=preset_names("memories"))
    def _name(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "memory", request.param, raising=False)
