"""The timing table of a :class:`MemoryConfig` as one flat array that the kernels read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import ConfigError, did_you_mean
from accelsim.hardware.config import MemoryConfig

COMMANDS = ("ACT", "PRE", "RD", "WR", "PREA", "REFab")
"""Commands the channel issues; their positions are their codes in the kernels."""
LEVELS = ("channel", "pseudochannel", "bankgroup", "bank")
TO_ALL_BANKS = ("PREA", "REFab")
"""Commands to all banks of a pseudo-channel."""
PSEUDOCHANNEL = LEVELS.index("pseudochannel")
SINGLE_BUS, FLAT, PASSING_OVER = range(3)
"""Schedulers of a channel."""
FLAT_UNIT = 1024
"""Fixed-point unit of the flat memory's transfer time."""
MAX_ENTRIES = 128
"""Most requests in flight per channel (the kernels' ring buffers)."""
MAX_WINDOW = 8
"""Longest ``window`` of a timing row (the history kept of each command)."""
_POWERS_OF_TWO = (
    "row_bytes",
    "pseudochannels",
    "bankgroups",
    "banks",
    "rows",
    "transaction_bytes",
)

Organisation = NDArray[np.int64]
"""What the kernels need to know of one memory: a header (the ``H_`` columns), then the rules of
each command, then the nodes of each bank."""

# Columns of the header. Sizes are powers of two and stored as shifts.
(
    H_INTERLEAVE_SHIFT,
    H_COLUMN_SHIFT,
    H_PSEUDO_SHIFT,
    H_GROUP_SHIFT,
    H_BANK_SHIFT,
    H_ROW_MASK,
    H_READ_LATENCY,
    H_INFLIGHT,
    H_QUEUE,
    H_REFRESH_INTERVAL,
    H_SCHEDULER,
    H_FLAT_UNITS,
    H_BANKS,
    H_PSEUDO_BANKS_SHIFT,
    H_HISTORIES,
    H_NODES,
    H_BEFORE_REFRESH,
    H_TWO_BUSES,
    H_HALF_CLOCKS,
    H_SPLIT_ACT,
    H_FIRST_RULE,
) = range(21)
H_REFRESH_RULE = H_FIRST_RULE + len(COMMANDS) + 1
HEADER = H_REFRESH_RULE + len(COMMANDS)
"""``H_FIRST_RULE + c`` holds where the rules of command ``c`` start, ``H_REFRESH_RULE + c`` where
those of them do that only hold back a refresh; they reach ``H_BEFORE_REFRESH`` ticks."""
RULE = 7
"""Numbers of a rule: where the earliest ticks of the command it holds back start; log2 of the banks
of a node there; how many nodes it holds back; ticks; window (the n-th last command counts); the
first history of its level and command (one for each node); log2 of the banks at its level.

The earliest ticks of a command are kept for each bank and for each pseudo-channel (``H_NODES`` in
all), of which the later counts: a rule of a bank group is kept at its banks, one of the channel at
its pseudo-channels."""


def organisation(memory: MemoryConfig, writes: bool = True) -> Organisation:
    """Compile ``memory``.

    Rows that name a command the channel never issues (RDA, WRA, REFsb) are refused, so that no
    constraint is silently without effect.

    Args:
        memory: what to compile.
        writes: whether any request will be a write; without, what holds WR back is left out.

    Raises:
        ConfigError: an unknown command, a window that is too long, or sizes that are no powers of
            two (the address map takes bit fields).
    """
    _check_sizes(memory)
    header = np.zeros(HEADER, np.int64)
    for column, size in (
        (H_INTERLEAVE_SHIFT, memory.interleave_bytes or memory.row_bytes),
        (H_COLUMN_SHIFT, memory.row_bytes),
        (H_PSEUDO_SHIFT, memory.pseudochannels),
        (H_GROUP_SHIFT, memory.bankgroups),
        (H_BANK_SHIFT, memory.banks),
    ):
        header[column] = size.bit_length() - 1
    header[H_ROW_MASK] = memory.rows - 1
    is_flat = memory.kind == "flat"
    header[H_READ_LATENCY] = memory.flat_latency if is_flat else memory.read_ticks
    header[H_INFLIGHT] = memory.inflight_limit
    header[H_QUEUE] = memory.queue_entries
    header[H_REFRESH_INTERVAL] = memory.refresh_ticks if memory.refresh else 0
    header[H_FLAT_UNITS] = round(FLAT_UNIT * memory.transaction_bytes / memory.bytes_per_tick)
    if is_flat:
        header[H_SCHEDULER] = FLAT
    elif memory.command_buses == 2 or memory.split_activation:
        header[H_SCHEDULER] = PASSING_OVER
    header[H_TWO_BUSES] = memory.command_buses == 2
    header[H_HALF_CLOCKS] = memory.half_clock_ticks
    header[H_SPLIT_ACT] = memory.split_activation
    header[H_BANKS] = memory.pseudochannels * memory.bankgroups * memory.banks
    header[H_PSEUDO_BANKS_SHIFT] = _banks_shift(header, PSEUDOCHANNEL)
    header[H_NODES] = header[H_BANKS] + memory.pseudochannels
    flat: list[int] = []
    for command, group in enumerate(_rules(memory, writes)):
        header[H_FIRST_RULE + command] = header[H_REFRESH_RULE + command] = HEADER + len(flat)
        histories: dict[int, int] = {}
        for level, before, ticks, window in group:
            shift = _banks_shift(header, level)
            first = -1
            if window > 1:
                if level not in histories:
                    histories[level] = int(header[H_HISTORIES])
                    header[H_HISTORIES] += int(header[H_BANKS]) >> shift
                first = histories[level]
            target, nodes_shift = before * int(header[H_NODES]), 0
            # A command to all banks of a pseudo-channel waits for every one of them.
            if level <= PSEUDOCHANNEL or COMMANDS[before] in TO_ALL_BANKS:
                target += int(header[H_BANKS])
                nodes_shift = int(header[H_PSEUDO_BANKS_SHIFT])
            span = 1 << max(shift - nodes_shift, 0)
            flat += [target, nodes_shift, span, ticks, window, first, shift]
            if _refreshes_only(before, window):
                header[H_BEFORE_REFRESH] = max(int(header[H_BEFORE_REFRESH]), ticks)
            else:
                header[H_REFRESH_RULE + command] = HEADER + len(flat)
    header[H_FIRST_RULE + len(COMMANDS)] = HEADER + len(flat)
    return np.concatenate([header, np.asarray(flat, np.int64)])


