"""Where vectors lie in DRAM: planes of a layer and head, packed at their own width."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks.matrix_fetcher import TRANSACTION_BYTES
from accelsim.hardware.machines.spatten.config import BITS_ON_CHIP
from accelsim.hardware.machines.spatten.rows import LSB_BITS, Rows
from accelsim.jit import kernel
from accelsim.workloads import Workload

Ints = NDArray[np.int64]

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
        self._workload, self._rows = workload, rows
        self._dim = workload.head_dim
        heads = int(workload["head"].max()) + 1
        self._slot: list[int] = (
            workload["layer"].astype(np.int64) * heads + workload["head"]
        ).tolist()
        slots = max(self._slot) + 1
        context = int(max(workload["context_tokens"].max(), workload["keys"].max()))
        self._in_order = np.arange(context, dtype=np.int32)
        region = -(-context * self._dim * 2 // _REGION) * _REGION
        self._plane = [plane * slots * region for plane in range(6)]
        self._region = region
        self._key_bits, self._value_bits = rows.key_bits.tolist(), rows.value_bits.tolist()
        asked = {
            "residual": workload["residual_bytes"].astype(np.int64),
            "metadata": workload["metadata_bytes"].astype(np.int64),
        }
        atoms = {name: -(-size // TRANSACTION_BYTES) for name, size in asked.items()}
        self._query_bytes = -(-self._dim * BITS_ON_CHIP // 8) * queries
        self._other_atoms = (atoms["residual"] + atoms["metadata"]).tolist()
        self._residual_atoms = atoms["residual"].tolist()
        sums = {name: int(count.sum()) * TRANSACTION_BYTES for name, count in atoms.items()}
        self.bytes = {"query": 0, "key_msb": 0, "key_lsb": 0, "value": 0}
        self.bytes |= {name: size for name, size in sums.items() if size}

    def queries(self, row: int, first: int, end: int) -> Ints:
        """Transactions of the query vectors of a row from the ``first`` to that before ``end``."""
        begin = first * self._query_bytes // TRANSACTION_BYTES
        found = self._block(QUERIES, row, -(-end * self._query_bytes // TRANSACTION_BYTES))[begin:]
        self.bytes["query"] += len(found) * TRANSACTION_BYTES
        return found

    def before_keys(self, row: int) -> Ints:
        """Transactions of what a policy keeps beside the vectors of a row."""
        if not self._other_atoms[row]:
            return _NONE
        residual = self._residual_atoms[row]
        return np.concatenate(
            [
                self._block(RESIDUAL, row, residual),
                self._block(METADATA, row, self._other_atoms[row] - residual),
            ]
        )

    def keys(self, row: int, first: int, end: int) -> Ints:
        """Transactions of the keys of a row from the ``first`` to that before ``end``."""
        found = self._cover(KEYS, self._keys_of(row), row, first, end, self._key_bits[row])
        self.bytes["key_msb"] += len(found) * TRANSACTION_BYTES
        return found

    def key_lsbs(self, row: int, first: int, end: int) -> Ints:
        """The same of their LSB plane."""
        found = self._cover(LSBS, self._keys_of(row), row, first, end, LSB_BITS)
        self.bytes["key_lsb"] += len(found) * TRANSACTION_BYTES
        return found

    def values(self, row: int, first: int, end: int) -> Ints:
        """The same of its values."""
        indices = self._workload.value_indices
        chosen = self._in_order if indices is None else indices[row]
        found = self._cover(VALUES, chosen, row, first, end, self._value_bits[row])
        self.bytes["value"] += len(found) * TRANSACTION_BYTES
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
            found.append(sum(map(len, parts)) * TRANSACTION_BYTES)
        self.bytes = counted
        return found[0], found[1], found[2]

    def _keys_of(self, row: int) -> NDArray[np.int32]:
        indices = self._workload.key_indices
        return self._in_order if indices is None else indices[row]

    def _base(self, plane: int, row: int) -> int:
        return int(self._plane[plane] + self._slot[row] * self._region)

    def _block(self, plane: int, row: int, atoms: int) -> Ints:
        base = self._base(plane, row)
        return np.arange(base, base + atoms * TRANSACTION_BYTES, TRANSACTION_BYTES, dtype=np.int64)

    def _cover(self, plane: int, indices: Any, row: int, first: int, end: int, bits: int) -> Ints:
        base = self._base(plane, row)
        found: Ints = cover(indices, first, end, -(-bits * self._dim // 8), base)
        return found


_NONE = np.zeros(0, np.int64)


@kernel
def cover(indices: Any, first: int, end: int, size: int, base: int) -> Any:
    """Transactions that cover some vectors, each read once where neighbours share it.

    Args:
        indices: ascending token indexes, int32.
        first, end: which of them.
        size: bytes of a vector, whole ones.
        base: address of vector 0.

    Returns:
        Byte addresses, int64.
    """
    found = np.empty((end - first) * (size // TRANSACTION_BYTES + 2), np.int64)
    count, last = 0, -1
    for i in range(first, end):
        begin = np.int64(indices[i]) * size
        for atom in range(begin // TRANSACTION_BYTES, (begin + size - 1) // TRANSACTION_BYTES + 1):
            if atom != last:
                found[count] = base + atom * TRANSACTION_BYTES
                count += 1
                last = atom
    return found[:count]
