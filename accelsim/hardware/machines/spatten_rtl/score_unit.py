"""Key buffer, reader and dot product (sections 2.8 and 2.9)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.decision import Decision
from accelsim.hardware.machines.spatten_rtl.facts import DOT_STAGES
from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.simulation import Clock, Milestone, Module, Port
from accelsim.hardware.simulation._module import Following
from accelsim.hardware.timeline import Recorder

_FORK_TO_LINES = 8
"""From the key fork to the first line of keys that are there already: read descriptor, read queue
and read pipeline (2.8)."""


class ScoreUnit(Module):
    """Multiplies a query with the keys of its pass, a line a cycle, as they arrive.

    Args:
        env: clock.
        log_width: log2 of the vectors in a line (S).
        passes: in: from the key fork.
        decision: takes the scores of a pass with its last line.
        recorder: takes the timeline, if given.
    """

    def __init__(
        self,
        env: Clock,
        log_width: int,
        passes: Port[KeyPass],
        decision: Decision,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(env, "qk_unit", recorder)
        # The maximum tree behind the dot product holds twice log2(S) lines (2.9).
        self._pipeline_lines = DOT_STAGES + 2 * log_width
        self._passes, self._decision = passes, decision
        self._free = 0

    def run(self) -> Following:
        """Multiply pass after pass."""
        decision = self._decision
        # Cycles in which the decision took the last pass and the one before.
        taken = taken_before = 0
        stands_before_merge: Milestone | None = None
        while True:
            if not self._passes.items:
                yield self._passes
            item = self._passes.pop()
            if item.matrix is not None and not item.matrix.known:
                yield item.matrix
            end = self._multiply(item, taken)
            item.scored.announce(end)
            # Two passes stand before the decision.
            self._free = max(end, taken_before)
            self.stalled(end, self._free - end, "decision_full")
            if stands_before_merge is not None:
                if not stands_before_merge.known:
                    yield stands_before_merge
                decision.hold_until(stands_before_merge.cycle or 0)
            taken_before, taken = taken, decision.decide(item, self._free)
            # Nothing stands between the decision and the merge for an LSB pass (2.12).
            stands_before_merge = item.left_merge if item.lsb_pass else None

    def _multiply(self, item: KeyPass, taken: int) -> int:
        """The cycle in which the last line of a pass is taken.

        Args:
            item: whose keys have come, as far as is known.
            taken: cycle in which the decision took the pass before.
        """
        start = max(item.issued, self._free)
        self.turn_to(item.code, self._free, start, "no_keys")
        lines, score_lines = item.request.key_lines, item.score_lines
        if item.matrix is None:
            self.stalled(start, _FORK_TO_LINES, "awaiting_keys")
            end = start + _FORK_TO_LINES + score_lines
            self.worked(end - score_lines, score_lines)
        else:
            work = min(lines, score_lines)
            # Its lines stand behind the last one of the pass before, but for those in the pipeline.
            behind = self._decision.accepted + work - self._pipeline_lines
            end = max(item.matrix.cycle or 0, start + work, behind, taken)
            self.worked_on_arrivals(start, end, work, "awaiting_keys")
        if item.request.queries > 1 and score_lines > lines:
            # Further queries take the lines that are there.
            self.worked(end, score_lines - lines)
            end += score_lines - lines
        return end
