"""Decision: which rows need the LSB plane of their keys (section 6)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten.items import Keys, Row
from accelsim.hardware.simulation import Clock, Port

REFETCH_DELAY = 2
"""From the decision to the key fork (release, section 2.16)."""
RELEASE = 5
"""From a decision to usable lines (release, section 2.16)."""


class Decision:
    """Sends rows that need their LSB plane back to the key fork (section 6).

    Args:
        env: clock.
        lsb_passes: out: key tiles, to the key fork.
    """

    def __init__(self, env: Clock, lsb_passes: Port[Keys]) -> None:
        self._env, self._lsb_passes = env, lsb_passes

    def announce(self, row: Row, tiles: int, cycle: int) -> None:
        """The last query of a row is decided; so many tiles of its LSB pass follow."""
        # They are there when the key fork looks, which waits for the announcement.
        for tile in range(tiles):
            self._put(Keys(row, tile, again=True), cycle + REFETCH_DELAY)
        row.decision.announce(cycle)

    def _put(self, item: Keys, cycle: int) -> None:
        self._env.call(cycle, lambda _: self._lsb_passes.put(item))
