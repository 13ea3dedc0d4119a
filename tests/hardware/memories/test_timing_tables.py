"""Every constraint of every preset is tight: a tick too early is refused, the tick itself is not.

Generated from the timing tables, so a new preset is covered by being there. Three verbs, as in
Ramulator 2's device tests: *issue* a command at a tick, *probe* whether the scheduler would issue
another one at a tick, and *assert* that one tick earlier it would not.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from accelsim.configs import load, preset_names
from accelsim.errors import ConfigError
from accelsim.hardware.config import MemoryConfig, Timing
from accelsim.hardware.memories import channel as channel
from accelsim.hardware.memories.timing import COMMANDS, LEVELS, organisation

START = 10_000
"""Tick of the first command: far enough that no command of before could reach it."""
PRESETS = {name: load(MemoryConfig, name, "memories") for name in preset_names("memories")}
BANKED = {name: memory for name, memory in PRESETS.items() if memory.kind == "banked"}


class Bank(NamedTuple):
    """Where a command goes; commands to all banks of a pseudo-channel name any of them."""

    pseudo: int
    group: int
    bank: int

    def number(self, memory: MemoryConfig) -> int:
        return (self.pseudo * memory.bankgroups + self.group) * memory.banks + self.bank

    def address(self, memory: MemoryConfig, row: int) -> int:
        """First byte of a row: lower column, pseudo-channel, group, upper column, bank, row."""
        interleave = memory.interleave_bytes or memory.row_bytes
        place = row * memory.banks + self.bank
        place = place * (memory.row_bytes // interleave)
        place = (place * memory.bankgroups + self.group) * memory.pseudochannels + self.pseudo
        return place * interleave


class Probe:
    """One channel with a timing table, to which commands are issued by hand."""

    def __init__(self, memory: MemoryConfig, rows: tuple[Timing, ...]) -> None:
        self.memory = memory.model_copy(update={"timing": rows, "refresh": True})
        self.org = organisation(self.memory)
        self.state, self.banks = channel.new_channels(1, self.org)

    def issue(self, command: str, bank: Bank, tick: int) -> None:
        number = bank.number(self.memory)
        # What holds a refresh back counts while one is near.
        self.state[0]["refresh_due"] = tick
        channel._issue(
            self.state[0], self.banks[0], self.org[0], number, COMMANDS.index(command), tick
        )

    def issued(self, command: str, bank: Bank, tick: int) -> bool:
        """Whether the scheduler, wanting ``command`` only, issues it at ``tick``."""
        saved = self.state.copy(), self.banks.copy()
        self._want(command, bank, tick)
        counters = self.state[0]["counters"]
        before = int(counters[COMMANDS.index(command)])
        channel.channel_tick(self.state, self.banks, self.org, 0)
        done = bool(counters[COMMANDS.index(command)] > before)
        self.state, self.banks = saved
        return done

    def _want(self, command: str, bank: Bank, tick: int) -> None:
        """Bring the banks into the state from which ``command`` is the next step."""
        state, banks, memory = self.state, self.banks, self.memory
        state["tick"] = tick - 1
        state["next_try"] = state["next_event"] = tick
        state["refresh_due"] = channel.NEVER - 1
        banks[0, : int(self.org[0]["banks"])] = -1
        if command in ("PREA", "REFab"):
            state["refresh_mask"] = 1 << bank.pseudo
            if command == "PREA":
                banks[0, bank.number(memory)] = 0
            return
        if command != "ACT":
            # The open row is another one than the request's where a PRE is wanted.
            banks[0, bank.number(memory)] = 1 if command == "PRE" else 0
        address = bank.address(memory, row=0)
        channel.channel_push(state, banks, self.org, 0, address, 0, command == "WR")


def edge(memory: MemoryConfig, command: str, tick: int) -> int:
    """First tick from ``tick`` on that ``command`` may take: reads wait for whole clocks."""
    waits = memory.half_clock_ticks and command not in ("PRE", "PREA")
    return tick | 1 if waits else tick


def shares(level: str, one: Bank, other: Bank) -> bool:
    """Whether two banks have the same node at a level."""
    depth = LEVELS.index(level)
    return one[:depth] == other[:depth]


def partner(memory: MemoryConfig, level: str, command: str, within: bool) -> Bank | None:
    """A bank that shares the node of ``Bank(0, 0, 0)`` at ``level`` and nothing below, or not even
    that node; ``None`` where the memory has no such bank."""
    depth = LEVELS.index(level) - (0 if within else 1)
    if depth < 0:
        return None
    place = [0, 0, 0]
    sizes = (memory.pseudochannels, memory.bankgroups, memory.banks)
    if depth < 3:
        if sizes[depth] == 1:
            # No second node at that level: the next one below keeps the pair apart.
            return partner(memory, LEVELS[depth + 1], command, True) if within else None
        place[depth] = sizes[depth] - 1
    bank = Bank(*place)
    if command in ("PREA", "REFab") and not within and bank.pseudo == 0:
        return None  # A command to all banks reaches the node whatever bank it names.
    return bank


CONSTRAINTS = [
    pytest.param(name, row, before, id=f"{name}-{row.level}-{row.after}-{before}-{at}")
    for name, memory in BANKED.items()
    for at, row in enumerate(memory.timing)
    for before in row.before
]


@pytest.mark.parametrize(("name", "row", "before"), CONSTRAINTS)
def test_each_constraint_alone_is_tight(name: str, row: Timing, before: str) -> None:
    memory = BANKED[name]
    other = partner(memory, row.level, before, within=True)
    assert other is not None
    probe = Probe(memory, (row,))
    for i in range(row.window):
        # One command short of the window nothing is held back.
        assert i == 0 or probe.issued(before, other, edge(memory, before, START + i))
        probe.issue(row.after, Bank(0, 0, 0), START + i)
    held_until = START + row.ticks(memory.clock_hz)
    assert not probe.issued(before, other, held_until - 1)
    assert probe.issued(before, other, edge(memory, before, held_until))
    outside = partner(memory, row.level, before, within=False)
    if outside is not None:
        assert probe.issued(before, outside, edge(memory, before, START + row.window))


@pytest.mark.parametrize("name", BANKED)
@pytest.mark.parametrize("after", COMMANDS)
@pytest.mark.parametrize("before", COMMANDS)
def test_the_tightest_row_of_the_table_holds(name: str, after: str, before: str) -> None:
    memory = BANKED[name]
    first = Bank(0, 0, 0)
    for other in {partner(memory, level, before, within=True) or first for level in LEVELS}:
        rows = [
            row.ticks(memory.clock_hz)
            for row in memory.timing
            if row.after == after
            and before in row.before
            and row.window == 1
            and shares(row.level, first, other)
        ]
        probe = Probe(memory, memory.timing)
        probe.issue(after, first, START)
        earliest = START + max(rows, default=1)
        assert probe.issued(before, other, edge(memory, before, earliest))
        if rows and max(rows) > 1:
            assert not probe.issued(before, other, earliest - 1)


@pytest.mark.parametrize("name", BANKED)
def test_four_activates_fill_the_window_of_their_pseudo_channel(name: str) -> None:
    memory = BANKED[name]
    (row,) = (row for row in memory.timing if row.window > 1)
    probe = Probe(memory, (row,))
    for i in range(3 * row.window):
        probe.issue("ACT", Bank(0, i % memory.bankgroups, 0), START + 2 * i)
    # The window slides: the fourth last ACT counts, not the first.
    held_until = START + 2 * (2 * row.window) + row.ticks(memory.clock_hz)
    assert not probe.issued("ACT", Bank(0, 0, 1), held_until - 1)
    assert probe.issued("ACT", Bank(0, 0, 1), edge(memory, "ACT", held_until))


def test_commands_to_all_banks_cannot_be_held_to_one_bank() -> None:
    memory = BANKED["hbm2-spatten"]
    row = Timing(level="bank", after="PREA", before=("ACT",), cycles=7)
    with pytest.raises(ConfigError, match="after PREA at level 'bank'"):
        organisation(memory.model_copy(update={"timing": (row,)}))


def test_tables_that_hold_back_too_many_banks_are_refused() -> None:
    memory = PRESETS["hbm2-nominal"]
    rows = tuple(
        Timing(level="bankgroup", after=after, before=("ACT", "PRE", "RD", "WR"), cycles=99)
        for after in ("ACT", "PRE", "RD", "WR")
    )
    # 16 pairs of commands, each for the 256 banks of a group, and more rows of the table.
    update = {"bankgroups": 1, "banks": 256, "timing": (*memory.timing, *rows)}
    with pytest.raises(ConfigError, match=r"in [\d,]+ ways; expected at most 4,096"):
        organisation(memory.model_copy(update=update))
