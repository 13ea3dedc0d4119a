"""The timeline of the compiled blocks: what their states gained in a call becomes spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelsim.hardware.machines.spatten.units import Units
from accelsim.hardware.timeline import BUSY, Recorder


class Tracks:
    """Records the compiled blocks of one machine; does nothing without a recorder.

    Args:
        units: the blocks.
        recorder: takes the spans, if given.

    Attributes:
        on: whether what is looked at is recorded.
    """

    def __init__(self, units: Units, recorder: Recorder | None) -> None:
        self._units, self._recorder = units.by_name, recorder
        self.on = recorder is not None
        self._numbers: dict[str, int] = {}
        if recorder is not None:
            self._numbers = {name: recorder.module(name) for name in self._units}

    def look(self) -> dict[str, Any]:
        """The states as they are."""
        if not self.on:
            return {}
        return {name: unit.state[0].copy() for name, unit in self._units.items()}

    def add(self, before: dict[str, Any], code: int) -> None:
        """Turn what has changed since into spans of the item ``code``: stalls, then work."""
        for name, was in before.items():
            unit = self._units[name]
            now = unit.state[0]
            at = int(was["free"])
            for reason in unit.stalls:
                at = self._span(name, at, int(now[reason] - was[reason]), code, reason)
            self._span(name, at, int(now["busy"] - was["busy"]), code, BUSY)

    def queries(self, call: Callable[[int, int], int], query: int, last: int, code: int) -> int:
        """Run a call for some queries, one by one.

        Args:
            call: takes the first query and that after the last; returns the first that is left.
            query, last: from which query on, and that after the last.
            code: of the item.
        """
        while query < last:
            before = self.look()
            reached = call(query, query + 1)
            self.add(before, code)
            if reached == query:
                break
            query = reached
        return query

    def _span(self, name: str, start: int, cycles: int, code: int, state: str) -> int:
        if cycles and self._recorder is not None:
            self._recorder.add(self._numbers[name], start, start + cycles, code, state)
        return start + cycles
