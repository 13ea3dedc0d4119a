"""Byte addresses of a request's vectors, laid out as fetch beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.config import SpattenConfig
from accelsim.hardware.spatten._random import index_table
from accelsim.hardware.spatten._requests import ATOM
from accelsim.jit import kernel
from accelsim.workloads import Workload

# Section 5.1: bases of the released test bench; one region of 64 KB a request.
_KEY_BASE, _LSB_BASE, _VALUE_BASE, _STRIDE = 0x0AB10000, 0x0AB20000, 0x0CD10000, 0x10000
QUERY_BITS = 12


class AddressMap:
    """Where the vectors of every request lie, and in which order they are fetched."""

    def __init__(self, workload: Workload, config: SpattenConfig) -> None:
        self._workload = workload
        self._config = config
        self._dim = workload.head_dim
        self._key_table = self._value_table = None
        if config.index_pattern == "random-table":
            table = index_table(config.buffer_lines, config.fetch_channels, config.capacity_vectors)
            self._key_table = table.ravel()
            # As released, scores get the indexes of the next beat of their row (2.12).
            self._value_table = np.roll(table, -config.vectors_per_line, axis=1).ravel()
        # A matrix of a layer and head keeps its place over the steps, as a KV cache does.
        heads = int(workload["head"].max()) + 1
        slot = workload["layer"].astype(np.int64) * heads + workload["head"]
        self._slot = slot.tolist()
        self._queries = workload["queries"].tolist()
        self._slots = int(slot.max()) + 1
        context = int(max(workload["context_tokens"].max(), workload["keys"].max()))
        self._in_order = np.arange(context + config.rounding, dtype=np.int64)
        self._region = -(-context * self._dim * 2 // _STRIDE) * _STRIDE

    def keys(self, row: int, count: int, bits: int, lsb: bool) -> NDArray[np.int64]:
        """Transactions of a key matrix, in order; byte addresses int64."""
        base = (_LSB_BASE if lsb else _KEY_BASE) + row * _STRIDE
        own = None if self._workload.key_indices is None else self._workload.key_indices[row]
        if self._key_table is not None:
            return self._released(self._key_table[:count], bits, base)
        return self._matrix(row, count, bits, 1 if lsb else 0, own)

    def values(self, row: int, count: int, keys: int, bits: int) -> NDArray[np.int64]:
        """Transactions of a value matrix beside ``keys`` keys, in order; byte addresses int64."""
        own = None if self._workload.value_indices is None else self._workload.value_indices[row]
        if self._value_table is None or self._key_table is None:
            return self._matrix(row, count, bits, 2, own)
        indices = self._value_table[:count]
        if count == keys:
            # A request's last beat of scores gets the indexes of the first of its row.
            beat, width = self._config.vectors_per_line, self._config.fetch_channels
            row_start = (keys - beat) // width * width
            indices = indices.copy()
            indices[-beat:] = self._key_table[row_start : row_start + beat]
        return self._released(indices, bits, _VALUE_BASE + row * _STRIDE)

    def queries(self, row: int) -> NDArray[np.int64]:
        """Transactions of the queries of a row, contiguous."""
        size = self._queries[row] * self._dim * QUERY_BITS // 8
        return self.contiguous(row, 3, size)

    def contiguous(self, row: int, plane: int, size: int) -> NDArray[np.int64]:
        """Transactions of ``size`` bytes in a region of their own."""
        return _run(self._place(row, plane), -(-size // ATOM))

    def _place(self, row: int, plane: int) -> int:
        return int(plane * self._slots + self._slot[row]) * self._region

    def _released(self, indices: NDArray[np.int64], bits: int, base: int) -> NDArray[np.int64]:
        return _transactions(indices, self._dim * bits // 8, base, False)

    def _matrix(
        self, row: int, count: int, bits: int, plane: int, own: NDArray[np.int32] | None
    ) -> NDArray[np.int64]:
        vector_bytes, base = self._dim * bits // 8, self._place(row, plane)
        if own is None or self._config.index_pattern != "workload":
            return _transactions(self._in_order[:count], vector_bytes, base, True)
        return _transactions(own, vector_bytes, base, True)


@kernel
def joined(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """One list of transactions after the other."""
    return np.concatenate((first, second))


@kernel
def _run(base: int, count: int) -> NDArray[np.int64]:
    """Consecutive transactions."""
    return base + np.arange(count) * ATOM


@kernel
def _transactions(
    indices: NDArray[np.int64] | NDArray[np.int32], vector_bytes: int, base: int, shared: bool
) -> NDArray[np.int64]:
    """Transactions that cover the vectors; if ``shared``, neighbours in one read it once."""
    found = np.empty(len(indices) * (vector_bytes // ATOM + 2), np.int64)
    count = 0
    last = -1
    for i in range(len(indices)):
        index = np.int64(indices[i])
        first, end = index * vector_bytes // ATOM, ((index + 1) * vector_bytes - 1) // ATOM + 1
        for atom in range(first, end):
            if atom != last or not shared:
                found[count] = base + atom * ATOM
                count += 1
                last = int(atom)
    return found[:count]
