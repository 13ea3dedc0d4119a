"""What a selection of keys costs on the published machine: what the policy asked for, once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim import configs
from accelsim.functional import run_policy
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines.spatten._search import search_cycles
from accelsim.hardware.machines.spatten.config import SpattenConfig
from accelsim.policies import load_policy
from accelsim.traces import synthetic_trace
from accelsim.workloads import QueryTable, Workload

MACHINE = load_accelerator("spatten-paper")
MEMORY = configs.load(MemoryConfig, MACHINE.memory, "memories")
RULES = ["tova", "h2o", "snapkv", "quest", "knorm", "keydiff", "ems", "scissorhands"]


def drawn(policy: str, seed: int, prefill: int = 40, decode: int = 4) -> Workload:
    trace = synthetic_trace(
        seed=seed, num_layers=3, head_dim=64, prefill_tokens=prefill, decode_tokens=decode
    )
    return run_policy(trace, load_policy(policy)).workload


def asked(workload: Workload) -> tuple[int, int]:
    """Cycles and scores of all searches behind the first layer, before which there is no query."""
    assert isinstance(MACHINE, SpattenConfig)
    later = (workload["step"] > 0) | (workload["layer"] > 0)
    passes, beats, elements = (
        np.where(later & (workload["select_size"] > 0), workload[f"select_{name}"], 0).astype(int)
        for name in ("passes", "beats", "elements")
    )
    topk = MACHINE.topk
    cycles = search_cycles(passes, beats, elements, topk.parallelism, topk.pass_overhead)
    return int(cycles.sum()), int(elements.sum())


@settings(max_examples=16, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 1 << 20), st.integers(2, 90), st.integers(1, 5))
def test_searches_of_a_cache_policy_are_charged_once(
    policy: str, seed: int, prefill: int, decode: int
) -> None:
    workload = drawn(policy, seed, prefill, decode)
    cycles, elements = asked(workload)
    event, cycle = (simulate(workload, MACHINE, MEMORY, engine) for engine in ("event", "cycle"))
    assert event.modules["selector"].busy_cycles == cycles
    assert event.modules["selector"].operations == 2 * elements
    for name in ("topk_passes", "topk_comparisons", "topk_fifo_bytes"):
        assert event.counters.get(name, 0) == cycle.counters.get(name, 0)
    assert abs(event.cycles / cycle.cycles - 1) < 0.05


def test_a_cascade_searches_after_every_query() -> None:
    workload = drawn("spatten-pruned", 1, prefill=120)
    assert not workload["select_once"].any()
    once = simulate(workload, MACHINE.model_copy(update={"token_selection": "per-layer"}), MEMORY)
    each = simulate(workload, MACHINE, MEMORY)
    assert each.modules["selector"].busy_cycles > 10 * once.modules["selector"].busy_cycles > 0


@pytest.mark.parametrize("policy", RULES)
def test_how_often_a_cascade_searches_makes_no_difference_here(policy: str) -> None:
    workload = drawn(policy, 2)
    assert (workload["select_once"] == (workload["select_size"] > 0)).all()
    per_layer = MACHINE.model_copy(update={"token_selection": "per-layer"})
    assert (
        simulate(workload, MACHINE, MEMORY).cycles == simulate(workload, per_layer, MEMORY).cycles
    )


def test_the_prompt_before_tova_takes_what_its_widths_take() -> None:
    tova, static = (drawn(name, 3, prefill=96) for name in ("tova", "static-12"))
    ends = [simulate(workload, MACHINE, MEMORY).prefill_cycles for workload in (tova, static)]
    assert ends[0] <= 1.02 * ends[1]
    # The last query of the prompt ranks, once a layer and head, and each decoded one after it.
    counted = tova["score_updates"][tova["step"] == 0].sum()
    assert counted == 3 * 4 * 96


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("cost", [400, 1000])
def test_a_search_behind_a_query_of_two_passes_begins_with_its_last_score(
    cost: int, count: int
) -> None:
    keys, values = 1500, 15
    columns = {"keys": [keys] * 2, "values": [values] * 2, "key_bits": [8] * 2}
    columns |= {"value_bits": [8] * 2, "step": [0, 0], "layer": [0, 1]}
    passes, beats = 10, cost - 10 * MACHINE.topk.pass_overhead
    columns |= {"select_size": [0, 2000], "select_target": [0, keys], "select_passes": [0, passes]}
    columns |= {"select_beats": [0, beats], "select_elements": [0, 16 * beats]}
    none = np.zeros(2 * count, np.int64)
    details = {"position": none + 3, "keys": none + keys, "values": none + values}
    details |= {"refetch": none, "topk_passes": none + 10, "topk_beats": none + 300}
    table = QueryTable.of([count, count], details)
    workload = Workload.from_columns(columns, query_table=table)
    # A memory that both engines know to the cycle; the next layer waits for the last search.
    memory = configs.load(MemoryConfig, "flat", "memories")
    event, cycle = (simulate(workload, MACHINE, memory, engine) for engine in ("event", "cycle"))
    assert event.modules["selector"].busy_cycles == count * cost
    assert event.completion_cycles == cycle.completion_cycles
