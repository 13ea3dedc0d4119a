"""The fetcher as a block: when it begins, in which order it fetches, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accelsim.configs import load
from accelsim.errors import SimulationError
from accelsim.hardware import load_accelerator
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import KEY, VALUE
from accelsim.hardware.machines.spatten_rtl.fetcher import MatrixFetcher
from accelsim.hardware.machines.spatten_rtl.items import Matrix
from accelsim.hardware.simulation import Clock, Module

FLAT = load(MemoryConfig, "flat", "memories")
EIGHTH = load_accelerator("spatten-rtl-eighth")


def matrix(env: Clock, kind: int, beats: int) -> tuple[Matrix, Any]:
    """A matrix of vectors of 8 bits at 1/8 scale: four transactions a beat, two lines."""
    transactions = np.arange(4 * beats, dtype=np.int64) * 32
    return Matrix(env, 0, kind, 0, 2 * beats, env.now), transactions


def run(env: Clock, fetcher: MatrixFetcher, until: Matrix) -> None:
    env.process(fetcher.run())
    env.run(until.awaited())


@pytest.mark.parametrize("lines", [512, 2048])
def test_buffers_are_blocked_for_half_of_their_lines(env: Clock, lines: int) -> None:
    """L/2 cycles after reset the first line is written (2.8); the memory is long done by then."""
    config = EIGHTH.model_copy(update={"buffer_lines": lines})
    fetcher = MatrixFetcher(env, config, FLAT)
    keys, transactions = matrix(env, KEY, 1)
    assert fetcher.ask(fetcher, keys, transactions, ready=22) == ()
    run(env, fetcher, keys)
    # Six cycles from the joined beat to the write, sixteen to the multipliers: 14 and the mean of
    # the polls (2.6); the second line is a cycle behind the first.
    assert keys.returned == lines // 2 - 6
    assert keys.cycle == keys.returned + 16 + 1


def test_matrices_come_in_the_order_of_asking(env: Clock) -> None:
    config = EIGHTH.model_copy(update={"buffer_lines": 2})
    fetcher = MatrixFetcher(env, config, FLAT)
    first, transactions = matrix(env, VALUE, 40)
    second, others = matrix(env, KEY, 2)
    fetcher.ask(fetcher, first, transactions, ready=0)
    fetcher.ask(fetcher, second, others, ready=0)
    assert (first.begin, first.end, second.begin, second.end) == (0, 40, 40, 42)
    run(env, fetcher, second)
    assert first.returned < second.returned
    # A beat returns a cycle at most, and its lines are taken one a cycle.
    assert second.returned - first.returned >= 2
    assert fetcher.taken(39) == first.cycle
    assert fetcher.taken(38) == first.cycle - 2


def test_an_asker_waits_while_too_much_is_outstanding(env: Clock) -> None:
    config = EIGHTH.model_copy(update={"buffer_lines": 2})
    fetcher = MatrixFetcher(env, config, FLAT)
    asker = Module(env, "asker")
    large, transactions = matrix(env, KEY, 30_000)
    more, others = matrix(env, VALUE, 4_000)
    fetcher.ask(asker, large, transactions, ready=0)

    def ask() -> Any:
        yield from fetcher.ask(asker, more, others, ready=0)

    env.process(fetcher.run())
    env.run(env.process(ask()))
    assert large.known
    assert more.asked == env.now > 30_000
    assert asker.activity.stall_cycles == {"fetcher_busy": env.now}


def test_a_matrix_that_never_fits_is_refused(env: Clock) -> None:
    fetcher = MatrixFetcher(env, EIGHTH, FLAT)
    keys, transactions = matrix(env, KEY, 40_000)
    with pytest.raises(SimulationError, match="row 0 fetches 40000 beats of 4 transactions"):
        list(fetcher.ask(fetcher, keys, transactions, ready=0))
