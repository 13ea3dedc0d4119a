"""A timeline as a Chrome trace for Perfetto, or as a picture of the first requests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelsim import __version__
from accelsim.drawing import COLORS, LIGHT, PICTURES, new_figure, plain_figures, write_picture
from accelsim.files import whole_file
from accelsim.hardware.timeline import (
    END,
    ITEM,
    NO_ITEM,
    START,
    STATE,
    TRACK,
    UNKNOWN,
    Timeline,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MODULES, _CHANNELS = 1, 2
"""Process numbers of the trace."""
_CNAMES = (
    "thread_state_uninterruptible",
    "thread_state_iowait",
    "terrible",
    "bad",
    "thread_state_runnable",
    "vsync_highlight_color",
    "heap_dump_stack_frame",
    "rail_animation",
    "rail_idle",
    "background_memory_dump",
    "detailed_memory_dump",
    "cq_build_attempt_runnig",
    "olive",
    "grey",
)
"""Names of Chrome's reserved colours for the reasons of stalls, in the order in which they are
first seen (catapult, tracing/base/color_scheme.html; the misspelling is theirs)."""
_WORKING = "good"
_BUSY_COLOR, *_OTHERS = COLORS
_PALETTE = (*_OTHERS, *LIGHT)


def trace_events(timeline: Timeline, manifest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the document of Chrome's trace event format (JSON object format).

    One complete event ("X") a span; ``ts`` and ``dur`` are microseconds at the core clock, and
    ``args`` has the cycles. Metadata events ("M") name the tracks.

    Args:
        timeline: what to show.
        manifest: of the run, put beside the events but for the full configurations.
    """
    return {**_header(timeline, manifest), "traceEvents": list(_events(timeline))}


def _header(timeline: Timeline, manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "ts_unit": "µs at the core clock",
            "core_clock_hz": timeline.frequency_hz,
            "total_cycles": timeline.total_cycles,
            "window_cycles": list(timeline.window),
            "accelsim_version": __version__,
            "manifest": {k: v for k, v in (manifest or {}).items() if k != "configs"},
        },
    }


def _events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    yield from _names(timeline)
    colors: dict[int, str] = {}
    for track, start, end, item, state, reads in timeline.spans.tolist():
        channel = track >= timeline.modules
        if state:
            colors.setdefault(state, _CNAMES[len(colors) % len(_CNAMES)])
        args: dict[str, Any] = {"start_cycle": start, "cycles": end - start}
        if item != NO_ITEM:
            args |= {"request": item >> 2, "step": int(timeline.step[item >> 2])}
        if channel and reads != UNKNOWN:
            args["reads"] = reads
        if state:
            args["waiting_for"] = timeline.states[state]
            if item != NO_ITEM:
                args["item"] = timeline.label(item)
        yield {
            "ph": "X",
            "pid": _CHANNELS if channel else _MODULES,
            "tid": track,
            "ts": _microseconds(start, timeline.frequency_hz),
            "dur": _microseconds(end - start, timeline.frequency_hz),
            "name": _title(timeline, item, state),
            "cat": "dram" if channel else "stall" if state else "busy",
            "cname": colors[state] if state else _WORKING,
            "args": args,
        }


