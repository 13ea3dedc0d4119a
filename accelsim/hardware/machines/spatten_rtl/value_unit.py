"""Value buffer and probability x value (sections 2.8 and 2.15)."""

from __future__ import annotations

from accelsim.hardware.machines.spatten_rtl.facts import MULTIPLY_STAGES, READ_QUEUE
from accelsim.hardware.machines.spatten_rtl.fetcher import WRITTEN
from accelsim.hardware.machines.spatten_rtl.items import Matrix
from accelsim.hardware.machines.spatten_rtl.requests import Request
from accelsim.hardware.simulation import Clock, Module
from accelsim.hardware.timeline import VALUES, Recorder, item_code

_READ_AHEAD = READ_QUEUE - 1 + 5
"""Lines between the read queue's input and the multipliers: those of the queue, and 5 in the read
pipeline (2.8)."""


class WeightedSumUnit(Module):
    """Multiplies probabilities with values and adds them up, a line a cycle, as they arrive.

    Args:
        env: clock.
        log_width: log2 of the vectors in a line (S).
        rows: requests in all.
        recorder: takes the timeline, if given.

    Attributes:
        responses: cycle of the response of each request, counted from the end of reset.
    """

    def __init__(
        self, env: Clock, log_width: int, rows: int, recorder: Recorder | None = None
    ) -> None:
        super().__init__(env, "pv_unit", recorder)
        self._stages = MULTIPLY_STAGES + log_width
        self.responses = [0] * rows
        self._free = 0

    def weigh(self, request: Request, asked: int, issued: int, values: Matrix | None) -> int:
        """Multiply the values of a request.

        Args:
            request: whose they are.
            asked: cycle in which they were asked for.
            issued: cycle in which the fetcher took that.
            values: the matrix; ``None`` where it is in the buffer.

        Returns:
            Cycle in which the descriptors are free: all is written, and all reads are in the read
            queue.
        """
        arrived = written = asked
        if values is not None:
            arrived, written = values.cycle or 0, values.returned + WRITTEN
        lines = request.value_lines
        start = max(issued, self._free)
        self.turn_to(item_code(request.row, VALUES), self._free, start, "no_values")
        self._free = end = max(arrived, start + lines)
        self.worked_on_arrivals(start, end, lines, "awaiting_values")
        self.responses[request.row] = end + self._stages
        return max(written, end - _READ_AHEAD)
