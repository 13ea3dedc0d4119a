"""What the event engine records beside its modules: the DRAM channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks._crossbar import RING
from accelsim.hardware.blocks._spans import close_spans, new_rows, note_channels, open_spans
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import (
    Fetcher,
    advance,
)
from accelsim.hardware.memories.channel import Banks, Channels
from accelsim.hardware.memories.timing import Organisation
from accelsim.hardware.timeline import NO_ITEM, Recorder
from accelsim.jit import kernel

Ints = NDArray[np.int64]

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
        tail = int(fetcher.state[0]["tail"])
        self._codes[np.arange(tail, tail + beats) % RING] = code

    def advance(
        self,
        fetcher: Fetcher,
        dram: Channels,
        banks: Banks,
        org: Organisation,
        shift: int,
        rate: int,
        limit: int,
    ) -> int:
        """Do what the fetch kernel's ``advance`` does."""
        finished = 0
        while fetcher.state[0]["cycle"] < limit and not finished:
            until = min(limit, int(fetcher.state[0]["cycle"]) + _CHUNK_CYCLES)
            finished, used = _advance_watched(
                fetcher,
                dram,
                banks,
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
        now = int(fetcher.state[0]["cycle"])
        used = close_spans(self._opened, self._rows, self._track, dram, now)
        self._recorder.add_rows(self._rows[:used].copy())


@kernel
def _advance_watched(
    fetcher: Fetcher,
    dram: Channels,
    banks: Banks,
    org: Organisation,
    shift: int,
    rate: int,
    limit: int,
    codes: Ints,
    opened: Ints,
    rows: Ints,
    track: int,
) -> tuple[int, int]:
    """Do what ``advance`` does, cycle by cycle, and note what the channels do.

    Args:
        fetcher, dram, banks, org, shift, rate, limit: as for ``advance``; at most ``len(rows)``
            divided by the channels cycles ahead.
        codes: item code of each fetch beat [RING].
        opened: open spans.
        rows: room for closed spans.
        track: track of channel 0.

    Returns:
        What ``advance`` returns, and how many spans were closed.
    """
    s, beats, addresses, fetch, ports = fetcher
    used, finished = 0, 0
    while s[0].cycle < limit and finished == 0:
        now = s[0].cycle
        # Channels without work have nothing to show.
        until = limit if s[0].joined == s[0].tail else now + 1
        used = note_channels(addresses, fetch, ports, dram, codes, opened, rows, used, track, now)
        finished = advance(s, beats, addresses, fetch, ports, dram, banks, org, shift, rate, until)
    return finished, used
