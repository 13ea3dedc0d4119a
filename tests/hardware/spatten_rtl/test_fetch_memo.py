"""What the fetcher looks up is what it would have simulated, to the cycle and the counter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.hardware import load_accelerator
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten_rtl.config import SpattenRtlConfig
from accelsim.hardware.machines.spatten_rtl.fetch_kernel import VALUE, advance, queue_matrix
from accelsim.hardware.machines.spatten_rtl.fetch_memo import GIVEN, FetchMemo
from accelsim.hardware.machines.spatten_rtl.machine import Spatten, simulate
from accelsim.hardware.memories import record_requests
from accelsim.workloads import Workload

HBM2 = load(MemoryConfig, "hbm2-spatten", "memories")
MEMORIES = {
    "as simulated": HBM2,
    "clock at 1.25": HBM2.model_copy(update={"clock_hz": 1.25e9}),
    "clock at 0.3": HBM2.model_copy(update={"clock_hz": 0.3e9}),
    "refresh": HBM2.model_copy(update={"refresh": True}),
    "ddr4": load(MemoryConfig, "ddr4", "memories"),
    "half clocks": load(MemoryConfig, "hbm3", "memories"),
    "split ACT": load(MemoryConfig, "lpddr5", "memories"),
    "flat": load(MemoryConfig, "flat", "memories"),
}


def repeated(*rows: tuple[int, int, int, int], times: int) -> Workload:
    """Rows of keys, values, key bits and value bits, one after the other, several times."""
    names = ("keys", "values", "key_bits", "value_bits")
    columns = zip(*rows * times, strict=True)
    return Workload.from_columns(dict(zip(names, map(list, columns), strict=True)))


def both(
    workload: Workload, machine: SpattenRtlConfig, memory: MemoryConfig
) -> tuple[Activity, Activity, FetchMemo]:
    """The activity with and without looking up, and the memory of the former."""
    run = Spatten(workload, machine, memory)
    memo = run.fetcher.memo
    assert memo is not None
    return run.run(), Spatten(workload, machine, memory, looks_up=False).run(), memo


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("accelerator", ["spatten-rtl-eighth", "spatten-rtl"])
def test_a_regular_workload_costs_the_same_when_it_is_looked_up(
    accelerator: str, memory: str
) -> None:
    workload = repeated((320, 96, 8, 8), (256, 256, 12, 8), times=24)
    remembered, plain, _ = both(workload, load_accelerator(accelerator), MEMORIES[memory])
    assert remembered == plain


row = st.tuples(
    st.integers(1, 8).map(lambda n: 64 * n),
    st.integers(1, 4).map(lambda n: 64 * n),
    st.sampled_from([4, 8, 12]),
    st.sampled_from([4, 8]),
).map(lambda row: (row[0], min(row[:2]), *row[2:]))


@settings(max_examples=40, deadline=None)
@given(st.lists(row, min_size=1, max_size=4), st.sampled_from(sorted(MEMORIES)), st.booleans())
def test_random_rows_cost_the_same_when_they_are_looked_up(
    rows: list[tuple[int, int, int, int]], memory: str, whole: bool
) -> None:
    machine = load_accelerator("spatten-rtl" if whole else "spatten-rtl-eighth")
    remembered, plain, _ = both(repeated(*rows, times=10), machine, MEMORIES[memory])
    assert remembered == plain


def test_equal_requests_are_simulated_once() -> None:
    workload = repeated((512, 512, 12, 8), times=64)
    *_, memo = both(workload, load_accelerator("spatten-rtl-eighth"), HBM2)
    assert memo.hits > 0.8 * memo.calls


def test_it_gives_up_where_nothing_returns() -> None:
    rows = [(192 + n % 7 * 64, 64 + n % 5 * 32, 8, 8) for n in range(60)]
    memory = MEMORIES["refresh"]
    *_, memo = both(repeated(*rows, times=1), load_accelerator("spatten-rtl"), memory)
    assert not memo.of_use
    assert memo.calls < 120


def test_recorded_requests_are_all_simulated() -> None:
    workload = repeated((256, 128, 8, 8), times=32)
    machine = load_accelerator("spatten-rtl-eighth")
    activity, logs = record_requests(lambda: simulate(workload, machine, HBM2))
    assert sum(map(len, logs)) == activity.counters["dram_reads"]
    assert activity == simulate(workload, machine, HBM2)


def test_each_field_of_the_fetcher_is_compared_or_named_as_not() -> None:
    run = Spatten(repeated((512, 512, 12, 8), times=4), load_accelerator("spatten-rtl"), HBM2)
    block = run.fetcher
    memo, fetcher, dram = block.memo, block.state, block.dram
    assert memo is not None
    transactions = np.random.default_rng(0).permutation(6000).astype(np.int64) * 32
    memo.queue(fetcher, transactions, 0, 8, (0,))
    queue_matrix(*fetcher[:3], transactions, 0, 0, 64, VALUE, 0)
    compared = set()
    # Before the buffers are open, and while beats return.
    for until in (12, int(fetcher.state[0]["opens"]) + 20):
        advance(*fetcher, *dram, block.shift, block.rate, until)
        before = memo._relative(fetcher, *dram, 0, 0, 0)
        for records in (fetcher.state, fetcher.beats, fetcher.fetch, fetcher.ports):
            for name in records.dtype.names or ():
                kept = records[name].copy()
                records[name] += 1
                if memo._relative(fetcher, *dram, 0, 0, 0) != before:
                    compared.add((records.dtype, name))
                records[name] = kept
    fields = {(r.dtype, name) for r in fetcher if r.dtype.names for name in r.dtype.names}
    without = {name for _, name in fields - compared}
    # The crossbar chooses anew in each cycle.
    assert without == {*GIVEN, "choice"}
