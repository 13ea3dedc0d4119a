"""Output writer: packed bursts, completion cycles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accelsim.hardware.activity import Activity
from accelsim.hardware.blocks.output_writer import OutputWriter
from accelsim.hardware.simulation import Item, Wire


@given(
    vectors=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    dim=st.sampled_from([32, 64, 128]),
    burst=st.sampled_from([32, 64]),
)
def test_bytes_are_packed_into_whole_bursts(vectors: list[int], dim: int, burst: int) -> None:
    writer = OutputWriter(len(vectors), dim, burst, lambda item: vectors[item.row])
    for row in range(len(vectors)):
        writer.write(Item(row, False), 5)
        writer.write(Item(row, True), 10 + row)
    activity = Activity(100, 1e9)
    writer.count(activity)
    size = sum(vectors) * 2 * dim * 12 // 8
    assert size <= activity.dram_write_bytes < size + burst
    assert activity.dram_write_bytes == burst * activity.counters["dram_writes"]
    assert activity.completion_cycles == [10 + row for row in range(len(vectors))]


def test_outputs_that_stay_on_chip() -> None:
    writer = OutputWriter(1, 64, 32, lambda item: 1, to_dram=False)
    writer.write(Item(0, True), 7)
    activity = Activity(100, 1e9)
    writer.count(activity)
    assert (activity.dram_write_bytes, activity.completion_cycles) == (0, [7])
    assert not writer.wires("output")
    there = OutputWriter(1, 64, 32, lambda item: 1).wires("output")
    assert there == [Wire("output", "DRAM", "outputs")]
