"""Quantization decision (sections 2.11 and 4): which keys are fetched again with their LSBs."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.softmax import Softmax
from accelsim.hardware.simulation import Clock, Module, Port
from accelsim.hardware.timeline import Recorder

_STAGES = 10
"""From the last line of a pass to its first decided beat, plus log2(S) (2.11)."""
_REFETCH_DELAY = 2
"""From the report to the key fork (2.16)."""
_KEY_RELEASE = 5
"""From the report to usable space (2.16)."""


class Decision(Module):
    """Stores a pass, then forwards it or has its LSBs fetched; pipelined, in order.

    Args:
        env: clock.
        log_width: log2 of the scores in a beat (S).
        softmax: in front of it.
        lsb_passes: out: to the key fork.
        decided: out: passes whose request needs no other, to the merge.
        recorder: takes the timeline, if given.

    Attributes:
        accepted: cycle in which it accepted the last score so far.
    """

    def __init__(
        self,
        env: Clock,
        log_width: int,
        softmax: Softmax,
        lsb_passes: Port[KeyPass],
        decided: Port[KeyPass],
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(env, "decision", recorder)
        self._clock = env
        self._latency = _STAGES + log_width
        self._softmax, self._lsb_passes, self._decided = softmax, lsb_passes, decided
        self.accepted = 0
        # Cycle from which it takes a pass, and that after the last decided beat so far.
        self._ready = self._empty = 0

    def decide(self, item: KeyPass, offered: int) -> int:
        """Take the scores of a pass.

        Args:
            item: whose they are.
            offered: cycle in which the dot product hands over the last line.

        Returns:
            Cycle in which it is taken.
        """
        taken = max(self._ready, offered)
        self.turn_to(item.code, self._ready, taken, "no_scores")
        # The last score is accepted when the pass before has left, a beat a cycle; a pass is
        # decided one pipeline length after that (2.9, 2.11).
        last = self._softmax.pass_on(item, taken) - 1
        item.decided = decided = max(last + self._latency, self._empty)
        self._empty = decided + item.score_lines
        self.accepted = decided - self._latency
        self._ready = self.accepted + 1
        self.worked(taken, self._ready - taken)
        if item.request.refetch and not item.lsb_pass:
            # A decision may become known later than it happens: see `hold_until`.
            self._clock.call(decided + _REFETCH_DELAY, lambda _: self._fetch_again(item))
        else:
            item.released.announce(decided + _KEY_RELEASE)
            self._decided.put(item)
        return taken

    def hold_until(self, cycle: int) -> None:
        """Keep what was decided last until the merge has let it go, and take nothing before."""
        self.stalled(self._ready, cycle - self._ready, "merge_busy")
        self._ready = max(self._ready, cycle)

    def _fetch_again(self, first: KeyPass) -> None:
        self._lsb_passes.put(KeyPass(self._clock, first.request, first))
