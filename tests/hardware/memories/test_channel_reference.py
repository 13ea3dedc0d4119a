"""The compiled channel against a plain one that looks up the timing table row by row.

The plain channel keeps the list of all commands issued and asks, for each command that it would
like to issue, whether every row of the table allows it. It shares no code with the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load, preset_names
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import channel
from accelsim.hardware.memories.timing import COMMANDS, Organisation, organisation

LEVELS = ("channel", "pseudochannel", "bankgroup", "bank")
PRESETS = {name: load(MemoryConfig, name, "memories") for name in preset_names("memories")}
BANKED = sorted(name for name, memory in PRESETS.items() if memory.kind == "banked")
Place = tuple[int, ...]


@dataclass
class Request:
    ident: int
    arrival: int
    place: Place
    row: int
    final: str


@dataclass
class PlainChannel:
    """FR-FCFS with open rows, as the module of the kernel describes it."""

    memory: MemoryConfig
    now: int = 0
    due: int = 0
    pending: set[int] = field(default_factory=set)
    queue: list[Request] = field(default_factory=list)
    active: list[Request] = field(default_factory=list)
    rows: dict[Place, int] = field(default_factory=dict)
    history: list[tuple[int, str, Place]] = field(default_factory=list)
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    inflight: int = 0
    second_half: int | None = None
    """Last tick for the second half of an ACT that is still to go."""
    first_recent: int = 0
    """Place in the history from which commands can still hold others back."""

    def __post_init__(self) -> None:
        clock = self.memory.clock_hz
        self.due = self.memory.refresh_ticks
        self.rules = [(row, row.ticks(clock)) for row in self.memory.timing]
        self.horizon = max(ticks for _, ticks in self.rules)

    def can_push(self) -> bool:
        memory = self.memory
        return self.inflight < memory.inflight_limit and len(self.queue) < memory.queue_entries

    def push(self, address: int, ident: int, write: bool) -> None:
        memory = self.memory
        interleave = memory.interleave_bytes or memory.row_bytes
        rest = address // interleave
        rest, pseudo = divmod(rest, memory.pseudochannels)
        rest, group = divmod(rest, memory.bankgroups)
        rest //= memory.row_bytes // interleave
        rest, bank = divmod(rest, memory.banks)
        row = rest % memory.rows
        final = "WR" if write else "RD"
        self.queue.append(Request(ident, self.now, (pseudo, group, bank), row, final))
        self.inflight += 1

    def pop(self) -> int:
        if not self.done:
            return -1
        self.inflight -= 1
        return self.done.pop(0)

    def tick(self) -> None:
        self.now += 1
        while self.first_recent < len(self.history) and (
            self.history[self.first_recent][0] + self.horizon < self.now
        ):
            self.first_recent += 1
        if self.arrivals and self.arrivals[0][0] <= self.now:
            self.done.append(self.arrivals.pop(0)[1])
        if self.memory.command_buses == 2 or self.memory.split_activation:
            self.issue_passing_over()
        elif not self.serve_active() and not (self.memory.refresh and self.refresh()):
            self.serve_queue()

    def issue_passing_over(self) -> None:
        """A tick of a controller that passes over what it has to withhold."""
        if self.second_half is not None and self.now >= self.second_half:
            self.second_half = None
            return
        two = self.memory.command_buses == 2
        issued = self.serve_active()
        if issued and not two:
            return
        if self.memory.refresh and (self.pending or self.now >= self.due):
            if self.second_half is None:
                self.refresh()
            self.second_half = None
            return
        for bus in (("RD", "WR"), ("ACT", "PRE")) if two else (("RD", "WR", "ACT", "PRE"),):
            # An active request has taken the bus of the columns.
            if not (issued and "RD" in bus):
                issued = self.serve_first(bus) or issued
        if not issued:
            self.second_half = None

    def serve_active(self) -> bool:
        ready = [r for r in self.active if self.allowed(r.final, r.place)]
        if not ready:
            return False
        chosen = min(ready, key=lambda r: r.arrival)
        self.active.remove(chosen)
        self.finish(chosen)
        return True

    def serve_first(self, bus: tuple[str, ...]) -> bool:
        for request in self.queue:
            command = self.next_command(request)
            in_use = any(r.place == request.place for r in self.active)
            if (
                command not in bus
                or not self.allowed(command, request.place)
                or (command == "PRE" and in_use)
                or (command == "ACT" and self.second_half is not None)
            ):
                continue
            if command == "PRE":
                self.issue("PRE", request.place)
                del self.rows[request.place]
            else:
                self.take(request, command)
                if command == "ACT" and self.memory.split_activation:
                    self.second_half = self.now + self.memory.split_activation
            return True
        return False

    def take(self, request: Request, command: str) -> None:
        self.queue.remove(request)
        if command == "ACT":
            self.issue("ACT", request.place)
            self.rows[request.place] = request.row
            self.active.append(request)
        else:
            self.finish(request)

    def serve_queue(self) -> None:
        for request in self.queue:
            command = self.next_command(request)
            if self.allowed(command, request.place):
                break
        else:
            return
        if command == "PRE":
            if all(r.place != request.place for r in self.active):
                self.issue("PRE", request.place)
                del self.rows[request.place]
            return
        self.take(request, command)

    def next_command(self, request: Request) -> str:
        if request.place not in self.rows:
            return "ACT"
        return request.final if self.rows[request.place] == request.row else "PRE"

    def refresh(self) -> bool:
        if self.now >= self.due:
            self.pending |= set(range(self.memory.pseudochannels))
            self.due += self.memory.refresh_ticks
        if not self.pending:
            return False
        pseudo = min(self.pending)
        opened = [place for place in self.rows if place[0] == pseudo]
        command = "PREA" if opened else "REFab"
        if not self.allowed(command, (pseudo,)):
            return True
        if command == "REFab":
            self.pending.remove(pseudo)
        elif any(r.place[0] == pseudo for r in self.active):
            return True
        for place in opened:
            del self.rows[place]
        self.issue(command, (pseudo,))
        return True

    def finish(self, request: Request) -> None:
        self.issue(request.final, request.place)
        self.arrivals.append((self.now + self.memory.read_ticks, request.ident))

    def issue(self, command: str, place: Place) -> None:
        self.history.append((self.now, command, place))

    def allowed(self, command: str, place: Place) -> bool:
        on_falling_edge = self.memory.half_clock_ticks and self.now % 2 == 0
        if on_falling_edge and command not in ("PRE", "PREA"):
            return False
        for row, wait in self.rules:
            if command not in row.before:
                continue
            depth = LEVELS.index(row.level)
            ticks = [
                tick
                for tick, after, where in self.history[self.first_recent :]
                if after == row.after and where[:depth] == place[:depth]
            ]
            if len(ticks) >= row.window and self.now < ticks[-row.window] + wait:
                return False
        return True


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """Requests as (ticks of pause before it, address, write), in few rows and banks."""
    span = draw(st.sampled_from([1 << 12, 1 << 15, 1 << 18]))
    request = st.tuples(
        st.sampled_from([0, 0, 0, 0, 1, 5, 90]),
        st.integers(0, span // 32 - 1).map(lambda block: 32 * block),
        st.sampled_from([False, False, False, True]),
    )
    return draw(st.lists(request, min_size=1, max_size=60))


def assert_banks_know_who_waits(
    state: channel.Channels, banks: channel.Banks, org: Organisation
) -> None:
    """What is kept for each bank is what a look at all requests finds."""
    header, record = org[0], state[0]
    count = int(header["banks"])
    of_bank = {
        "first_waiting": record["queue"][: record["queued"]] >> 16 & 0xFFFF,
        "first_opened": record["opened"][: record["active"]] >> 16 & 0xFFFF,
    }
    for first, found in of_bank.items():
        kept = banks[0, header[first] :][:count]
        assert kept.tolist() == np.bincount(found, minlength=count).tolist(), first


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(BANKED), stream=streams(), limit=st.integers(1, 40), data=st.data())
def test_kernel_is_the_plain_channel(
    name: str, stream: list[tuple[int, int, bool]], limit: int, data: st.DataObject
) -> None:
    # A short refresh interval: some refreshes fall into every stream.
    interval = data.draw(st.integers(1000, 1500))
    update = {"inflight_limit": limit, "refresh": True, "refresh_interval": interval}
    memory = PRESETS[name].model_copy(update=update | {"refresh_interval_ns": None})
    org = organisation(memory)
    state, banks = channel.new_channels(1, org)
    plain = PlainChannel(memory)
    waiting = list(enumerate(stream))
    pause = waiting[0][1][0]
    left = len(stream)
    for _ in range(40_000):
        can = plain.can_push()
        assert channel.channel_can_push(state, org, 0) == can
        if waiting and can and pause <= 0:
            ident, (_, address, write) = waiting.pop(0)
            plain.push(address, ident, write)
            channel.channel_push(state, banks, org, 0, address, ident, write)
            pause = waiting[0][1][0] if waiting else 0
        else:
            pause -= 1
        popped = plain.pop()
        assert channel.channel_pop(state, 0) == popped
        left -= popped >= 0
        plain.tick()
        channel.channel_tick(state, banks, org, 0)
        assert_banks_know_who_waits(state, banks, org)
        if left == 0:
            break
    assert left == 0
    issued = dict(zip(COMMANDS, channel.counters(state), strict=False))
    assert issued == {name: sum(c == name for _, c, _ in plain.history) for name in COMMANDS}
