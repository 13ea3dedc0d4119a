"""Token indexes that are drawn when they are asked for: a long run's would not fit the memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 64
"""Lists that stay in memory; a machine has no more rows under way."""


class DrawnIndices(Sequence[NDArray[np.int32]]):
    """A list of ascending token indexes for each row, made on demand and the same each time.

    Args:
        draw: from a number to its list, int32.
        numbers: of each row, int64 [rows]; rows may share one.
    """

    def __init__(
        self, draw: Callable[[int], NDArray[np.int32]], numbers: NDArray[np.int64]
    ) -> None:
        self._draw, self._numbers = draw, numbers
        self._held: OrderedDict[int, NDArray[np.int32]] = OrderedDict()

    def __len__(self) -> int:
        """Rows."""
        return len(self._numbers)

    @overload
    def __getitem__(self, row: int) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, row: slice) -> list[NDArray[np.int32]]: ...
    def __getitem__(self, row: Any) -> Any:
        """The list of a row, or those of several."""
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(len(self)))]
        number = int(self._numbers[row])
        found = self._held.get(number)
        if found is None:
            found = self._held[number] = self._draw(number)
            if len(self._held) > _REMEMBERED:
                self._held.popitem(last=False)
        return found

    def take(self, rows: NDArray[np.int64]) -> DrawnIndices:
        """The lists of some rows, in that order."""
        return DrawnIndices(self._draw, self._numbers[rows])


def taken(
    lists: Sequence[NDArray[np.int32]] | None, rows: NDArray[np.int64]
) -> Sequence[NDArray[np.int32]] | None:
    """Lists of some rows, in that order; drawn ones stay undrawn."""
    if lists is None or isinstance(lists, DrawnIndices):
        return None if lists is None else lists.take(rows)
    return tuple(lists[row] for row in rows)
