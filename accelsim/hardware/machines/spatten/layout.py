"""Where vectors lie in DRAM: planes of a layer and head, packed at their own width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES
from accelsim.hardware.machines._spatten import BITS_ON_CHIP
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
        written: transactions of the matrix at hand, from its first on; may be replaced by a longer
            list while it grows.
        count: how many they are; 0 begins another matrix.
    """

    def __init__(self, workload: Workload, rows: Rows, queries: bool) -> None:
        self._rows = rows
        cache, slot = workload.cache_shape, workload.cache_slots
        self._in_order = np.arange(cache.tokens, dtype=np.int32)
        keys, values = _as_int32(workload.key_indices), _as_int32(workload.value_indices)
        self._chosen = {KEYS: keys, LSBS: keys, VALUES: values}
        self.written: Ints = np.empty(1 << 10, np.int64)
        self.count = 0
        self._cover_vectors = direct(cover, self._in_order, self.written)
        self._consecutive = direct(consecutive, self.written)
        region = -(-cache.tokens * cache.key_dim * 2 // _REGION) * _REGION
        # Of each row: where its planes begin, and bytes of a vector.
        base = slot * region
        self._base: list[list[int]] = [
            (base + plane * cache.slots * region).tolist() for plane in range(6)
        ]
        bits = {KEYS: rows.key_bits, LSBS: np.full_like(rows.key_bits, LSB_BITS)}
        self._size: dict[int, list[int]] = {
            plane: (-(-width * rows.key_dims // 8)).tolist() for plane, width in bits.items()
        }
        self._size[VALUES] = (-(-rows.value_bits * rows.value_dims // 8)).tolist()
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
        self._other_bytes = {name: size for name, size in sums.items() if size}
        # By plane: transactions so far.
        self._asked = [0] * 6

    @property
    def bytes(self) -> dict[str, int]:
        """Asked for so far, by tensor."""
        planes = {"query": QUERIES, "key_msb": KEYS, "key_lsb": LSBS, "value": VALUES}
        asked = {name: self._asked[plane] * TRANSACTION_BYTES for name, plane in planes.items()}
        return asked | self._other_bytes

    def queries(self, row: int, first: int, end: int) -> int:
        """Write transactions of the query vectors of a row from the ``first`` to that before
        ``end``.

        Returns:
            How many, here and in the methods below.
        """
        size = self._query_bytes[row]
        begin = first * size // TRANSACTION_BYTES
        count = -(-end * size // TRANSACTION_BYTES) - begin
        self._block(QUERIES, row, begin, count)
        return count

    def before_keys(self, row: int) -> int:
        """Write transactions of what a policy keeps beside the vectors of a row."""
        count = self._other_atoms[row]
        if count:
            residual = self._residual_atoms[row]
            self._block(RESIDUAL, row, 0, residual)
            self._block(METADATA, row, 0, count - residual)
        return count

    def vectors(self, plane: int, row: int, first: int, end: int) -> int:
        """Write transactions of keys, their LSB plane or values of a row, from the ``first`` to
        that before ``end``."""
        size, begin = self._size[plane][row], self.count
        needed = begin + (end - first) * (size // TRANSACTION_BYTES + 2)
        if needed > len(self.written):
            self._lengthen(needed)
        indices = self._chosen[plane]
        chosen = self._in_order if indices is None else indices[row]
        base = self._base[plane][row]
        self.count = self._cover_vectors(chosen, first, end, size, base, self.written, begin)
        count = self.count - begin
        self._asked[plane] += count
        return count

    def length(self, plane: int, row: int, first: int, end: int) -> int:
        """Transactions of vectors as :meth:`vectors` would write them."""
        begin, asked = self.count, self._asked[plane]
        count = self.vectors(plane, row, first, end)
        self.count, self._asked[plane] = begin, asked
        return count

    def once(self, row: int, tile: int) -> tuple[int, int, int]:
        """Bytes of one fetch of the key MSBs, the LSB plane and the values of a row, in tiles."""
        counted = list(self._asked)
        found = []
        for plane, vectors in (
            (KEYS, self._rows.keys),
            (LSBS, self._rows.keys),
            (VALUES, self._rows.values),
        ):
            count = int(vectors[row])
            self.count = 0
            for at in range(0, count, tile):
                self.vectors(plane, row, at, min(at + tile, count))
            found.append(self.count * TRANSACTION_BYTES)
        self._asked = counted
        return found[0], found[1], found[2]

    def _block(self, plane: int, row: int, first: int, count: int) -> None:
        """Write consecutive transactions."""
        if self.count + count > len(self.written):
            self._lengthen(self.count + count)
        base = self._base[plane][row] + first * TRANSACTION_BYTES
        self._consecutive(base, self.written, self.count, count)
        self.count += count
        self._asked[plane] += count

    def _lengthen(self, needed: int) -> None:
        """Make room for so many transactions."""
        larger = np.empty(2 * needed, np.int64)
        larger[: self.count] = self.written[: self.count]
        self.written = larger


def _as_int32(lists: Lists) -> Lists:
    """Token indexes as the kernel takes them; almost always as they are, and drawn ones undrawn."""
    plain = {(np.dtype(np.int32), (4,))}
    if not isinstance(lists, tuple) or {(row.dtype, row.strides) for row in lists} <= plain:
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
