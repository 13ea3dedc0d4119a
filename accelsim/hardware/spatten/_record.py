"""What the event engine records beside its modules: the DRAM channels."""

from __future__ import annotations

import numpy as np

from accelsim.hardware.memories._channel import Channels
from accelsim.hardware.memories._timing import Organisation
from accelsim.hardware.spatten._fetch_kernel import CYCLE, RING, TAIL, Fetcher
from accelsim.hardware.spatten._record_kernel import (
    advance_watched,
    close_spans,
    new_rows,
    open_spans,
)
from accelsim.hardware.timeline import NO_ITEM, Recorder

_CHUNK_CYCLES = 2048
"""Cycles between two looks at the buffer of closed spans."""


class ChannelWatch:
    """Watches the channels while the fetcher runs.

    Args:
        recorder: takes the spans.
        channels: how many there are.
    """

    def __init__(self, recorder: Recorder, channels: int) -> None:
        self._recorder = recorder
        self._codes = np.full(RING, NO_ITEM, np.int64)
        self._track = min(recorder.channel(d) for d in range(channels))
        self._opened = open_spans(self._track + channels)
        self._rows = new_rows(channels * (_CHUNK_CYCLES + 1))

    def queue(self, fetcher: Fetcher, transactions: int, code: int) -> None:
        """Remember whose the next transactions' fetch beats are; before they are queued."""
        beats = -(-transactions // len(fetcher.fetch))
        tail = int(fetcher.scalars[TAIL])
        self._codes[np.arange(tail, tail + beats) % RING] = code

    def advance(
        self,
        fetcher: Fetcher,
        dram: Channels,
        org: Organisation,
        shift: int,
        rate: int,
        limit: int,
    ) -> int:
        """Do what the fetch kernel's ``advance`` does."""
        finished = 0
        while fetcher.scalars[CYCLE] < limit and not finished:
            until = min(limit, int(fetcher.scalars[CYCLE]) + _CHUNK_CYCLES)
            finished, used = advance_watched(
                fetcher,
                dram,
                org,
                shift,
                rate,
                until,
                self._codes,
                self._opened,
                self._rows,
                self._track,
            )
            self._recorder.add_rows(self._rows[:used].copy())
        return finished

    def finish(self, fetcher: Fetcher, dram: Channels) -> None:
        """Close what is open."""
        now = int(fetcher.scalars[CYCLE])
        used = close_spans(self._opened, self._rows, self._track, dram, now)
        self._recorder.add_rows(self._rows[:used].copy())
