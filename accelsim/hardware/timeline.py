"""Timeline: what each module and DRAM channel did in every cycle, as spans on tracks.

A run that is given a :class:`Recorder` leaves a :class:`Timeline` in it. Nothing is recorded, and
nothing is slower, without one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import AccelsimError
from accelsim.hardware.activity import ModuleActivity
from accelsim.workloads import Workload

PASSES = ("keys MSB", "keys LSB", "values", "scores")
"""What of a request an item is; the index is the low part of an item code."""
KEYS_MSB, KEYS_LSB, VALUES, SCORES = range(len(PASSES))
NO_ITEM = -1
"""Item code of a span that belongs to no request."""
BUSY = "busy"
"""Name of the state that is no stall."""

TRACK, START, END, ITEM, STATE, READS = range(6)
"""Columns of :attr:`Timeline.spans`."""
N_COLUMNS = 6
UNKNOWN = -1
"""READS of a span of a DRAM channel that a window has cut."""

Ints = NDArray[np.int64]


def item_code(row: int, part: int) -> int:
    """Return the code of an item: a row of the workload and an index into :data:`PASSES`."""
    return row << 2 | part


@dataclass(frozen=True)
class Timeline:
    """Spans of one run, ordered by track and start; those of one track never overlap.

    A module's track has its busy spans and its stalls; what is left of it is idle. A channel's
    track has the time in which it owes data; its item is the one that waits longest.

    Attributes:
        tracks: names; modules as in ``Activity.modules``, then the DRAM channels.
        modules: how many of the tracks are modules.
        states: names; the first is busy, the others are reasons of stalls.
        spans: int64 [spans, 6]: track, first cycle, cycle after the last, item code, state, and
            for channels the read bursts that were issued. Cycle 0 is the start of reset, as in
            ``Activity.cycles``.
        layer, head, step: of each row of the workload, int64 [rows].
        frequency_hz: core clock.
        total_cycles: of the whole run.
        window: first cycle, and cycle after the last, that was kept.
    """

    tracks: tuple[str, ...]
    modules: int
    states: tuple[str, ...]
    spans: Ints
    layer: Ints
    head: Ints
    step: Ints
    frequency_hz: float
    total_cycles: int
    window: tuple[int, int]

    def label(self, item: int) -> str:
        """Name an item as ``L3 H7 keys LSB``."""
        row = item >> 2
        return f"L{self.layer[row]} H{self.head[row]} {PASSES[item & 3]}"

    def module_activity(self) -> dict[str, ModuleActivity]:
        """Add up the spans of each module; what is left of the window was idle."""
        tracks = self.tracks[: self.modules]
        length = self.window[1] - self.window[0]
        return {name: _sums(self.spans, i, self.states, length) for i, name in enumerate(tracks)}


class Recorder:
    """Collects spans while a machine runs.

    Args:
        window: first cycle to keep and the cycle after the last; everything if not given. ``None``
            in either place stands for the beginning, or the end, of the run.
    """

    def __init__(self, window: tuple[int | None, int | None] = (None, None)) -> None:
        start, end = window
        if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
            raise AccelsimError(
                f"timeline window {_shown(window)}: expected START:END in cycles with "
                "0 <= START < END"
            )
        self._window = window
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._blocks: list[Ints] = []
        self._tracks: dict[str, int] = {}
        self._states: dict[str, int] = {BUSY: 0}
        self._modules = 0
        self._timeline: Timeline | None = None

    @property
    def timeline(self) -> Timeline:
        """What was recorded, once the run has ended."""
        if self._timeline is None:
            raise ValueError("nothing was recorded")
        return self._timeline

    def module(self, name: str) -> int:
        """Return the number of a module's track; all modules come before the channels."""
        number = self._tracks.setdefault(name, len(self._tracks))
        self._modules = max(self._modules, number + 1)
        return number

    def channel(self, channel: int) -> int:
        """Return the number of a DRAM channel's track."""
        return self._tracks.setdefault(f"DRAM channel {channel}", len(self._tracks))

    def state(self, name: str) -> int:
        """Return the number of a state, :data:`BUSY` or a reason."""
        return self._states.setdefault(name, len(self._states))

    def add(self, track: int, start: int, end: int, item: int, state: str = BUSY) -> None:
        """Record one span of a module."""
        if end > start:
            self._rows.append((track, int(start), int(end), item, self.state(state), 0))

    def add_reads(self, track: int, start: int, end: int, item: int, reads: int) -> None:
        """Record a span in which a DRAM channel owes the data of ``reads`` bursts."""
        self._rows.append((track, start, end, item, self.state(BUSY), reads))

    def add_rows(self, rows: Ints) -> None:
        """Record spans that have the columns of :attr:`Timeline.spans`."""
        self._blocks.append(rows)

    def finish(
        self, workload: Workload, frequency_hz: float, total_cycles: int, reset_cycles: int
    ) -> dict[str, ModuleActivity]:
        """Close the recording.

        Args:
            workload: whose rows the item codes name.
            frequency_hz: core clock.
            total_cycles: of the run.
            reset_cycles: between cycle 0 of the result and cycle 0 of the spans.

        Returns:
            Time of each module over the whole run, whatever the window.

        Raises:
            AccelsimError: the window begins after the end of the run.
        """
        spans = np.array(self._rows, np.int64).reshape(-1, N_COLUMNS)
        spans = np.concatenate([spans, *self._blocks])
        spans = _joined(spans[np.lexsort((spans[:, START], spans[:, TRACK]))])
        states = tuple(self._states)
        modules = {
            name: _sums(spans, number, states, total_cycles)
            for name, number in self._tracks.items()
            if number < self._modules
        }
        spans[:, START : END + 1] += reset_cycles
        start, end = self._window[0] or 0, min(self._window[1] or total_cycles, total_cycles)
        if start >= total_cycles:
            raise AccelsimError(
                f"timeline window {_shown(self._window)}: the run ends at cycle {total_cycles}"
            )
        spans = spans[(spans[:, START] < end) & (spans[:, END] > start)]
        cut = (spans[:, START] < start) | (spans[:, END] > end)
        spans[cut & (spans[:, TRACK] >= self._modules), READS] = UNKNOWN
        spans[:, START : END + 1] = spans[:, START : END + 1].clip(start, end)
        layer, head, step = (workload[n].astype(np.int64) for n in ("layer", "head", "step"))
        self._timeline = Timeline(
            tuple(self._tracks),
            self._modules,
            states,
            spans,
            layer,
            head,
            step,
            frequency_hz,
            total_cycles,
            (start, end),
        )
        return modules


