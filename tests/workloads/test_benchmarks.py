"""The thirty benchmarks: shapes, determinism, published averages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from accelsim.configs import validate
from accelsim.errors import WorkloadError
from accelsim.exploration import replay
from accelsim.workloads import (
    Benchmark,
    Workload,
    benchmark_names,
    load_benchmark,
    read_benchmark,
    synthesize,
)
from accelsim.workloads.benchmarks import quick_select_work


def test_there_are_thirty_with_every_platform() -> None:
    benches = [read_benchmark(name) for name in benchmark_names()]
    assert [b.kind for b in benches].count("encoder") == 22
    assert [b.kind for b in benches].count("generation") == 8
    assert all(len(b.published) == 4 and b.assumptions for b in benches)
    speedups = [b.published["titan-xp"].speedup for b in benches]
    # SpAtten Fig. 14 prints the geometric mean of its thirty bars as 162.
    assert float(np.exp(np.log(speedups).mean())) == pytest.approx(162, rel=0.01)


@pytest.mark.parametrize("name", ["bert-base-cola", "gpt2-small-ptb", "gpt2-small-wikitext2"])
def test_workloads_are_deterministic_and_cascade(name: str) -> None:
    first, second = load_benchmark(name, every=16), load_benchmark(name, every=16)
    for column in first.columns:
        assert np.array_equal(first[column], second[column])
    step = np.flatnonzero((first["step"] == 0) & (first["head"] == first["head"][-1]))
    for before, after in itertools.pairwise(step):
        assert first.key_indices is not None
        assert set(first.key_indices[after]) <= set(first.key_indices[before])


def test_savings_are_near_the_published_averages() -> None:
    # SpAtten §V-B: 3.8 times by token and value pruning of GPT-2, 1.1 times by heads.
    pruned, dense = (load_benchmark("gpt2-medium-ptb", dense=d, every=16) for d in (False, True))
    work = [int((w["query_keys"] + w["query_values"]).sum()) for w in (dense, pruned)]
    assert work[0] / work[1] == pytest.approx(3.8 * 1.1, rel=0.1)


def test_quick_select_work() -> None:
    rng = np.random.default_rng(0)
    assert not any(counts.any() for counts in quick_select_work(8, 8, 3, rng))
    passes, elements, beats = quick_select_work(1000, 300, 200, rng)
    assert 5 < passes.mean() < 20  # about 2 ln n passes, about 3 n elements
    assert 2 < elements.mean() / 1000 < 4
    assert (beats >= -(-elements // 16)).all()
    assert (beats < elements / 16 + passes).all()


def test_work_of_a_query_is_that_of_a_selection_alone() -> None:
    one = [quick_select_work(300, 40, 1, np.random.default_rng(i)) for i in range(50)]
    for i, counts in enumerate(one):
        low, high, rng = 0, 300, np.random.default_rng(i)
        sizes = []
        while True:
            sizes.append(high - low)
            pivot = low + int(rng.random(1)[0] * (high - low))
            if pivot == 39:
                break
            low, high = (pivot + 1, high) if pivot < 39 else (low, pivot)
        expected = (len(sizes), sum(sizes), sum(-(-size // 16) for size in sizes))
        assert tuple(int(count[0]) for count in counts) == expected


@pytest.mark.parametrize("name", ["bert-base-cola", "gpt2-small-ptb"])
def test_queries_of_a_benchmark(name: str) -> None:
    work = load_benchmark(name, every=16)
    table = work.query_table
    assert table is not None
    assert work.key_indices is not None
    row = table.row_of()
    assert np.array_equal(table.keys, work["keys"][row])
    # Each query prunes, although an encoder's queries together use every value.
    assert ((table.values < table.keys) == (work["topk_size"][row] > 0)).all()
    assert (table.topk_passes > 0).any()
    for i in (0, work.rows - 1):
        own = table.position[table.start[i] : table.start[i + 1]].tolist()
        kept = work.key_indices[i].tolist()
        assert own == (kept if work["queries"][i] > 1 else [work["context_tokens"][i] - 1])


def test_a_benchmark_follows_its_stage_and_min_keys() -> None:
    bench = read_benchmark("gpt2-small-ptb")
    plain = synthesize(bench, "b", every=8)

    def changed(**policy: object) -> Workload:
        data = bench.model_dump(mode="json")
        return synthesize(validate(Benchmark, data | {"policy": data["policy"] | policy}, "b"), "b",
                          every=8)  # fmt: skip

    def equal(other: Workload) -> bool:
        return all(np.array_equal(plain[c], other[c]) for c in plain.columns)

    # Only decode is simulated of a generation.
    assert equal(changed(prefill={"values": "none", "tokens": "none"}))
    assert (changed(decode={"values": "none"})["values"] == plain["keys"]).all()
    context = bench.input_tokens + 10
    tokens = bench.policy.tokens
    heads = bench.policy.heads
    assert tokens is not None
    assert heads is not None
    late = changed(tokens=tokens.model_dump() | {"min_keys": context})
    waiting = late["context_tokens"] < context
    assert 0 < waiting.sum() < late.rows
    assert (late["keys"] == late["context_tokens"])[waiting].all()
    assert not late["select_size"][waiting].any()
    assert (late["keys"] < late["context_tokens"])[~waiting & (late["layer"] > 2)].all()
    late = changed(heads=heads.model_dump() | {"min_keys": context})
    last = late["layer"] == bench.layers - 1
    rows = [int((last & (late["step"] == s)).sum()) for s in np.unique(late["step"])]
    assert rows[0] == bench.heads > rows[-1]
    late = changed(values={"keep": 0.3, "min_keys": 100_000})
    assert not late["topk_passes"].any()
    assert not late["topk_beats"].any()


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(WorkloadError, match="did you mean 'bert-base-sst-2'"):
        load_benchmark("bert-base-sst2")
    with pytest.raises(WorkloadError, match="did you mean 'bert-base-cola'"):
        replay("bert-base-colla")


def test_replay_takes_a_benchmark_by_name() -> None:
    result = replay("bert-base-cola", baselines=[])
    assert result.metrics["latency_cycles"] > 0
    assert result.metrics["energy_j_low"] < result.metrics["energy_j_high"]
