"""The softmax against its pipeline simulated beat by beat (section 5 of the specification)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.hardware.blocks import softmax
from accelsim.hardware.blocks.softmax import FROM_FIFO, TO_SUM, Softmax

LATENCY = 8 + softmax.TO_FIFO
"""From a dot product of 64 elements to the FIFO."""
LANES = 8


@dataclass
class Job:
    """A row of scores.

    Attributes:
        scores: of the row.
        per_beat: that the unit before gives in a cycle.
        idle: cycles in which the unit before has nothing to give before the row.
        held: cycles for which what follows does not take it, from when it could be a probability.
    """

    scores: int
    per_beat: int
    idle: int
    held: int

    @property
    def size(self) -> int:
        return -(-self.scores // LANES)

    @property
    def beats(self) -> int:
        return -(-self.scores // self.per_beat)


@dataclass
class Pipeline:
    """Every beat of unit before, FIFO and divider, in the order in which they go through."""

    depth: int
    given: list[int] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    entries: int = 0

    def enter(self, job: Job, start: int) -> tuple[int, int]:
        """Give a row's beats; when the last one is given, and when it is in the FIFO."""
        filled = 0
        for beat in range(job.beats):
            at = start + beat
            if self.given:
                at = max(at, self.given[-1] + 1)
            if len(self.given) >= LATENCY:
                # Of n stages, a beat enters when the n-th before it leaves.
                at = max(at, self.entered[len(self.given) - LATENCY])
            self.given.append(at)
            inside = at + LATENCY
            if self.entered:
                inside = max(inside, self.entered[-1] + 1)
            come = min((beat + 1) * job.per_beat, job.scores)
            if come == min((filled + 1) * LANES, job.scores):
                filled += 1
                gone = self.entries - self.depth
                if gone >= 0:
                    inside = max(inside, self.read[gone] + 1)
                self.entries += 1
            self.entered.append(inside)
        assert filled == job.size
        return self.given[-1], self.entered[-1]

    def take(self, job: Job, known: int, accepted: int) -> int:
        """Read a row; the cycle of its first probability."""
        for beat in range(job.size):
            at = known if beat == 0 else 0
            if self.read:
                at = max(at, self.read[-1] + 1)
            if len(self.read) >= FROM_FIFO:
                at = max(at, self.left[len(self.read) - FROM_FIFO])
            self.read.append(at)
            out = max(at + FROM_FIFO, accepted if beat == 0 else 0)
            if self.left:
                out = max(out, self.left[-1] + 1)
            self.left.append(out)
        return self.left[-job.size]


def jobs(depth: int) -> st.SearchStrategy[list[Job]]:
    one = st.builds(
        Job,
        st.integers(1, depth * LANES),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([0, 0, 1, 5, 40, 300]),
        st.sampled_from([0, 0, 0, 1, 10, 30, 40, 100, 400]),
    )
    return st.lists(one, min_size=1, max_size=25)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_beat(data: st.DataObject) -> None:
    depth = data.draw(st.sampled_from([1, 2, 5, 16, 48, 128]))
    rows = data.draw(jobs(depth))
    unit, plain = Softmax(LANES, depth), Pipeline(depth)
    state, ring = unit.state, unit.ring
    waiting = list(rows)
    ready: list[tuple[Job, int]] = []
    free = 0
    while waiting or ready:
        if waiting and softmax.room(state, waiting[0].size):
            job = waiting.pop(0)
            start = free + job.idle
            last = start + job.beats - 1
            given_at = softmax.enter(state, ring, job.scores, job.per_beat, last, LATENCY)
            place = (state[0]["rows_in"] - 1) % len(ring)
            expected = plain.enter(job, start)
            assert (given_at, ring[place, softmax.ENTERED]) == expected
            softmax.mark(state, ring)
            free = given_at + 1
            ready.append((job, expected[1] + TO_SUM))
        else:
            job, known = ready.pop(0)
            before = plain.read[-1] + 1 if plain.read else 0
            accepted = max(known, before) + FROM_FIFO + job.held
            first = plain.take(job, known, accepted)
            # One a cycle follows what is returned; the first may come before.
            given_on = softmax.read(state, ring, accepted)
            assert given_on == plain.left[-1] + 1 - job.size >= first
            assert state[0]["free"] == plain.read[-1] + 1
    assert state[0]["busy"] == len(plain.read)
    assert state[0]["busy"] + state[0]["no_scores"] + state[0]["blocked"] == state[0]["free"]
    assert 1 <= state[0]["high_water"] <= depth


def test_a_full_fifo_holds_the_unit_before_back() -> None:
    unit = Softmax(LANES, 4)
    args = unit.state, unit.ring
    assert softmax.room(unit.state, 4)
    assert softmax.enter(*args, 32, 8, 3, LATENCY) == 3
    assert not softmax.room(unit.state, 1)
    softmax.mark(*args)
    assert unit.state[0]["high_water"] == 4
    # Its sum is known, and its first beat read, in 3 + 36 + 23 = 62.
    assert softmax.read(*args, 0) == 62 + FROM_FIFO
    # 36 beats wait in the stages between; the next is given when the first of them goes on.
    assert softmax.enter(*args, 8 * 4, 8, 7, LATENCY) == 7
    assert unit.ring[1, softmax.ENTERED] == 66
