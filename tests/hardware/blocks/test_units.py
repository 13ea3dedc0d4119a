"""Dot product, top-k and weighted sum against the same, cycle by cycle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.errors import WorkloadError
from accelsim.hardware.blocks import top_k, weighted_sum
from accelsim.hardware.blocks._crossbar import RING
from accelsim.hardware.blocks.dot_product import DotProduct, stream_end
from accelsim.hardware.blocks.matrix_fetcher import BEAT, FILL
from accelsim.hardware.blocks.top_k import TopK
from accelsim.hardware.blocks.weighted_sum import WeightedSum

PORTS = 4


@given(
    vectors=st.integers(1, 40),
    share=st.floats(0, 1),
    per_vector=st.integers(1, 5),
    before=st.integers(0, 9),
    per_beat=st.sampled_from([1, 2, 4, 8]),
    start=st.integers(0, 120),
    begin=st.sampled_from([0, 7, RING - 3]),
    gaps=st.lists(st.integers(1, 9), min_size=60, max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_vectors_are_taken_as_they_arrive(
    vectors: int,
    share: float,
    per_vector: int,
    before: int,
    per_beat: int,
    start: int,
    begin: int,
    gaps: list[int],
) -> None:
    transactions = vectors * per_vector
    wanted = max(int(share * vectors), 1)
    count = -(-(before + transactions) // PORTS)
    joined = np.cumsum(gaps)[:count]
    beats = np.zeros(RING, BEAT)
    places = np.arange(begin, begin + count) % RING
    beats["joined"][places] = joined
    beats["first"][places] = np.arange(count) * PORTS
    # Cycle in which each vector can be used: when the beat of its last transaction is there.
    ends = before + per_vector * (np.arange(vectors) + 1) - 1
    there = joined[ends // PORTS] + FILL
    now = start - 1
    for first in range(0, wanted, per_beat):
        last = min(first + per_beat, wanted) - 1
        now = max(now + 1, int(there[last]))
    found = stream_end(
        beats, begin, begin + count, before, transactions, vectors, wanted, per_beat, start
    )
    assert found == now


def test_the_tree_gives_what_the_line_holds() -> None:
    assert (DotProduct(512, 64, 8).scores, DotProduct(512, 64, 8).latency) == (8, 8)
    assert (DotProduct(512, 256, 8).scores, DotProduct(512, 32, 4).scores) == (2, 4)
    with pytest.raises(WorkloadError, match="head_dim 48 does not divide"):
        DotProduct(512, 48, 8)


def test_units_do_not_share_their_state() -> None:
    first, second = DotProduct(512, 64, 8), DotProduct(512, 64, 8)
    first.state["free"] = 5
    assert second.state[0]["free"] == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 12), st.integers(1, 40)),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 3),
)
@settings(max_examples=200, deadline=None)
def test_rows_are_searched_and_filtered_in_order(
    rows: list[tuple[int, int, int]], buffers: int
) -> None:
    engine = TopK(16, buffers)
    state = engine.state
    came = 0
    entered: list[int] = []
    released: list[int] = []
    searched: list[range] = []
    for gap, beats, cycles in rows:
        free = top_k.row_free(state, engine.buffers)
        # A row comes in when one of the buffers was left.
        inside = [end for end in released if end > came + gap]
        while len(inside) >= buffers:
            gap += 1
            inside = [end for end in released if end > came + gap]
        came = max(came + gap, free)
        assert came == max(came, entered[-1] if entered else 0)
        assert sum(end > came for end in released) < buffers
        entered.append(came)
        ready = came + beats - 1
        done = top_k.search(state, ready, cycles)
        begin = max([ready] + [r.stop for r in searched])
        searched.append(range(begin, begin + cycles))
        assert done == begin + cycles
        at = max(done, int(state[0]["filter_free"]))
        assert at == max([done, *released[-1:]])
        top_k.filtered(state, engine.buffers, came, at, beats)
        released.append(at + beats)
        came = ready + 1
    busy = {cycle for r in searched for cycle in r}
    assert state[0]["busy"] == len(busy) == sum(map(len, searched))
    assert state[0]["no_scores"] == searched[-1].stop - len(busy)
    most = max(
        sum(e <= cycle < r for e, r in zip(entered, released, strict=True)) for cycle in entered
    )
    assert state[0]["high_water"] == most
    assert state[0]["rows"] == len(rows)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.integers(0, 90),
            st.integers(0, 20),
            st.integers(1, 12),
            st.integers(0, 1),
            st.integers(0, 7),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=200, deadline=None)
def test_probabilities_meet_values(rows: list[tuple[int, int, int, int, int, int]]) -> None:
    unit = WeightedSum(512, 8)
    state = unit.state
    doing: list[str] = []
    for came, ready, late, beats, extra, spill in rows:
        came, ready = came + len(doing) // 2, ready + len(doing) // 2
        last = came + beats - 1 + late
        while len(doing) < came:
            doing.append("no_probabilities")
        # A beat a cycle from when its values are there; the last one not before ``last``.
        left = beats
        while left:
            cycle = len(doing)
            taken = cycle >= ready and (left > 1 or cycle >= last)
            doing.append("busy" if taken else "no_values")
            left -= taken
        doing += ["busy"] * extra + ["spill"] * spill
        assert weighted_sum.weigh(state, came, ready, last, beats, extra, spill) == len(doing) - 1
        assert state[0]["free"] == len(doing)
    for name in ("busy", *weighted_sum.STALLS):
        assert state[0][name] == doing.count(name), name
    assert (unit.latency, WeightedSum(512, 1).latency) == (6, 3)