def _refreshes_only(before: int, window: int) -> bool:
    """Whether a rule only holds back what a refresh consists of, and needs no history."""
    return COMMANDS[before] in TO_ALL_BANKS and window == 1


def _banks_shift(header: NDArray[np.int64], level: int) -> int:
    """log2 of the banks below one node of a level."""
    shifts = (H_PSEUDO_SHIFT, H_GROUP_SHIFT, H_BANK_SHIFT)[level:]
    return int(sum(header[column] for column in shifts))


def ticks_per_1024_cycles(memory: MemoryConfig, frequency_hz: float) -> int:
    """Memory clock ticks in 1024 cycles of a core at ``frequency_hz``.

    Raises:
        ConfigError: a memory clock so slow or so fast that the ratio loses its meaning.
    """
    rate = round(1024 * memory.clock_hz / frequency_hz)
    if not 16 <= rate <= 64 * 1024:
        raise ConfigError(
            f"memory: clock_hz {memory.clock_hz:g} beside a core at {frequency_hz:g} Hz; expected "
            "a ratio between 1/64 and 64"
        )
    return rate


def _check_sizes(memory: MemoryConfig) -> None:
    interleave = memory.interleave_bytes or memory.row_bytes
    for name in (*_POWERS_OF_TWO, "interleave_bytes"):
        size = interleave if name == "interleave_bytes" else int(getattr(memory, name))
        if size & (size - 1):
            raise ConfigError(f"memory: {name} must be a power of two, got {size}")
    if not memory.transaction_bytes <= interleave <= memory.row_bytes:
        raise ConfigError(
            f"memory: interleave_bytes must lie between transaction_bytes "
            f"({memory.transaction_bytes}) and row_bytes ({memory.row_bytes}), got {interleave}"
        )
    for name in ("inflight_limit", "queue_entries"):
        if int(getattr(memory, name)) > MAX_ENTRIES:
            raise ConfigError(
                f"memory: {name} must be at most {MAX_ENTRIES}, got {getattr(memory, name)}"
            )


def _rules(memory: MemoryConfig, writes: bool) -> list[list[tuple[int, int, int, int]]]:
    """Rules by command, those of refresh last, sorted by level, without those that others imply.

    Of rows that differ in their ticks only, the tightest counts; and what holds a command back in
    a whole node does so in all nodes below.
    """
    tightest: list[dict[tuple[int, int, int], int]] = [{} for _ in COMMANDS]
    for row in memory.timing:
        for command in (row.after, *row.before):
            if command not in COMMANDS:
                raise ConfigError(
                    f"memory: timing row names unknown command '{command}'"
                    f"{did_you_mean(command, COMMANDS)} (known: {', '.join(COMMANDS)})"
                )
        if row.after in TO_ALL_BANKS and row.level not in ("channel", "pseudochannel"):
            raise ConfigError(
                f"memory: timing row after {row.after} at level '{row.level}'; {row.after} goes to "
                "all banks of a pseudo-channel, expected level 'pseudochannel' or 'channel'"
            )
        if row.window > MAX_WINDOW:
            raise ConfigError(f"memory: timing window {row.window} is longer than {MAX_WINDOW}")
        group = tightest[COMMANDS.index(row.after)]
        for command in row.before:
            if command == "WR" and not writes:
                continue
            key = (LEVELS.index(row.level), COMMANDS.index(command), row.window)
            group[key] = max(group.get(key, 0), row.ticks(memory.clock_hz))
    return [
        sorted(
            (
                (level, before, ticks, window)
                for (level, before, window), ticks in group.items()
                if all(group.get((above, before, window), -1) < ticks for above in range(level))
            ),
            key=lambda rule: (_refreshes_only(rule[1], rule[3]), rule),
        )
        for group in tightest
    ]
