"""The thirty benchmarks: shapes, determinism, published averages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from accelsim.errors import WorkloadError
from accelsim.exploration import replay
from accelsim.workloads import benchmark_names, load_benchmark, read_benchmark
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
    assert quick_select_work(8, 8, 3, rng) == (0, 0)
    passes, elements = quick_select_work(1000, 300, 200, rng)
    assert 5 < passes / 200 < 20  # about 2 ln n passes, about 3 n elements
    assert 2 < elements / 200 / 1000 < 4


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(WorkloadError, match="did you mean 'bert-base-sst-2'"):
        load_benchmark("bert-base-sst2")
    with pytest.raises(WorkloadError, match="did you mean 'bert-base-cola'"):
        replay("bert-base-colla")


def test_replay_takes_a_benchmark_by_name() -> None:
    result = replay("bert-base-cola", baselines=[])
    assert result.metrics["latency_cycles"] > 0
    assert result.metrics["energy_j_low"] < result.metrics["energy_j_high"]
