"""Matrix fetcher: what it holds at most."""

from __future__ import annotations

import numpy as np
import pytest

from accelsim.configs import load
from accelsim.errors import SimulationError
from accelsim.hardware.blocks import matrix_fetcher
from accelsim.hardware.blocks.matrix_fetcher import Matrix, MatrixFetcher
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.simulation import Clock


def test_more_beats_than_it_keeps_are_refused() -> None:
    env = Clock()
    memory = load(MemoryConfig, "hbm2-nominal", "memories")
    ports = 4
    fetcher = MatrixFetcher(env, ports, 16, memory, 1e9, 32, 64)
    most = matrix_fetcher.RING - matrix_fetcher._LOOKED_BACK
    fetcher.ask(Matrix(env, 0, 0), np.zeros(most * ports, np.int64), most * ports, 0)
    with pytest.raises(SimulationError, match=f"keeps {most}"):
        fetcher.ask(Matrix(env, 1, 0), np.zeros(1, np.int64), 1, 0)
