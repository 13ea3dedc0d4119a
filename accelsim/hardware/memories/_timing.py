"""The timing table of a :class:`MemoryConfig` as flat arrays that the kernels read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accelsim.errors import ConfigError, did_you_mean
from accelsim.hardware.config import MemoryConfig

COMMANDS = ("ACT", "PRE", "RD", "WR", "PREA", "REFab")
"""Commands the channel issues; their positions are their codes in the kernels."""
LEVELS = ("channel", "pseudochannel", "bankgroup", "bank")
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


class Organisation(NamedTuple):
    """What the kernels need to know of one memory; every number an int64.

    Attributes:
        rules: (r, 4) rows of (level, before command, ticks, window), grouped by ``after``,
            then by level.
        first_rule: (7,) rows of command c are ``rules[first_rule[c]:first_rule[c + 1]]``.
        shape: (12,) column shift, pseudo-channels, bank groups, banks, rows, read latency,
            in-flight limit, queue entries, refresh interval
            (0: none), 1 if flat, ticks of a flat transfer times ``FLAT_UNIT``, interleave shift.
        nodes: (banks of a channel, 4) the node of each level above and at a bank: channel,
            pseudo-channel, bank group, bank. A table, because division is slow in the hot loop.
    """

    rules: NDArray[np.int64]
    first_rule: NDArray[np.int64]
    shape: NDArray[np.int64]
    nodes: NDArray[np.int64]


def organisation(memory: MemoryConfig) -> Organisation:
    """Compile ``memory``.

    Rows that name a command the channel never issues (RDA, WRA, REFsb) are refused, so that no
    constraint is silently without effect.

    Raises:
        ConfigError: an unknown command, a window that is too long, or sizes that are no powers of
            two (the address map takes bit fields).
    """
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
    rules: list[list[tuple[int, int, int, int]]] = [[] for _ in COMMANDS]
    for row in memory.timing:
        for command in (row.after, *row.before):
            if command not in COMMANDS:
                raise ConfigError(
                    f"memory: timing row names unknown command '{command}'"
                    f"{did_you_mean(command, COMMANDS)} (known: {', '.join(COMMANDS)})"
                )
        if row.window > MAX_WINDOW:
            raise ConfigError(f"memory: timing window {row.window} is longer than {MAX_WINDOW}")
        level = LEVELS.index(row.level)
        for command in row.before:
            entry = (level, COMMANDS.index(command), row.cycles, row.window)
            rules[COMMANDS.index(row.after)].append(entry)
    flat = [entry for group in rules for entry in sorted(group)] or [(0, 0, 0, 1)]
    first = np.cumsum([0] + [len(group) for group in rules])
    interval = memory.refresh_interval if memory.refresh else 0
    shape = (
        memory.row_bytes.bit_length() - 1,
        memory.pseudochannels,
        memory.bankgroups,
        memory.banks,
        memory.rows,
        memory.flat_latency if memory.kind == "flat" else memory.read_latency,
        memory.inflight_limit,
        memory.queue_entries,
        interval,
        int(memory.kind == "flat"),
        round(FLAT_UNIT * memory.transaction_bytes / memory.bytes_per_tick),
        interleave.bit_length() - 1,
    )
    banks = np.arange(memory.pseudochannels * memory.bankgroups * memory.banks)
    groups = banks // memory.banks
    first_group = 1 + memory.pseudochannels
    first_bank = first_group + memory.pseudochannels * memory.bankgroups
    nodes = np.stack(
        [0 * banks, 1 + groups // memory.bankgroups, first_group + groups, first_bank + banks], 1
    )
    return Organisation(
        np.asarray(flat, dtype=np.int64),
        first.astype(np.int64),
        np.asarray(shape, dtype=np.int64),
        np.ascontiguousarray(nodes, dtype=np.int64),
    )
