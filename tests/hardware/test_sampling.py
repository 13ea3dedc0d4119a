"""Sampled simulation: near the whole run, with intervals that hold it; nothing counted twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from accelsim.configs import load
from accelsim.functional.shapes import shape_workload
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.activity import Activity, ModuleActivity, QueueActivity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.sampling import SAMPLES, SMALLEST, UNSEEN, Sampled, sample, size_of
from accelsim.policies import Policy
from accelsim.workloads import QueryTable, Workload
from accelsim.workloads.models import ModelShape, load_model
from accelsim.workloads.shapes import ShapeSource

Machine = Callable[[Workload], Activity]
GPT2 = load_model("gpt2-small")
LAYERS_ALIKE = load_model("llama-3-8b").model_copy(update={"layers": 6})


def dense(shape: ModelShape, context: int, decode: int) -> Workload:
    source = ShapeSource(model="own", context=context, decode=decode)
    return shape_workload(shape, source, Policy())


def linear(start: int) -> Machine:
    """A machine that takes ``start`` cycles a layer, and a cycle for a score and a byte for 8."""

    def run(work: Workload) -> Activity:
        change = np.diff(work["layer"]) != 0
        change |= np.diff(work["step"]) != 0
        cycles = work["query_keys"] + start * np.concatenate(([True], change))
        done = np.cumsum(cycles)
        total = int(done[-1])
        busy = int(work["query_keys"].sum())
        return Activity(
            total, 1e9,
            dram_read_bytes={"key_msb": work.policy_bytes()["key_msb"], "query": 32 * work.rows},
            counters={"qk_macs": busy, "dram_activations": work.policy_bytes()["key_msb"] // 64},
            modules={
                "unit": ModuleActivity(busy, {"idle": 0, "start": total - busy}, busy, 1.0)
            },
            completion_cycles=done.tolist(),
            queues={"queue": QueueActivity(9, work.rows % 7, "rows")},
        )  # fmt: skip

    return run


def test_a_linear_machine_is_estimated_to_the_digit() -> None:
    """Ratios over scores are exact where every layer costs what its scores do."""
    work = dense(GPT2, 2000, 40)
    truth, found = linear(0)(work), sample(work, linear(0), 0.02)
    assert found is not None
    assert found.rows == work.rows
    assert found.rows_simulated * 4 < work.rows
    for part in (found.activity, *found.without):
        assert part.cycles == truth.cycles
        assert part.counters == pytest.approx(truth.counters, rel=1e-6)
        assert part.dram_read_bytes["key_msb"] == truth.dram_read_bytes["key_msb"]
        assert part.dram_read_bytes["query"] == pytest.approx(
            truth.dram_read_bytes["query"], rel=0.01
        )
    ends = (1 - UNSEEN) * truth.cycles, (1 + UNSEEN) * truth.cycles
    assert found.interval(lambda a: a.cycles) == pytest.approx(ends, abs=1)
    assert found.interval(lambda a: a.counters["qk_macs"]) == (truth.counters["qk_macs"],) * 2


def test_warm_up_is_not_counted_and_every_layer_is_paid_once() -> None:
    work = dense(GPT2, 2000, 40)
    for start in (10, 5000):
        truth, found = linear(start)(work), sample(work, linear(start), 0.05, seed=start)
        assert found is not None
        low, high = found.interval(lambda a: a.cycles)
        assert found.activity.cycles == pytest.approx(truth.cycles, rel=0.005)
        assert low <= truth.cycles <= high
        module = found.activity.modules["unit"]
        assert module.busy_cycles + sum(module.stall_cycles.values()) == found.activity.cycles
        assert module.operations is not None
        assert module.operations <= module.busy_cycles


def refreshing(period: int, stall: int) -> Machine:
    """As :func:`linear`, but all wait for ``stall`` cycles after every ``period``."""

    def run(work: Workload) -> Activity:
        activity = linear(0)(work)
        worked = np.asarray(activity.completion_cycles)
        done = worked + worked // period * stall
        activity.completion_cycles = done.tolist()
        activity.cycles = int(done[-1])
        return activity

    return run


def test_refreshes_are_as_frequent_in_samples_as_in_the_whole() -> None:
    """Units of 1.75 periods: samples that began alike would miss the mean by 2 %."""
    work = dense(load_model("smollm2-135m"), 4000, 48)
    unit = int(work["query_keys"][: 3 * 1].sum())
    machine = refreshing(int(unit / 1.75), unit // 20)
    truth = machine(work).cycles
    found = [sample(work, machine, 0.04, seed) for seed in range(40)]
    errors = [part.activity.cycles / truth - 1 for part in found if part is not None]
    assert len(errors) == 40
    assert abs(np.mean(errors)) < 0.003
    assert np.max(np.abs(errors)) < 0.02


def test_stages_are_estimated_apart_and_joined() -> None:
    work = dense(GPT2, 2000, 40)
    prompt = dense(GPT2, 600, 0)
    tables = prompt.query_table, work.query_table
    assert tables[0] is not None
    assert tables[1] is not None
    fields = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("position", "keys", "values", "refetch", "topk_passes", "topk_beats")
    }
    queries = np.concatenate([prompt["queries"], work["queries"]])
    both = Workload.from_columns(
        {name: np.concatenate([prompt[name], work[name]]) for name in work.columns},
        head_dim=64,
        query_table=QueryTable.of(queries, fields),
    )
    truth, found = linear(0)(both), sample(both, linear(0), 0.02)
    assert found is not None
    early = int(prompt["query_keys"].sum())
    assert found.activity.prefill_cycles == early
    assert found.activity.cycles == truth.cycles
    assert found.activity.decode_steps == 40
    told = np.asarray(found.activity.completion_cycles)
    assert (told[: prompt.rows] == early).all()
    assert (told[prompt.rows :] == truth.cycles).all()


def test_few_units_are_run_whole() -> None:
    assert sample(dense(GPT2, 2000, 1), linear(0), 0.02) is None
    assert sample(dense(GPT2, 60, 30), linear(0), 0.02) is None


def test_every_unit_is_drawn_as_often_as_another() -> None:
    work = dense(LAYERS_ALIKE, 3000, 50)
    seen: list[np.ndarray] = []

    def run(part: Workload) -> Activity:
        seen.append(part["step"] * 6 + part["layer"])
        return linear(0)(part)

    for seed in range(300):
        sample(work, run, 0.02, seed)
    counts = np.bincount(np.concatenate(seen))[6:]
    assert len(counts) == 50 * 6
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 1.6 * counts.mean()


def test_long_layers_run_some_heads() -> None:
    work = dense(LAYERS_ALIKE, 60_000, 16).batched(4)
    heads: list[int] = []

    def run(part: Workload) -> Activity:
        heads.extend(np.unique(part["step"] * 6 + part["layer"], return_counts=True)[1])
        return linear(0)(part)

    found = sample(work, run, 0.02)
    assert found is not None
    assert found.activity.cycles == linear(0)(work).cycles
    assert max(heads) < 32
    assert max(heads) * 2 * 4 * 60_000 >= 1 << 22


def test_the_interval_is_of_neighbours() -> None:
    many = (10_000, 10_400) * 4
    parts = [Activity(cycles, 1e9) for cycles in many]
    assert len(parts) == SAMPLES
    low, high = Sampled(Activity(10_200, 1e9), parts, 100, 10).interval(lambda a: a.cycles)
    half = 3.365 * (7 / 8 * 7 * 400**2 / 2) ** 0.5 + 10_200 * UNSEEN
    assert (low, high) == pytest.approx((10_200 - half, 10_200 + half), abs=1)


def test_sizes_tell_what_takes_minutes() -> None:
    assert size_of(dense(GPT2, 128, 0)) < SMALLEST
    assert size_of(dense(load_model("smollm2-135m"), 131_071, 1)) < SMALLEST
    assert size_of(dense(load_model("llama-3-8b"), 32_768, 8)) > SMALLEST


def test_the_machine_is_met_and_covered() -> None:
    """On the published SpAtten, 1,024 keys: errors within 2 %, truth inside."""
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    run = partial(simulate, accelerator=machine, memory=memory)
    work = dense(load_model("smollm2-135m"), 1024, 24)
    truth = run(work)
    for seed in range(4):
        found = sample(work, run, 0.05, seed)
        assert found is not None
        assert found.activity.cycles == pytest.approx(truth.cycles, rel=0.02)
        low, high = found.interval(lambda a: a.cycles)
        assert low <= truth.cycles <= high
        read = sum(found.activity.dram_read_bytes.values())
        assert read == pytest.approx(sum(truth.dram_read_bytes.values()), rel=0.001)