def parse_window(text: str) -> tuple[int | None, int | None]:
    """Read ``START:END`` in cycles; either may be left out.

    Raises:
        AccelsimError: something else.
    """
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        window = (int(first) if first else None, int(last) if last else None)
    except ValueError:
        raise AccelsimError(
            f"timeline window '{text}': expected START:END in cycles, such as 0:5000"
        ) from None
    return window


def _sums(spans: Ints, track: int, states: tuple[str, ...], length: int) -> ModuleActivity:
    """Cycles of one track by state; what they leave of ``length`` is idle."""
    rows = spans[spans[:, TRACK] == track]
    cycles = np.zeros(len(states), np.int64)
    np.add.at(cycles, rows[:, STATE], rows[:, END] - rows[:, START])
    stalls = {states[i]: int(cycles[i]) for i in range(1, len(states)) if cycles[i]}
    left = length - int(cycles.sum())
    if left:
        stalls["idle"] = left
    return ModuleActivity(int(cycles[0]), stalls)


def _joined(spans: Ints) -> Ints:
    """Join neighbours of one track that have the same item and state."""
    if not len(spans):
        return spans
    before, after = spans[:-1], spans[1:]
    same = (before[:, END] == after[:, START]) & (
        before[:, [TRACK, ITEM, STATE]] == after[:, [TRACK, ITEM, STATE]]
    ).all(axis=1)
    first = np.flatnonzero(np.concatenate(([True], ~same)))
    joined = spans[first].copy()
    joined[:, END] = np.maximum.reduceat(spans[:, END], first)
    joined[:, READS] = np.add.reduceat(spans[:, READS], first)
    return joined


def _shown(window: tuple[int | None, int | None]) -> str:
    return ":".join("" if cycle is None else str(cycle) for cycle in window)
