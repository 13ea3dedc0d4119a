"""Byte addresses of a request's vectors, laid out as fetch beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.facts import (
    ATOM,
    KEY_BASE,
    LSB_BASE,
    LSB_BITS,
    REQUEST_STRIDE,
    VALUE_BASE,
)
from accelsim.hardware.machines.spatten_rtl.java_random import index_table
from accelsim.hardware.machines.spatten_rtl.requests import Requests
from accelsim.jit import kernel
from accelsim.workloads import Workload

Ints = NDArray[np.int64]

_KEYS, _LSBS, _VALUES = range(3)
_METADATA, _RESIDUAL = 4, 5
"""Planes: regions of a layer and head. 3 would be queries, which come with the request (8.1)."""
_ROWS_AT_ONCE = 256
"""Rows whose transactions are laid out in one call."""


class AddressMap:
    """Where the vectors of every request lie, and in which order they are fetched.

    Args:
        workload: whose rows are fetched.
        config: of the machine.
        table: the rows as the machine sees them.

    Attributes:
        bytes: asked for so far, by tensor.
    """

    def __init__(self, workload: Workload, config: SpattenRtlConfig, table: Requests) -> None:
        self._table = table
        self._dim = workload.head_dim
        self._width = config.fetch_channels
        self._beat = config.vectors_per_line
        self._key_table = self._value_table = None
        if config.index_pattern == "random-table":
            indexes = index_table(config.buffer_lines, self._width, config.capacity_vectors)
            self._key_table = indexes.ravel()
            # As released, scores get the indexes of the next beat of their row (2.12).
            self._value_table = np.roll(indexes, -self._beat, axis=1).ravel()
        # A matrix of a layer and head keeps its place over the steps, as a KV cache does.
        cache = workload.cache_shape
        self._slot, self._slots = workload.cache_slots, cache.slots
        self._in_order = np.arange(cache.tokens + config.rounding, dtype=np.int64)
        self._region = -(-cache.tokens * self._dim * 2 // REQUEST_STRIDE) * REQUEST_STRIDE
        fetched = table.key_part == 0
        # What is read in front of the keys, contiguous: what a policy keeps beside the vectors
        # (page bounds, scales).
        sizes = {name: workload[f"{name}_bytes"] for name in ("residual", "metadata")}
        self._before = np.stack(
            [-(-size.astype(np.int64) // ATOM) * fetched for size in sizes.values()], axis=1
        )
        places = [self._place(plane) for plane in (_RESIDUAL, _METADATA)]
        self._before_at = np.stack(places, axis=1)
        self._before_keys = self._before.sum(axis=1).tolist()
        asked = dict(zip(sizes, (self._before.sum(axis=0) * ATOM).tolist(), strict=True))
        self.bytes = {"query": 0, "key_msb": 0, "key_lsb": 0, "value": 0}
        self.bytes |= {name: size for name, size in asked.items() if size}
        self._keys = _Ahead(table.rows, self._lay_out_keys)
        self._lsbs = _Ahead(table.rows, self._lay_out_lsbs)
        self._values = _Ahead(table.rows, self._lay_out_values)

    def keys(self, row: int) -> Ints:
        """Transactions of the first pass over the keys, in order; byte addresses int64."""
        found = self._keys.of(row)
        self.bytes["key_msb"] += (len(found) - self._before_keys[row]) * ATOM
        return found

    def key_lsbs(self, row: int) -> Ints:
        """Transactions of the pass over the keys' LSBs."""
        found = self._lsbs.of(row)
        self.bytes["key_lsb"] += len(found) * ATOM
        return found

    def values(self, row: int) -> Ints:
        """Transactions of the values."""
        found = self._values.of(row)
        self.bytes["value"] += len(found) * ATOM
        return found

    def _place(self, plane: int) -> Ints:
        """First byte of a plane, for each row."""
        return np.asarray((plane * self._slots + self._slot) * self._region)

    def _lay_out_keys(self, first: int, end: int) -> tuple[Ints, Ints]:
        bits = self._table.key_bits * self._table.key_fused
        vectors = self._key_indexes(first, end)
        return self._lay_out(_KEYS, KEY_BASE, bits, self._table.key_part == 0, first, vectors)

    def _lay_out_lsbs(self, first: int, end: int) -> tuple[Ints, Ints]:
        bits = np.full(self._table.rows, LSB_BITS)
        vectors = self._key_indexes(first, end)
        return self._lay_out(_LSBS, LSB_BASE, bits, self._table.refetch == 1, first, vectors)

    def _lay_out_values(self, first: int, end: int) -> tuple[Ints, Ints]:
        bits = self._table.value_bits * self._table.value_fused
        fetched = self._table.value_part == 0
        vectors = self._value_indexes(first, end)
        return self._lay_out(_VALUES, VALUE_BASE, bits, fetched, first, vectors)

    def _key_indexes(self, first: int, end: int) -> Sequence[NDArray[np.integer]]:
        """Indexes of the keys of some rows."""
        table = self._in_order if self._key_table is None else self._key_table
        return [table[:count] for count in self._table.keys[first:end].tolist()]

    def _value_indexes(self, first: int, end: int) -> Sequence[NDArray[np.integer]]:
        """Indexes of the values of some rows."""
        values = self._table.values[first:end].tolist()
        if self._key_table is None or self._value_table is None:
            return [self._in_order[:count] for count in values]
        found = [self._value_table[:count] for count in values]
        for place, keys in enumerate(self._table.keys[first:end].tolist()):
            if values[place] == keys:
                # A request's last beat of scores gets the indexes of the first of its row.
                row_start = (keys - self._beat) // self._width * self._width
                found[place] = found[place].copy()
                beat = self._key_table[row_start : row_start + self._beat]
                found[place][-self._beat :] = beat
        return found

    def _lay_out(
        self,
        plane: int,
        released_base: int,
        bits: Ints,
        fetched: NDArray[np.bool_],
        first: int,
        vectors: Sequence[NDArray[np.integer]],
    ) -> tuple[Ints, Ints]:
        end = first + len(vectors)
        rows = slice(first, end)
        released = self._key_table is not None
        row_base = released_base + np.arange(first, end) * REQUEST_STRIDE
        base = row_base if released else self._place(plane)[rows]
        before = self._before[rows] if plane == _KEYS else np.zeros((end - first, 0), np.int64)
        lengths = np.asarray(list(map(len, vectors)))
        return _transactions(
            np.concatenate(vectors, dtype=np.int64),
            lengths,
            np.where(fetched[rows], lengths, 0),
            bits[rows] * self._dim // 8,
            base,
            self._before_at[rows],
            before,
            not released,
        )


