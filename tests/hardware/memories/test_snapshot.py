"""No field of a channel is forgotten where its states are compared and moved."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from accelsim.configs import load
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.memories import _snapshot as snapshot
from accelsim.hardware.memories import channel as channel
from accelsim.hardware.memories.timing import organisation

FIELDS = channel.CHANNEL.names or ()
ORG = organisation(load(MemoryConfig, "hbm2-spatten", "memories"))


def busy() -> tuple[channel.Channels, channel.Banks]:
    """One channel with requests in the queue, opened, issued, and completed but not taken."""
    state, banks = channel.new_channels(1, ORG)
    now = state[0]
    for address in range(0, 12 * 1024, 1024):
        channel.channel_push(state, banks, ORG, 0, address, address, False)
    for _ in range(1000):
        channel.channel_tick(state, banks, ORG, 0)
        waits = now["pending_tail"] > now["pending_head"] and now["done_tail"] > now["done_head"]
        if waits and now["queued"] and now["active"]:
            return state, banks
    raise AssertionError("never in all of its queues at once")


def compared(state: channel.Channels, banks: channel.Banks) -> list[int]:
    out = np.zeros(snapshot.room_for(state, banks), np.int64)
    used = snapshot.relative_channels(state, banks, ORG, 0, 0, snapshot.longest_rule(ORG), out)
    return [int(number) for number in out[:used]]


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_compared_or_named_as_not(field: str) -> None:
    state, banks = busy()
    before = compared(state, banks)
    seen = False
    for at in np.ndindex(state[field].shape):
        # The flat memory counts only where it is busy beyond the present tick.
        step = 1 << 40 if field == "flat_free" else 1
        state[field][at] += step
        seen |= compared(state, banks) != before
        state[field][at] -= step
    without = snapshot.RETRIED + snapshot.NOT_COMPARED + snapshot.COUNTED
    assert seen == (field not in without)


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_copied_or_counts_on(field: str) -> None:
    saved, saved_banks = busy()
    state, banks = channel.new_channels(1, ORG)
    # A number that no other field has.
    saved[field] += 1
    expected = saved[field].copy()
    counted: NDArray[np.int64] = np.full((1, channel.N_COUNTERS + 1), 3, np.int64)
    snapshot.move_channels(saved, saved_banks, counted, state, banks, ORG, 0, 0)
    assert (state[field] == (3 if field in snapshot.COUNTED else expected)).all()
    assert (banks == saved_banks).all()


def test_a_moved_channel_is_the_same_but_for_tick_and_row() -> None:
    saved, saved_banks = busy()
    state, banks = channel.new_channels(1, ORG)
    counted = snapshot.counts(saved)
    snapshot.move_channels(saved.copy(), saved_banks, counted, state, banks, ORG, 77, 5)
    out = np.zeros(snapshot.room_for(state, banks), np.int64)
    used = snapshot.relative_channels(state, banks, ORG, 77, 5, snapshot.longest_rule(ORG), out)
    assert out[:used].tolist() == compared(saved, saved_banks)
    for at, there in ((state, banks), (saved, saved_banks)):
        for _ in range(300):
            channel.channel_tick(at, there, ORG, 0)
    assert (snapshot.counts(state) == snapshot.counts(saved)).all()
    assert state[0]["done_tail"] == saved[0]["done_tail"] == 12
