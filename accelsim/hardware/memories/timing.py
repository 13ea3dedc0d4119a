"""The timing table of a :class:`MemoryConfig` as one record that the kernels read."""

from __future__ import annotations

from typing import Any

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

MAX_RULES = 4096
"""Most rules of a memory: of each row of its timing table, one for each node that it holds back."""

RULE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "node",  # where the earliest tick of the command it holds back stands, for bank 0
            "node_shift",  # log2 of the banks of a node there
            "same",  # bits of a bank's node that it is held back with
            "ticks",  # for so long
            "window",  # from the n-th last command on
            "history",  # first history of its level and command, one for each node; -1: none
            "history_shift",  # log2 of the banks at its level
        )
    ]
)
"""A rule of the timing table, for one node. The earliest ticks of a command are kept for each bank
and for each pseudo-channel (``nodes`` in all), of which the later counts: a row of the table for a
bank group is a rule for each of its banks, one for the channel a rule for each pseudo-channel. One
loop of rules that are alike, long as it may be, is faster than few rules with a loop in each."""

ORGANISATION = np.dtype(
    [
        (name, np.int64)
        for name in (
            # Sizes are powers of two and stored as shifts.
            "interleave_shift",
            "column_shift",
            "pseudo_shift",
            "group_shift",
            "bank_shift",
            "row_mask",
            "read_latency",
            "inflight_limit",
            "queue_entries",
            "refresh_interval",
            "scheduler",
            "flat_units",  # of a transaction, in FLAT_UNIT
            "banks",  # of the channel
            "pseudo_banks_shift",  # log2 of the banks of a pseudo-channel
            "histories",  # of commands, for the rules with a window
            "nodes",  # banks and pseudo-channels
            "before_refresh",  # ticks that rules which only hold back a refresh reach
            "two_buses",
            "half_clocks",
            "split_act",
            "first_tick",  # columns of the state of the banks, see ``Banks`` of a channel
            "first_history",
            "first_opened",
            "first_waiting",
            "columns",
        )
    ]
    + [
        ("first_rule", np.int64, len(COMMANDS) + 1),  # where the rules of each command start
        ("plain_rule", np.int64, len(COMMANDS)),  # those of them without a window
        ("refresh_rule", np.int64, len(COMMANDS)),  # and those that hold back a refresh
        ("rules", RULE, MAX_RULES),
    ]
)
"""What the kernels need to know of one memory."""

Organisation = NDArray[np.void]
"""One record of :data:`ORGANISATION`."""


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
    org = np.zeros(1, ORGANISATION)
    header = org[0]
    for name, size in (
        ("interleave_shift", memory.interleave_bytes or memory.row_bytes),
        ("column_shift", memory.row_bytes),
        ("pseudo_shift", memory.pseudochannels),
        ("group_shift", memory.bankgroups),
        ("bank_shift", memory.banks),
    ):
        header[name] = size.bit_length() - 1
    is_flat = memory.kind == "flat"
    banks = memory.pseudochannels * memory.bankgroups * memory.banks
    nodes = banks + memory.pseudochannels
    for name, value in {
        "row_mask": memory.rows - 1,
        "read_latency": memory.flat_latency if is_flat else memory.read_ticks,
        "inflight_limit": memory.inflight_limit,
        "queue_entries": memory.queue_entries,
        "refresh_interval": memory.refresh_ticks if memory.refresh else 0,
        "scheduler": _scheduler(memory),
        "flat_units": round(FLAT_UNIT * memory.transaction_bytes / memory.bytes_per_tick),
        "banks": banks,
        "nodes": nodes,
        "two_buses": memory.command_buses == 2,
        "half_clocks": memory.half_clock_ticks,
        "split_act": memory.split_activation,
        "first_tick": banks,
        "first_history": banks + len(COMMANDS) * nodes,
    }.items():
        header[name] = value
    header["pseudo_banks_shift"] = _banks_shift(header, PSEUDOCHANNEL)
    _add_rules(header, _rules(memory, writes))
    header["first_opened"] = header["first_history"] + header["histories"] * MAX_WINDOW
    header["first_waiting"] = header["first_opened"] + banks
    header["columns"] = header["first_waiting"] + banks
    return org


def _scheduler(memory: MemoryConfig) -> int:
    if memory.kind == "flat":
        return FLAT
    if memory.command_buses == 2 or memory.split_activation:
        return PASSING_OVER
    return SINGLE_BUS


def _add_rules(header: Any, groups: list[list[tuple[int, int, int, int]]]) -> None:
    """Write the rules of each command into the record of a memory."""
    found: list[tuple[int, ...]] = []
    histories = 0
    for command, group in enumerate(groups):
        for start in ("first_rule", "plain_rule", "refresh_rule"):
            header[start][command] = len(found)
        first: dict[int, int] = {}
        for level, before, ticks, window in group:
            shift = _banks_shift(header, level)
            if window > 1 and level not in first:
                first[level] = histories
                histories += int(header["banks"]) >> shift
            node, node_shift = before * int(header["nodes"]), 0
            # A command to all banks of a pseudo-channel waits for every one of them.
            if level <= PSEUDOCHANNEL or COMMANDS[before] in TO_ALL_BANKS:
                node += int(header["banks"])
                node_shift = int(header["pseudo_banks_shift"])
            span = 1 << max(shift - node_shift, 0)
            history = first[level] if window > 1 else -1
            same = -span
            found += [
                (node + at, node_shift, same, ticks, window, history, shift) for at in range(span)
            ]
            if window > 1:
                header["plain_rule"][command] = len(found)
            if _refreshes_only(before, window):
                header["before_refresh"] = max(int(header["before_refresh"]), ticks)
            else:
                header["refresh_rule"][command] = len(found)
    if len(found) > MAX_RULES:
        raise ConfigError(
            f"memory: the timing table holds back banks in {len(found):,} ways; expected at most "
            f"{MAX_RULES:,} (a row of a bank group counts once for each of its banks)"
        )
    header["rules"][: len(found)] = found
    header["first_rule"][len(groups)] = len(found)
    header["histories"] = histories


def _refreshes_only(before: int, window: int) -> bool:
    """Whether a rule only holds back what a refresh consists of, and needs no history."""
    return COMMANDS[before] in TO_ALL_BANKS and window == 1


def _banks_shift(header: Any, level: int) -> int:
    """log2 of the banks below one node of a level."""
    return int(sum(header[name] for name in ("pseudo_shift", "group_shift", "bank_shift")[level:]))


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
    """Rules by command: those with a window first, those of refresh last; sorted by level.

    Those that others imply are left out.

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
            key=lambda rule: (rule[3] == 1, _refreshes_only(rule[1], rule[3]), rule),
        )
        for group in tightest
    ]
