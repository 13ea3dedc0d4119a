"""Where vectors lie in DRAM: planes of a layer and head, packed at their own width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES
from accelsim.hardware.machines.spatten.config import BITS_ON_CHIP
from accelsim.hardware.machines.spatten.rows import LSB_BITS, Rows
from accelsim.jit import direct, in_place
from accelsim.workloads import Workload

Ints = NDArray[np.int64]
Lists = Sequence[NDArray[np.int32]] | None
"""Token indexes of each row; all in order without."""

KEYS, LSBS, VALUES, QUERIES, METADATA, RESIDUAL = range(6)
"""Planes (SpAtten III-D: MSBs contiguous, LSBs contiguous)."""
_REGION = 0x10000
"""Planes begin at multiples of so many bytes (release, section 5.1)."""


class Layout:
    """Transactions of every row. A plane of a layer and head keeps its place over the steps.

    Args:
        workload: whose rows are fetched.
        rows: the same, as the machine sees them.
        queries: whether query vectors are fetched.

    Attributes:
        bytes: asked for so far, by tensor.
    """

    def __init__(self, workload: Workload, rows: Rows, queries: bool) -> None:
        self._rows = rows
        self._dims: list[int] = rows.key_dims.tolist()
        self._value_dims: list[int] = rows.value_dims.tolist()
        cache = workload.cache_shape
        self._slot: list[int] = workload.cache_slots.tolist()
        self._in_order = np.arange(cache.tokens, dtype=np.int32)
        self._keys = _as_int32(workload.key_indices)
        self._values = _as_int32(workload.value_indices)
        self._written, self._count = np.empty(1 << 10, np.int64), 0
        self._cover_vectors = direct(cover, self._in_order, self._written)
        self._consecutive = direct(consecutive, self._written)
        region = -(-cache.tokens * cache.key_dim * 2 // _REGION) * _REGION
        self._plane: list[int] = [plane * cache.slots * region for plane in range(6)]
        self._region = region
        self._key_bits, self._value_bits = rows.key_bits.tolist(), rows.value_bits.tolist()
        asked = {
            "residual": workload["residual_bytes"].astype(np.int64),
            "metadata": workload["metadata_bytes"].astype(np.int64),
        }
        atoms = {name: -(-size // TRANSACTION_BYTES) for name, size in asked.items()}
        sizes = -(-rows.key_dims * BITS_ON_CHIP // 8) * int(queries)
        self._query_bytes: list[int] = sizes.tolist()
        self._other_atoms: list[int] = (atoms["residual"] + atoms["metadata"]).tolist()
        self._residual_atoms: list[int] = atoms["residual"].tolist()
        sums = {name: int(count.sum()) * TRANSACTION_BYTES for name, count in atoms.items()}
        self.bytes = {"query": 0, "key_msb": 0, "key_lsb": 0, "value": 0}
        self.bytes |= {name: size for name, size in sums.items() if size}

    def take(self) -> Ints:
        """Transactions written since the last call; to be used before the next is written."""
        count, self._count = self._count, 0
        return self._written[:count]

    def queries(self, row: int, first: int, end: int) -> int:
        """Write transactions of the query vectors of a row from the ``first`` to that before
        ``end``.

        Returns:
            How many, here and in the methods below.
        """
        size = self._query_bytes[row]
        begin = first * size // TRANSACTION_BYTES
        count = -(-end * size // TRANSACTION_BYTES) - begin
        self.bytes["query"] += count * TRANSACTION_BYTES
        return self._block(QUERIES, row, begin, count)

    def before_keys(self, row: int) -> int:
        """Write transactions of what a policy keeps beside the vectors of a row."""
        count = self._other_atoms[row]
        if count:
            residual = self._residual_atoms[row]
            self._block(RESIDUAL, row, 0, residual)
            self._block(METADATA, row, 0, count - residual)
        return count

    def keys(self, row: int, first: int, end: int) -> int:
        """Write transactions of the keys of a row from the ``first`` to that before ``end``."""
        found = self._cover(KEYS, self._keys, row, first, end, self._key_bits[row])
        self.bytes["key_msb"] += found * TRANSACTION_BYTES
        return found

    def key_lsbs(self, row: int, first: int, end: int) -> int:
        """The same of their LSB plane."""
        found = self._cover(LSBS, self._keys, row, first, end, LSB_BITS)
        self.bytes["key_lsb"] += found * TRANSACTION_BYTES
        return found

    def values(self, row: int, first: int, end: int) -> int:
        """The same of its values."""
        found = self._cover(VALUES, self._values, row, first, end, self._value_bits[row])
        self.bytes["value"] += found * TRANSACTION_BYTES
        return found

    def once(self, row: int, tile: int) -> tuple[int, int, int]:
        """Bytes of one fetch of the key MSBs, the LSB plane and the values of a row, in tiles."""
        counted = dict(self.bytes)
        found = []
        for plane, count in (
            (self.keys, int(self._rows.keys[row])),
            (self.key_lsbs, int(self._rows.keys[row])),
            (self.values, int(self._rows.values[row])),
        ):
            parts = (plane(row, at, min(at + tile, count)) for at in range(0, count, tile))
            found.append(sum(parts) * TRANSACTION_BYTES)
            self.take()
        self.bytes = counted
        return found[0], found[1], found[2]

    def _base(self, plane: int, row: int) -> int:
        return self._plane[plane] + self._slot[row] * self._region

    def _block(self, plane: int, row: int, first: int, count: int) -> int:
        """Write consecutive transactions."""
        base = self._base(plane, row) + first * TRANSACTION_BYTES
        self._reserve(count)
        self._consecutive(base, self._written, self._count, count)
        self._count += count
        return count

    def _cover(self, plane: int, indices: Lists, row: int, first: int, end: int, bits: int) -> int:
        """Write what covers some vectors of a plane."""
        size = -(-bits * (self._value_dims if plane == VALUES else self._dims)[row] // 8)
        chosen = self._in_order if indices is None else indices[row]
        self._reserve((end - first) * (size // TRANSACTION_BYTES + 2))
        begin = self._count
        self._count = self._cover_vectors(
            chosen, first, end, size, self._base(plane, row), self._written, begin
        )
        return self._count - begin

    def _reserve(self, count: int) -> None:
        """Make room for so many transactions."""
        if self._count + count > len(self._written):
            larger = np.empty(2 * (self._count + count), np.int64)
            larger[: self._count] = self._written[: self._count]
            self._written = larger


def _as_int32(lists: Lists) -> Lists:
    """Token indexes as the kernel takes them; almost always as they are, and drawn ones undrawn."""
    if not isinstance(lists, tuple) or all(
        row.dtype == np.int32 and row.flags.c_contiguous for row in lists
    ):
        return lists
    return tuple(np.ascontiguousarray(row, np.int32) for row in lists)


@in_place
def consecutive(base: int, found: Ints, at: int, count: int) -> None:
    """Write ``count`` transactions from byte address ``base`` on to the place ``at`` of a list."""
    for i in range(count):
        found[at + i] = base + i * TRANSACTION_BYTES


@in_place
def cover(indices: Any, first: int, end: int, size: int, base: int, found: Ints, at: int) -> int:
    """Write transactions that cover some vectors, each read once where neighbours share it.

    Args:
        indices: ascending token indexes, int32.
        first, end: which of them.
        size: bytes of a vector, whole ones.
        base: address of vector 0.
        found: list of byte addresses.
        at: place of the first.

    Returns:
        The place after the last.
    """
    last = -1
    for i in range(first, end):
        begin = np.int64(indices[i]) * size
        for atom in range(begin // TRANSACTION_BYTES, (begin + size - 1) // TRANSACTION_BYTES + 1):
            if atom != last:
                found[at] = base + atom * TRANSACTION_BYTES
                at += 1
                last = atom
    return at
