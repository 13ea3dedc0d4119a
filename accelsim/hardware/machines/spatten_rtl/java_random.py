"""The released test bench's random numbers: java.util.Random, seed 1, reproduced exactly."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.jit import kernel

_MULTIPLIER = 0x5DEECE66D
_MASK = (1 << 48) - 1


@kernel
def _next(state: NDArray[np.int64], bits: int) -> Any:
    state[0] = (state[0] * _MULTIPLIER + 0xB) & _MASK
    return state[0] >> (48 - bits)


@kernel
def _next_below(state: NDArray[np.int64], bound: int) -> Any:
    if bound & -bound == bound:
        return (bound * _next(state, 31)) >> 31
    while True:
        bits = _next(state, 31)
        value = bits % bound
        if bits - value + bound - 1 < 1 << 31:
            return value


def new_random(seed: int) -> NDArray[np.int64]:
    """State of a generator."""
    return np.array([(seed ^ _MULTIPLIER) & _MASK], dtype=np.int64)


@functools.cache
def index_table(rows: int, width: int, capacity: int) -> NDArray[np.int64]:
    """The read-only table of token indexes, [rows, width] (specification section 2.5).

    Row i is a sorted random half of the ``2 * width`` values from ``i * width`` on, modulo the
    token capacity. Drawn once for each machine, as thousands of shuffles take longer than a short
    run: not to be written to.
    """
    state = new_random(1)
    table = np.empty((rows, width), dtype=np.int64)
    for row in range(rows):
        values = list(range(2 * width))
        for position in range(2 * width - 1, 0, -1):
            other = _next_below(state, position + 1)
            values[position], values[other] = values[other], values[position]
        table[row] = (np.sort(values[:width]) + row * width) % capacity
    return table


@kernel
def topk_latencies(
    sizes: NDArray[np.int64],
    targets: NDArray[np.int64],
    parallelism: int,
    pass_overhead: int,
    state: NDArray[np.int64],
) -> Any:
    """Quick-select latencies of the released test bench, in request order (section 3.2).

    Args:
        sizes: unrounded keys of each request; 0 draws nothing and gives 0.
        targets: unrounded values.
        parallelism: scores examined per cycle.
        pass_overhead: cycles of a pass beyond those.
        state: from :func:`new_random`.

    Returns:
        latency_cycles, passes and elements read, each int64 [requests].
    """
    latencies = np.zeros(len(sizes), np.int64)
    passes = np.zeros(len(sizes), np.int64)
    elements = np.zeros(len(sizes), np.int64)
    for request in range(len(sizes)):
        count = sizes[request]
        target = targets[request]
        data = np.empty(count, np.int64)
        for i in range(count):
            value = _next(state, 32)
            data[i] = value - (1 << 32) if value >= 1 << 31 else value
        while count > 0:
            latencies[request] += (count + parallelism - 1) // parallelism + pass_overhead
            passes[request] += 1
            elements[request] += count
            pivot = data[_next_below(state, count)]
            less = np.sum(data[:count] < pivot)
            equal = np.sum(data[:count] == pivot)
            if less <= target:
                if less + equal > target:
                    break
                target -= less + equal
                data = data[:count][data[:count] > pivot]
            else:
                data = data[:count][data[:count] < pivot]
            count = len(data)
    return latencies, passes, elements
