"""The contract of every platform preset."""

from __future__ import annotations

import pytest

from accelsim.configs import preset_names
from accelsim.testing import BaselineContract


class TestEveryPlatform(BaselineContract):
    """The contract, preset by preset."""

    @pytest.fixture(autouse=True, params=preset_names("baselines"))
    def _name(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "platform", request.param, raising=False)
