"""The timeline of the compiled blocks: what their states gained in a call becomes spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelsim.hardware.blocks import dot_product, softmax, top_k, weighted_sum
from accelsim.hardware.blocks.channel_watch import ChannelWatch
from accelsim.hardware.timeline import BUSY, Recorder

if TYPE_CHECKING:
    from accelsim.hardware.machines.spatten.machine import Spatten

UNITS = {
    "qk_unit": ("dot", dot_product.STALLS),
    "softmax": ("soft", softmax.STALLS),
    "topk": ("topk", top_k.STALLS),
    "selector": ("selector", top_k.STALLS),
    "pv_unit": ("sums", weighted_sum.STALLS),
}
"""Module in results to the attribute that holds its state, and the reasons of its stalls."""


class Tracks:
    """Records the compiled blocks and the DRAM channels of one machine.

    Args:
        machine: whose blocks.
        recorder: takes the spans.
    """

    def __init__(self, machine: Spatten, recorder: Recorder) -> None:
        self._machine, self._recorder = machine, recorder
        self._numbers = {name: recorder.module(name) for name in UNITS}
        self.watch = machine.fetcher.watch = ChannelWatch(recorder, machine.fetcher)

    def look(self) -> dict[str, Any]:
        """The states as they are."""
        return {name: self._state(name).copy() for name in UNITS}

    def add(self, before: dict[str, Any], code: int) -> None:
        """Turn what has changed since into spans of the item ``code``: stalls, then work."""
        for name, (_, stalls) in UNITS.items():
            was, now = before[name], self._state(name)
            at = int(was["free"])
            for reason in stalls:
                at = self._span(name, at, int(now[reason] - was[reason]), code, reason)
            self._span(name, at, int(now["busy"] - was["busy"]), code, BUSY)

    def _state(self, name: str) -> Any:
        return getattr(self._machine, UNITS[name][0])[0]

    def _span(self, name: str, start: int, cycles: int, code: int, state: str) -> int:
        if cycles:
            self._recorder.add(self._numbers[name], start, start + cycles, code, state)
        return start + cycles
