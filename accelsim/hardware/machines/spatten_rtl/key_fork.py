"""Ring allocator, arbiter and key fork (sections 2.3 and 2.4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from accelsim.hardware.blocks.ring_buffer import RingBuffer
from accelsim.hardware.machines.spatten_rtl.addresses import AddressMap
from accelsim.hardware.machines.spatten_rtl.facts import HANDLES
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import KEY
from accelsim.hardware.machines.spatten_rtl.fetcher import FORK_TO_FETCH, MatrixFetcher
from accelsim.hardware.machines.spatten_rtl.items import KeyPass, Matrix
from accelsim.hardware.machines.spatten_rtl.requests import Request
from accelsim.hardware.simulation import Clock, FirstOf, Module, Pause, Port, Process
from accelsim.hardware.timeline import NO_ITEM, Recorder

_ALLOCATION = 2
"""From a new request to the key fork (2.5)."""


class KeyFork(Module):
    """Asks for keys, of LSB passes first, else of the requests in order; one pass at a time.

    Args:
        env: clock.
        requests: in order.
        buffer_lines: of the key buffer.
        addresses: of the keys.
        fetcher: asked for them.
        lsb_passes: in: passes that the decision wants, from it.
        passes: out: passes that are asked for, to the dot product.
        recorder: takes the timeline, if given.

    Attributes:
        buffer: of keys; a request takes its lines in pairs.
    """

    def __init__(
        self,
        env: Clock,
        requests: Iterable[Request],
        buffer_lines: int,
        addresses: AddressMap,
        fetcher: MatrixFetcher,
        lsb_passes: Port[KeyPass],
        passes: Port[KeyPass],
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(env, "allocator", recorder)
        self._clock = env
        self._new = deque(requests)
        self._passes_left = len(self._new) + sum(request.refetch for request in self._new)
        self.buffer = RingBuffer(buffer_lines, HANDLES)
        self._addresses, self._fetcher = addresses, fetcher
        self._lsb_passes, self._passes = lsb_passes, passes

    def run(self) -> Process:
        """Hand on pass after pass."""
        # The table of handles is cleared after reset, one a cycle (2.3).
        yield from self.busy(HANDLES + _ALLOCATION)
        before: KeyPass | None = None
        for _ in range(self._passes_left):
            item: KeyPass = yield from self._next()
            self.item = item.code
            if before is not None:
                # The fork holds its source until the dot product takes the last line (2.4).
                yield from self.wait_for(before.scored, "serial_key_fork")
            before = item
            yield from self._ask(item)
            item.issued = self._clock.now
            self._passes.put(item)
            yield from self.busy(1)

    def _next(self) -> Process:
        """The pass that the arbiter presents: an LSB pass, or a new request that has its lines."""
        self.item = NO_ITEM
        while self._new and not self._lsb_passes.items:
            request = self._new[0]
            in_the_way = self.buffer.in_the_way(request.ring_lines)
            if in_the_way is None:
                item = KeyPass(self._clock, self._new.popleft())
                self.buffer.allocate(request.ring_lines, item.released)
                return item
            either = FirstOf(self._lsb_passes.filled(), in_the_way.awaited())
            yield from self.wait(either, "buffer_full")
        return (yield from self.take(self._lsb_passes, "awaiting_requant"))

    def _ask(self, item: KeyPass) -> Pause:
        """Ask for the keys; the second of a fused pair finds them in the buffer (4.3)."""
        request = item.request
        if item.lsb_pass:
            transactions = self._addresses.key_lsbs(request.row)
        elif request.key_part:
            return ()
        else:
            transactions = self._addresses.keys(request.row)
        lines = min(request.key_lines + request.key_lines % 2, item.score_lines)
        now = self._clock.now
        item.matrix = Matrix(self._clock, request.row, KEY, item.code, lines, now)
        return self._fetcher.ask(self, item.matrix, transactions, now + FORK_TO_FETCH)