class _Ahead:
    """Transactions of one kind of matrix, laid out for many rows at a time.

    Args:
        rows: how many there are.
        lay_out: gives the transactions of the rows from a first one to before an end, and where
            those of each row begin; rows are asked for in order.
    """

    def __init__(self, rows: int, lay_out: Callable[[int, int], tuple[Ints, Ints]]) -> None:
        self._rows = rows
        self._lay_out = lay_out
        self._first = self._end = 0
        self._transactions = np.zeros(0, np.int64)
        self._begins: list[int] = []

    def of(self, row: int) -> Ints:
        """Transactions of a row."""
        if not self._first <= row < self._end:
            self._first, self._end = row, min(row + _ROWS_AT_ONCE, self._rows)
            self._transactions, begins = self._lay_out(self._first, self._end)
            self._begins = begins.tolist()
        at = row - self._first
        return self._transactions[self._begins[at] : self._begins[at + 1]]


@kernel
def _transactions(
    indexes: Ints,
    lengths: Ints,
    counts: Ints,
    vector_bytes: Ints,
    bases: Ints,
    before_at: Ints,
    before: Ints,
    shared: bool,
) -> tuple[Ints, Ints]:
    """Transactions that cover the vectors of some rows, behind what is read before them.

    Args:
        indexes: [sum of the rows' vectors]; vectors in the order of fetching.
        lengths: [rows]; how many of them a row has.
        counts: [rows]; how many of those are fetched.
        vector_bytes: [rows].
        bases: [rows]; byte address of vector 0.
        before_at: [rows, kinds]; byte address of what is read before.
        before: [rows, kinds]; transactions of it.
        shared: neighbours in one transaction read it once.

    Returns:
        Byte addresses, and [rows + 1] where those of a row begin.
    """
    rows = len(counts)
    room = before.sum()
    for row in range(rows):
        room += counts[row] * (vector_bytes[row] // ATOM + 2)
    found = np.empty(room, np.int64)
    starts = np.empty(rows + 1, np.int64)
    count = next_index = 0
    for row in range(rows):
        starts[row] = count
        for kind in range(before.shape[1]):
            for atom in range(before[row, kind]):
                found[count] = before_at[row, kind] + atom * ATOM
                count += 1
        size, last = vector_bytes[row], -1
        for i in range(next_index, next_index + counts[row]):
            first, end = indexes[i] * size // ATOM, ((indexes[i] + 1) * size - 1) // ATOM + 1
            for atom in range(first, end):
                if atom != last or not shared:
                    found[count] = bases[row] + atom * ATOM
                    count += 1
                    last = atom
        next_index += lengths[row]
    starts[rows] = count
    return found[:count], starts
