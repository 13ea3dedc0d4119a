"""The top-k stand-in alone, against cycles worked out from sections 2.12, 3.1 and 3.2."""

from __future__ import annotations

from collections.abc import Callable

from accelsim.hardware.machines.spatten_rtl.items import KeyPass
from accelsim.hardware.machines.spatten_rtl.top_k import TopKStandIn
from accelsim.hardware.simulation import Clock

Passes = Callable[..., list[KeyPass]]


def test_a_row_that_keeps_everything_goes_around_it(env: Clock, passes_of: Passes) -> None:
    """Seven cycles from the merge to the value fork (2.12)."""
    (item,) = passes_of([64])
    item.merged = 100
    assert TopKStandIn(env).search(item, room=0) == (100, 107)


def test_the_path_through_it_takes_nine_cycles_and_the_search(
    env: Clock, passes_of: Passes
) -> None:
    (item,) = passes_of([64], [16])
    item.merged = 100
    search = item.request.topk_cycles
    # At least one pass over 64 scores: 64 / 16 cycles and 3 (3.2).
    assert search >= 4 + 3
    end = 100 + 9 + search
    top_k = TopKStandIn(env)
    assert top_k.search(item, room=0) == (end, end)
    assert top_k.activity.busy_cycles == search


def test_a_selection_of_tokens_takes_its_search_first(env: Clock, passes_of: Passes) -> None:
    """The one engine does both: 64 scores, 16 a cycle, in a pass of three cycles more (3.2)."""
    columns = {"select_elements": [64], "select_passes": [1], "select_size": [64]}
    (item,) = passes_of([64], **columns)
    item.merged = 100
    assert TopKStandIn(env).search(item, room=0) == (107, 107)
    (pruned,) = passes_of([64], [16], **columns)
    top_k = TopKStandIn(env)
    pruned.merged = 100
    top_k.search(pruned, room=0)
    assert top_k.activity.busy_cycles == 7 + pruned.request.topk_cycles


def test_it_keeps_a_row_while_there_is_no_room_behind(env: Clock, passes_of: Passes) -> None:
    (item,) = passes_of([64], [16])
    item.merged = 100
    end = 109 + item.request.topk_cycles
    top_k = TopKStandIn(env)
    assert top_k.search(item, room=500) == (500, end)
    assert top_k.activity.stall_cycles["value_side_busy"] == 500 - end


def test_it_drains_the_kept_scores_and_then_the_others(env: Clock, passes_of: Passes) -> None:
    """A row of 64 that keeps 16, asked for in cycle 200, a beat a cycle (3.1)."""
    pruned, whole, after = passes_of([64, 64, 64], [16, 64, 16])
    top_k = TopKStandIn(env)
    pruned.merged = 100
    top_k.search(pruned, room=0)
    pruned.queued.announce(200)
    top_k.drain(pruned, 200)
    assert pruned.dropped.cycle == 200 + 16 + 48
    # A row that keeps everything passes behind the last kept score.
    whole.merged = 150
    assert top_k.search(whole, room=0) == (216, 216)
    top_k.drain(whole, 216)
    assert whole.dropped.cycle == 264
    # The next search waits until the dropped ones have gone.
    after.merged = 220
    assert top_k.search(after, room=0)[0] == 264 + after.request.topk_cycles


def test_kept_scores_leave_as_the_score_queue_takes_them(env: Clock, passes_of: Passes) -> None:
    (item,) = passes_of([128], [104])
    top_k = TopKStandIn(env)
    item.merged = 100
    top_k.search(item, room=0)
    item.queued.announce(900)
    top_k.drain(item, 400)
    assert item.dropped.cycle == 900 + 24
    assert top_k.activity.stall_cycles["value_side_busy"] == 900 - (400 + 104) + (
        400 - (109 + item.request.topk_cycles)
    )
