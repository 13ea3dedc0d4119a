"""What the DRAM channels behind a matrix fetcher did, for a timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accelsim.hardware.blocks._crossbar import RING
from accelsim.hardware.blocks._spans import close_spans, new_rows, note_channels, open_spans
from accelsim.hardware.blocks.matrix_fetcher import advance
from accelsim.hardware.timeline import NO_ITEM, Recorder
from accelsim.jit import kernel

if TYPE_CHECKING:
    from accelsim.hardware.blocks.matrix_fetcher import MatrixFetcher

Ints = NDArray[np.int64]

_CHUNK_CYCLES = 2048
"""Cycles between two looks at the buffer of closed spans."""


class ChannelWatch:
    """Watches the channels while the fetcher runs.

    Args:
        recorder: takes the spans.
        fetcher: whose channels.
    """

    def __init__(self, recorder: Recorder, fetcher: MatrixFetcher) -> None:
        self._recorder, self._fetcher = recorder, fetcher
        channels = len(fetcher.channels)
        self._codes = np.full(RING, NO_ITEM, np.int64)
        self._track = min(recorder.channel(d) for d in range(channels))
        self._opened = open_spans(self._track + channels)
        self._rows = new_rows(channels * (_CHUNK_CYCLES + 1))

    def queue(self, first: int, beats: int, code: int) -> None:
        """Remember whose fetch beats come next."""
        self._codes[np.arange(first, first + beats) % RING] = code

    def advance(self, limit: int) -> int:
        """Run the compiled service of the fetcher; 1 if a matrix was completed."""
        fetcher = self._fetcher
        finished = 0
        while fetcher.state[0]["cycle"] < limit and not finished:
            until = min(limit, int(fetcher.state[0]["cycle"]) + _CHUNK_CYCLES)
            finished, used = _advance_watched(
                *fetcher.service, until, self._codes, self._opened, self._rows, self._track
            )
            self._recorder.add_rows(self._rows[:used].copy())
        return finished

    def finish(self) -> None:
        """Close what is open."""
        now = int(self._fetcher.state[0]["cycle"])
        used = close_spans(self._opened, self._rows, self._track, self._fetcher.channels, now)
        self._recorder.add_rows(self._rows[:used].copy())


@kernel
def _advance_watched(
    s: Any,
    beats: Any,
    addresses: Ints,
    fetch: Any,
    drams: Any,
    state: Any,
    banks: Any,
    org: Any,
    shift: int,
    rate: int,
    limit: int,
    codes: Ints,
    opened: Ints,
    rows: Ints,
    track: int,
) -> tuple[int, int]:
    """Do what ``advance`` does, cycle by cycle, and note the item that each channel's oldest
    outstanding read belongs to.

    Args:
        s, beats, addresses, fetch, drams, state, banks, org, shift, rate, limit: as for
            ``advance``; at most ``len(rows)`` divided by the channels cycles ahead.
        codes: item code of each fetch beat [RING].
        opened: open spans.
        rows: room for closed spans.
        track: track of channel 0.

    Returns:
        What ``advance`` returns, and how many spans were closed.
    """
    used, finished = 0, 0
    while s[0].cycle < limit and finished == 0:
        now = s[0].cycle
        # Channels without work have nothing to show.
        until = limit if s[0].joined == s[0].tail else now + 1
        used = note_channels(
            addresses,
            fetch,
            drams,
            state,
            codes,
            opened,
            rows,
            used,
            track,
            now,
        )
        finished = advance(s, beats, addresses, fetch, drams, state, banks, org, shift, rate, until)
    return finished, used
