"""The contract of every executor."""

from __future__ import annotations

import pytest

from accelsim.exploration.executors import Executor, open_executor
from accelsim.testing import ExecutorContract


class TestLocal(ExecutorContract):
    def open(self) -> Executor:
        return open_executor("local")


@pytest.mark.slow
class TestProcesses(ExecutorContract):
    def open(self) -> Executor:
        return open_executor("processes", workers=2)


@pytest.mark.slow
class TestDask(ExecutorContract):
    def open(self) -> Executor:
        pytest.importorskip("distributed")
        return open_executor("dask", workers=2)
