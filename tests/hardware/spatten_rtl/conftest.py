"""Passes and clocks for tests of one block of the released SpAtten at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accelsim.hardware import load_accelerator
from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.requests import requests
from accelsim.hardware.simulation import Clock
from accelsim.workloads import Workload

EIGHTH = load_accelerator("spatten-rtl-eighth")
"""One vector a line and one score a beat (S = 1), 2,048 lines, 4 fetch channels."""


@pytest.fixture
def env() -> Clock:
    return Clock()


@pytest.fixture
def passes_of(env: Clock) -> Callable[..., list[KeyPass]]:
    """First passes of requests at 1/8 scale: lists of keys and values, and any other column."""

    def make(keys: list[int], values: list[int] | None = None, **columns: Any) -> list[KeyPass]:
        given = {"keys": keys, "values": values or keys}
        given |= {name: [8] * len(keys) for name in ("key_bits", "value_bits")}
        table = requests(Workload.from_columns(given | columns), EIGHTH)
        return [KeyPass(env, request) for request in table.each()]

    return make