def write_timeline(
    path: str | Path,
    timeline: Timeline,
    manifest: Mapping[str, Any] | None = None,
    title: str = "",
) -> None:
    """Write a Chrome trace, or a picture where the name ends in ``.svg`` or ``.png``.

    Args:
        path: file to write.
        timeline: what to show.
        manifest: of the run, for the trace.
        title: over the picture.

    Raises:
        AccelsimError: the file cannot be written.
    """
    if Path(path).suffix.lower() in PICTURES:
        write_picture(path, timeline_figure(timeline, title))
        return
    head = json.dumps(_header(timeline, manifest), ensure_ascii=False)
    with whole_file(path) as stream:
        # One event a line, and one at a time: there may be millions.
        stream.write(f'{head[:-1]}, "traceEvents": [\n'.encode())
        for number, event in enumerate(_events(timeline)):
            text = json.dumps(event, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
            stream.write((",\n" if number else "").encode() + text.encode())
        stream.write(b"\n]}\n")


@plain_figures()
def timeline_figure(timeline: Timeline, title: str = "", requests: int = 4) -> Figure:
    """Draw the spans of the first requests, one row a track.

    Args:
        timeline: what to draw.
        title: over the picture.
        requests: how many requests to show from the beginning of the window; the axis ends with
            the last span of the last of them.
    """
    from matplotlib.patches import Patch

    spans = timeline.spans
    first, last = timeline.window[0], _end_of(timeline, requests)
    spans = spans[spans[:, START] < last]
    figure, axes = new_figure(11, 0.8 + 0.24 * len(timeline.tracks))
    shown = sorted(set(spans[spans[:, STATE] > 0, STATE].tolist()))
    colors = {0: _BUSY_COLOR} | {s: _PALETTE[i % len(_PALETTE)] for i, s in enumerate(shown)}
    many = len(spans) > 4000
    for track in range(len(timeline.tracks)):
        rows = spans[spans[:, TRACK] == track]
        extent = np.stack([rows[:, START], np.minimum(rows[:, END], last) - rows[:, START]], 1)
        axes.broken_barh(
            extent.tolist(),
            (track - 0.4, 0.8),
            facecolors=[colors[state] for state in rows[:, STATE].tolist()],
            # Thousands of bars are a picture inside the picture.
            rasterized=many,
        )
        _write_labels(axes, timeline, rows, track, (first, last))
    axes.set_xlim(first, last)
    axes.set_ylim(len(timeline.tracks) - 0.4, -0.6)
    axes.set_yticks(range(len(timeline.tracks)), timeline.tracks, fontsize=7)
    axes.set_title(title, fontsize=9)
    clock = f"{timeline.frequency_hz / 1e9:g} GHz"
    axes.set_xlabel(f"core cycles from the start of reset ({clock})")
    handles = [Patch(color=_BUSY_COLOR, label="working, or data owed")]
    handles += [Patch(color=colors[s], label=_words(timeline.states[s])) for s in shown]
    axes.legend(
        handles=handles, fontsize=7, frameon=False, ncols=6, loc="upper left",
        bbox_to_anchor=(0, -0.6 / max(figure.get_figheight() - 1, 1)),
    )  # fmt: skip
    return figure


def _end_of(timeline: Timeline, requests: int) -> int:
    """Find the cycle after the last span of the first requests of the window."""
    items = timeline.spans[timeline.spans[:, ITEM] != NO_ITEM]
    if not len(items):
        return timeline.window[1]
    rows = items[:, ITEM] >> 2
    wanted = np.unique(rows)[:requests]
    return int(items[np.isin(rows, wanted) & (items[:, STATE] == 0), END].max(initial=1))


def _write_labels(
    axes: Any, timeline: Timeline, rows: Any, track: int, view: tuple[int, int]
) -> None:
    """Name the items whose spans, gaps included, are wide enough for their names."""
    busy = rows[(rows[:, STATE] == 0) & (rows[:, ITEM] != NO_ITEM)]
    if not len(busy):
        return
    starts = np.flatnonzero(np.concatenate(([True], busy[1:, ITEM] != busy[:-1, ITEM])))
    ends = np.concatenate((starts[1:], [len(busy)])) - 1
    for a, b in zip(starts, ends, strict=True):
        left, right = int(busy[a, START]), int(min(busy[b, END], view[1]))
        if right - left > 0.08 * (view[1] - view[0]):
            name = timeline.label(int(busy[a, ITEM]))
            axes.text(
                (left + right) / 2, track, name, ha="center", va="center", fontsize=5.5, color="w"
            )


def _names(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for pid, name in {_MODULES: "modules", _CHANNELS: "DRAM"}.items():
        yield {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}}
    for number, name in enumerate(timeline.tracks):
        pid = _MODULES if number < timeline.modules else _CHANNELS
        track: dict[str, Any] = {"ph": "M", "pid": pid, "tid": number}
        yield {**track, "name": "thread_name", "args": {"name": name}}
        yield {**track, "name": "thread_sort_index", "args": {"sort_index": number}}


def _microseconds(cycles: int, frequency_hz: float) -> float:
    """Return the time of a number of cycles, such that readers that cut it to whole nanoseconds
    (Perfetto multiplies by 1000 and truncates) do not lose one to rounding.
    """
    nanoseconds = cycles * 1e9 / frequency_hz
    value = nanoseconds / 1e3
    whole = round(nanoseconds)
    if value * 1e3 < whole and abs(nanoseconds - whole) < 1e-6:
        return math.nextafter(value, math.inf)
    return value


def _title(timeline: Timeline, item: int, state: int) -> str:
    if state:
        return _words(timeline.states[state])
    return "working" if item == NO_ITEM else timeline.label(item)


def _words(state: str) -> str:
    return state.replace("_", " ")
