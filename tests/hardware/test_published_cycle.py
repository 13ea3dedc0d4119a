"""The cycle engine of the published SpAtten: by hand, by arithmetic, and on random workloads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load
from accelsim.errors import ConfigError, SimulationError, WorkloadError
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.hardware.machines.spatten.cycle import CycleMachine, simulate
from accelsim.hardware.machines.spatten.cycle._engine import activity_of
from accelsim.hardware.machines.spatten.cycle._plan import ATOM, _transactions
from accelsim.validation._published_workloads import random_published_workload
from accelsim.workloads import QueryTable, Workload

FLAT = load(MemoryConfig, "flat", "memories")
HBM2 = load(MemoryConfig, "hbm2-nominal", "memories")


def machine(**fields: Any) -> SpattenConfig:
    return SpattenConfig(kind="spatten", description="test", source="test", **fields)


def flat(latency: int, **fields: Any) -> MemoryConfig:
    """One transaction a cycle and channel, ``latency`` cycles to its data."""
    deep = {"inflight_limit": 64, "queue_entries": 64, "bytes_per_tick": 32.0}
    return FLAT.model_copy(update={**deep, "flat_latency": latency, **fields})


def rows(count: int, keys: int, values: int | None = None, **columns: Any) -> Workload:
    """Rows of one query each."""
    table = {"keys": keys, "values": values or keys, "key_bits": 12, "value_bits": 12, **columns}
    dim = table.pop("head_dim", 64)
    return Workload.from_columns(
        {name: np.resize(value, count) for name, value in table.items()}, head_dim=dim
    )


def queries(keys: list[int], values: list[int], *, position: list[int], **columns: Any) -> Workload:
    """One row."""
    none = np.zeros(len(keys), np.int64)
    refetch = columns.pop("refetch", none)
    details = {
        "position": position,
        "keys": keys,
        "values": values,
        "refetch": refetch,
        "topk_passes": none,
        "topk_beats": none,
    }
    row = {"keys": [max(keys)], "values": [max(values)], "key_bits": [8], "value_bits": [8]}
    row |= {name: [value] for name, value in columns.items()}
    table = QueryTable.of([len(keys)], details)
    return Workload.from_columns(row, query_table=table)


def run(
    workload: Workload, config: SpattenConfig, memory: MemoryConfig, dependencies: Any = "causal"
) -> tuple[CycleMachine, Activity]:
    built = CycleMachine(workload, config, memory, dependencies)
    assert built.run()
    return built, activity_of(built)


# By hand ------------------------------------------------------------------------------------

HEAD = 151
"""One query of eight keys of 12 bit: fork 2, address FIFO + 4, port + 3, two more transactions on
the same channel + 2, response L + 1 behind its push, joined + 3, multipliers + 11, FIFO of the
softmax + 2 + 6 + 28, sum + 23, probability + 36; values: FIFO + 5, port + 3, a second transaction
+ 1, response L + 1, joined + 3, multipliers + 11, output + 3 + 3."""


@pytest.mark.parametrize("latency", [20, 33])
def test_one_query_takes_what_its_stages_take(latency: int) -> None:
    assert simulate(rows(1, 8), machine(), flat(latency)).cycles == HEAD + 2 * latency


@pytest.mark.parametrize("latency", [20, 33])
def test_lsb_pass_goes_from_decision_to_fork_in_two_cycles(latency: int) -> None:
    workload = rows(1, 8, key_bits=8, refetch_lsb=True)
    # 8 bits of eight keys and the query: at most two transactions a channel (one cycle less than
    # above); decided 36 after the first read; fork + 2; LSBs: one transaction a channel.
    decided = 2 + 4 + 3 + 1 + latency + 1 + 3 + 11 + 36 + 23 + 36
    probability = decided + 2 + 4 + 3 + latency + 1 + 3 + 11 + 36 + 23 + 36
    output = probability + 5 + 3 + 1 + latency + 1 + 3 + 11 + 6
    assert simulate(workload, machine(), flat(latency)).cycles == output


def test_reset_counts() -> None:
    plain = simulate(rows(2, 8), machine(), flat(20))
    late = simulate(rows(2, 8), machine(reset_cycles=16), flat(20))
    assert late.cycles == plain.cycles + 16
    assert late.completion_cycles == [cycle + 16 for cycle in plain.completion_cycles]


# By arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "interval"), [(1000, 2 * 125 - 128 + 23), (800, 100)])
def test_softmax_holds_128_beats_until_the_sum_is_known(keys: int, interval: int) -> None:
    # 128 entries: of the next query's beats only what is free beside the last one's comes in
    # before that is read, 23 cycles after its last beat. Bytes are few: 32 x 4 bit.
    workload = rows(40, keys, key_bits=4, value_bits=4, head_dim=32)
    done = simulate(workload, machine(), flat(20)).completion_cycles
    assert set(np.diff(done[10:30])) == {interval}


def test_search_bounds_rows_that_prune() -> None:
    count, keys = 30, 400
    table = QueryTable.of(
        np.ones(count, int),
        {
            "position": np.zeros(count, int),
            "keys": np.full(count, keys),
            "values": np.full(count, 40),
            "refetch": np.zeros(count, int),
            "topk_passes": np.full(count, 10),
            "topk_beats": np.full(count, 300),
        },
    )
    columns = {"keys": [keys] * count, "values": [40] * count}
    columns |= {"key_bits": [4] * count, "value_bits": [4] * count}
    workload = Workload.from_columns(columns, query_table=table)
    built, activity = run(workload, machine(), flat(20))
    assert set(np.diff(activity.completion_cycles[5:])) == {300 + 10 * 3}
    # Two rows of scores inside: the first probability takes the place of the query two before.
    jobs, beats = built.state.jobs, 50
    first = jobs["last"] - beats + 1
    assert (first[4:] == jobs["filter"][2:-2] + beats).all()


def test_memory_bounds_large_rows() -> None:
    # 1000 keys and values of 12 bit and 64 elements; 8 bytes a cycle and channel.
    workload = rows(20, 1000, values=1000)
    done = simulate(workload, machine(), flat(20, bytes_per_tick=8.0)).completion_cycles
    bound = 2 * 1000 * 96 / (16 * 8)
    # The first rows fill the buffers, the last ones have the memory for themselves.
    assert bound <= np.diff(done[3:15]).mean() < 1.03 * bound


@pytest.mark.parametrize("early", [False, True])
def test_partial_results_of_one_pass_spill_between_tiles(early: bool) -> None:
    keys = [1500, 900, 2500]
    position = [1499, 899, 2499] if early else [5, 5, 5]
    workload = queries(keys, keys, position=position)
    activity = simulate(workload, machine(), HBM2)
    size = (64 + 2) * 4
    # Tiles of 1,024: the queries have 2, 1 and 3.
    assert activity.counters["spill_write_bytes"] == (3 * size if early else 0)
    assert activity.counters["spill_read_bytes"] == (3 * size if early else 0)
    assert activity.counters["qk_macs"] == activity.counters["pv_macs"] == sum(keys) * 64


@pytest.mark.parametrize("early", [False, True])
def test_scores_of_two_passes_go_to_memory_beyond_1024(early: bool) -> None:
    keys, values = [1500, 900, 2500], [15, 9, 2500]
    workload = queries(keys, values, position=[0, 1, 2] if early else [3, 3, 3])
    activity = simulate(workload, machine(), HBM2)
    gone = keys if early else [1500 - 1024, 0, 2500 - 1024]
    sizes = [-(-12 * count // 8) for count in gone]
    assert activity.counters["spill_write_bytes"] == sum(sizes)
    # The last one keeps all its values: no filter reads its scores again.
    assert activity.counters["spill_read_bytes"] == sum(sizes) + sizes[0] + sizes[1]


def test_lsb_pass_over_several_tiles_fetches_both_planes_and_scores_again() -> None:
    columns = {"refetch": [True], "key_lsb_bits": 4, "key_bits": 8}
    workload = queries([1500], [15], position=[0], **columns)
    activity = simulate(workload, machine(), HBM2)
    size = (1500 - 1024) * 12 // 8
    assert activity.counters["spill_write_bytes"] == 2 * size
    # No filter reads the scores of the first pass.
    assert activity.counters["spill_read_bytes"] == 3 * size
    assert activity.dram_read_bytes["key_msb"] == 2 * 1500 * 64
    assert activity.dram_read_bytes["key_lsb"] == 1500 * 32
    assert activity.counters["refetched_bytes"] == 1500 * 64


def test_query_outer_fetches_a_long_prompt_for_each_position() -> None:
    keys = [1201, 1202, 1203, 1204]
    workload = queries(keys, keys, position=[1200, 1201, 1202, 1203])
    activity = simulate(workload, machine(loop_order="query-outer"), HBM2)
    once = simulate(workload, machine(), HBM2)
    assert activity.dram_read_bytes["value"] == sum(keys) * 64
    assert activity.counters["refetched_bytes"] == 2 * (sum(keys) - 1204) * 64
    assert activity.dram_read_bytes["value"] > once.dram_read_bytes["value"] == 1204 * 64
    assert activity.counters["spill_write_bytes"] == 0


# Order and dependencies ---------------------------------------------------------------------


def decoding(steps: int = 3, layers: int = 3, **columns: Any) -> Workload:
    return Workload.from_columns(
        {
            "step": np.repeat(np.arange(steps), layers),
            "layer": np.tile(np.arange(layers), steps),
            **{
                name: np.full(steps * layers, value)
                for name, value in {
                    "keys": 200,
                    "values": 200,
                    "key_bits": 8,
                    "value_bits": 8,
                    **columns,
                }.items()
            },
        }
    )


def test_no_key_of_a_token_is_asked_for_before_the_token_before_is_done() -> None:
    built, _ = run(decoding(), machine(), HBM2)
    asked = built.state.matrices["asked"]
    done = built.state.groups["done"]
    for group in (3, 6):
        assert asked[group] >= done[group - 1]
    # Within a step the keys of the next layer come ahead, its queries do not.
    assert (asked[[1, 2, 4, 5]] < done[[0, 1, 3, 4]]).all()
    own = built.state.requests["arrives"][built.state.rows["query_request"][[1, 2, 4, 5]]]
    assert (own == done[[0, 1, 3, 4]] + 4).all()
    streamed, fast = run(decoding(), machine(), HBM2, "streamed")
    assert (streamed.state.matrices["asked"][3:] < streamed.state.groups["done"][2:8]).all()
    assert fast.cycles < activity_of(built).cycles


@pytest.mark.parametrize("traffic", [True, False])
def test_no_query_begins_before_the_layer_before_is_done(traffic: bool) -> None:
    built, _ = run(decoding(), machine(query_traffic=traffic), HBM2)
    # 25 beats, the first one in the cycle of the start if the keys are there.
    known = built.state.jobs["sum"][1:] - 24 - (2 + 6 + 28) - 23
    start = built.state.groups["done"][:-1]
    assert (known >= start).all()
    ahead = np.array([0, 1, 3, 4, 6, 7])
    assert (known[ahead] == start[ahead]).all() == (not traffic)


@pytest.mark.parametrize("cost", [100, 400])
def test_tokens_of_the_next_layer_are_searched_before_its_keys_are_read(cost: int) -> None:
    workload = decoding(1, 2, keys=8, values=8, key_bits=12, value_bits=12)
    for name, value in {"select_size": 9, "select_passes": 10, "select_beats": cost - 30}.items():
        workload.columns[name][1] = value
    latency = 20
    built, activity = run(workload, machine(), flat(latency))
    # The first layer's query is a probability in 121 + L; the layer after begins like a first one.
    searched = 121 + latency + cost
    start = max(searched, int(built.state.groups["done"][0]))
    assert built.state.groups["tokens_end"][0] == searched
    assert built.state.matrices["asked"][1] == searched
    if cost == 400:
        assert activity.cycles == start + HEAD - 2 + 2 * latency
    streamed = simulate(workload, machine(), flat(latency), "streamed")
    assert streamed.cycles < activity.cycles


def test_fewer_heads_are_selected_before_the_layer() -> None:
    workload = decoding(1, 2)
    more = Workload.from_columns(
        {name: np.concatenate((column[:1], column)) for name, column in workload.columns.items()}
    )
    built, _ = run(more, machine(), HBM2)
    groups = built.state.groups
    assert groups["heads"][0] > 0
    assert groups["heads_end"][0] == groups["done"][0] + groups["heads"][0]
    assert built.state.matrices["asked"][2] >= groups["heads_end"][0]


def most_at_once(begin: Any, end: Any, weight: Any) -> int:
    """Largest sum of weights of half-open intervals that hold a cycle."""
    times = np.concatenate((end, begin))
    order = np.argsort(times, kind="stable")
    return int(np.cumsum(np.concatenate((-weight, weight))[order]).max())


def test_keys_are_asked_for_when_lines_and_slots_are_free() -> None:
    few, _ = run(rows(8, 8), machine(), flat(20))
    asked, free = few.state.matrices["asked"], few.state.matrices["free"]
    assert (asked[3:] == free[:-3]).all()
    assert (asked[:3] == [2, 3, 4]).all()
    # 1,024 keys fill half of the buffer.
    large, _ = run(rows(5, 1024, key_bits=4, value_bits=4), machine(), flat(20))
    asked, free = large.state.matrices["asked"], large.state.matrices["free"]
    assert (asked[2:] == free[:-2]).all()
    planes, _ = run(rows(5, 1024, key_bits=4, key_lsb_bits=4), machine(), flat(20))
    asked, decided = planes.state.matrices["asked"], planes.state.pieces["decided"]
    assert (asked[2:] == decided[:-2] + 5).all()


def test_a_query_that_keeps_its_values_does_not_pass_one_that_is_filtered() -> None:
    built, _ = run(rows(8, 400, values=[40, 400], key_bits=4), machine(), flat(20))
    jobs, due = built.state.jobs, built.state.pieces["due"]
    end = jobs["filter"][0::2] + jobs["beats"][0::2]
    assert (due[1::2] == end).all()


def check_stamps(built: CycleMachine) -> None:
    """What may not overlap does not."""
    config, state = built.config, built.state
    matrices, tiles, jobs = state.matrices, state.tiles, state.jobs
    own = matrices[matrices["owner"] == np.arange(len(matrices))]
    asked, free = own["asked"], np.maximum.accumulate(own["free"])
    if not matrices["lsb"].any():
        # A ring: lines come back in order.
        assert most_at_once(asked, free, np.ones_like(asked)) <= 1 + config.key_prefetch_depth
        assert most_at_once(asked, free, own["lines"]) <= config.buffer_lines
    free = np.minimum(tiles["free"], state.s[0]["now"])
    asked = np.minimum(tiles["asked"], free)
    assert most_at_once(asked, free, np.ones_like(asked)) <= 1 + config.value_prefetch_depth
    assert most_at_once(asked, free, tiles["lines"]) <= config.buffer_lines
    order = state.queues.topk[: state.s[0]["topk_tail"]]
    filters, beats = jobs["filter"][order], jobs["beats"][order]
    last, searched = jobs["last"][order], jobs["searched"][order]
    search = jobs["search"][order]
    assert (searched >= last + search).all()
    assert (searched[1:] >= searched[:-1] + search[1:]).all()
    assert (filters >= searched).all()
    assert (filters[1:] >= filters[:-1] + beats[:-1]).all()
    rows_inside = config.topk.rows
    entered = last - beats + 1
    assert (entered[rows_inside:] >= (filters + beats)[:-rows_inside]).all()
    groups = state.groups
    if not state.s[0]["streamed"]:
        start = np.concatenate(([0], groups["done"][:-1]))[matrices["group"]]
        first = matrices[matrices["first"] == 1]
        ahead = groups["ahead"][first["group"]] == 1
        began = start[matrices["first"] == 1]
        assert (first["asked"][~ahead] >= began[~ahead]).all()


@pytest.mark.parametrize("seed", range(40))
def test_random_workloads_finish_within_their_queues_and_bytes(seed: int) -> None:
    workload = random_published_workload(seed)
    config = machine(loop_order=("key-outer", "query-outer")[seed % 2])
    for dependencies in ("causal", "streamed"):
        built, activity = run(workload, config, HBM2, dependencies)
        s = built.state.s
        assert all(0 <= queue.high_water <= queue.depth for queue in activity.queues.values())
        assert s["fifo_in"] == s["fifo_out"]
        check_stamps(built)
        assert activity.counters["dram_reads"] * ATOM == sum(activity.dram_read_bytes.values())
        assert min(activity.completion_cycles) > 0
        assert max(activity.completion_cycles) == activity.cycles
        again = int(workload["refetch_query_keys"].sum())
        scored = int(workload["query_keys"].sum()) + again
        assert activity.counters["qk_macs"] == scored * workload.head_dim
        values = int(workload["query_values"].sum())
        assert activity.counters["pv_macs"] == values * workload.head_dim
        if not (built.state.matrices["two"].any() or seed % 2):
            asked = workload.policy_bytes()
            for tensor, size in asked.items():
                # Vectors of a run share transactions; each run begins and ends in one.
                runs = 2 * int(workload["keys"].sum())
                found = activity.dram_read_bytes[tensor]
                assert size <= found <= size + runs * (ATOM - 1)


def test_prompt_and_decoding_are_told_apart() -> None:
    kinds = set()
    for seed in range(40):
        workload = random_published_workload(seed)
        activity = simulate(workload, machine(), FLAT)
        steps = len(np.unique(workload["step"]))
        table = workload.query_table
        assert table is not None
        prompt = len(np.unique(table.position[table.start[0] : table.start[1]])) > 1
        kinds.add((prompt, steps > 1))
        first = np.asarray(activity.completion_cycles)[workload["step"] == workload["step"][0]]
        assert activity.prefill_cycles == (first.max() if prompt else 0)
        assert activity.decode_steps == steps - prompt
    assert len(kinds) == 4


def test_bytes_are_those_of_the_policy_where_transactions_are_whole() -> None:
    workload = rows(5, 96, values=33, key_bits=8, refetch_lsb=[True, False, True, True, False])
    activity = simulate(workload, machine(), HBM2)
    asked = workload.policy_bytes()
    assert {name: activity.dram_read_bytes[name] for name in asked} == asked
    assert activity.dram_read_bytes["query"] == 5 * 96


# Refusals -----------------------------------------------------------------------------------


def test_a_machine_that_stops_says_which_block_waits() -> None:
    with pytest.raises(SimulationError, match="fetcher waits for 1 beats from DRAM"):
        simulate(rows(1, 4), machine(), flat(1 << 40))


def test_what_the_machine_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="clock_hz"):
        simulate(rows(1, 8), machine(frequency_hz=2e9), FLAT)
    with pytest.raises(ConfigError, match="transaction_bytes is 64"):
        simulate(rows(1, 8), machine(), flat(20, transaction_bytes=64))
    broken = rows(1, 8, key_bits=8, refetch_lsb=True, key_lsb_bits=0)
    with pytest.raises(WorkloadError, match="row 0: a query needs the LSB plane"):
        simulate(broken, machine(), FLAT)


# Transactions -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 40), min_size=1, max_size=20, unique=True),
            st.sampled_from([16, 24, 32, 48, 64, 96, 384]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_transactions_cover_every_vector_once(
    drawn: list[tuple[list[int], int, int]],
) -> None:
    runs, indexes = [], []
    for request, (vectors, size, base) in enumerate(drawn):
        runs.append((request, len(indexes), len(vectors), size, base * 4096, 1))
        indexes += sorted(vectors)
    found, last, starts = _transactions(
        np.array(runs, np.int64), np.array(indexes, np.int64), len(runs), 16 * len(indexes) + 16
    )
    number = 0
    for (request, first, count, size, base, _), start in zip(runs, starts, strict=True):
        mine = found[start[1] : start[1] + start[3]]
        wanted: list[int] = []
        for vector in indexes[first : first + count]:
            low, high = base + vector * size, base + (vector + 1) * size
            wanted += [a for a in range(low // 32 * 32, high, 32) if a not in wanted]
            assert start[5] + number >= request
            assert last[number] == len(wanted) - 1
            number += 1
        assert mine.tolist() == wanted
