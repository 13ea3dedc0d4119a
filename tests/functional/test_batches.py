"""A batch under a policy: each sequence by itself, then side by side on one machine."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.baselines import AttentionShape
from accelsim.configs import load
from accelsim.errors import AccelsimError
from accelsim.functional import run_policy
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import load_policy
from accelsim.traces import LayerEntry, Mask, batch_of, save_trace, synthetic_trace

POLICIES = ("dense", "spatten-full", "spatten-tokens", "h2o", "tova", "quest", "kivi-4", "ems")
LENGTHS = st.tuples(st.integers(1, 24), st.integers(0, 5))


def one(seed, prefill, decode, **changes):
    return synthetic_trace(
        seed=seed, prefill_tokens=prefill, decode_tokens=decode, head_dim=64, **changes
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=4), st.sampled_from(POLICIES))
def test_each_sequence_is_decided_by_itself(lengths, name):
    policy = load_policy(name)
    traces = [one(seed, *length) for seed, length in enumerate(lengths)]
    if not any(trace.decode_tokens for trace in traces):
        traces[0] = one(0, 3, 2)
    traces = [t if t.decode_tokens else dataclasses.replace(one(9, 4, 1)) for t in traces]
    runs = [run_policy(trace, policy) for trace in traces]
    batch = run_policy(batch_of(traces), policy)
    table, heads = batch.workload, traces[0].num_kv_heads
    order = list(zip(table["step"], table["layer"], table["head"], strict=True))
    assert order == sorted(order)
    for number, run in enumerate(runs):
        own = table.select(table["head"] // heads == number)
        assert own.rows == run.workload.rows
        for column, values in run.workload.columns.items():
            expected = values + number * heads if column == "head" else values
            np.testing.assert_array_equal(own[column], expected)
        for ours, theirs in ((own.key_indices, run.workload.key_indices),):
            assert (ours is None) == (theirs is None)
            for a, b in zip(ours or (), theirs or (), strict=True):
                np.testing.assert_array_equal(a, b)
    # Figures are over the queries of all.
    weights = np.array([len(list(_seen(trace))) for trace in traces], dtype=float)
    kept = [run.accuracy["kept_query_fraction"] for run in runs]
    assert batch.accuracy["kept_query_fraction"] == pytest.approx(np.average(kept, weights=weights))


def _seen(trace):
    return range(trace.tokens)


@pytest.mark.parametrize("name", POLICIES)
def test_copies_are_the_batch_of_a_shape(name):
    trace, policy = one(3, 12, 3), load_policy(name)
    alone = run_policy(trace, policy).workload.batched(3)
    batch = run_policy(batch_of([trace] * 3), policy).workload
    for column, values in alone.columns.items():
        np.testing.assert_array_equal(batch[column], values)
    assert batch.policy_bytes() == {
        key: 3 * count for key, count in run_policy(trace, policy).workload.policy_bytes().items()
    }


@settings(max_examples=15, deadline=None)
@given(st.lists(LENGTHS.filter(lambda n: n[1] > 0), min_size=2, max_size=3), st.data())
def test_machines_run_sequences_side_by_side(lengths, data):
    """Bytes add up; time is between the longest and the sum, and both engines agree."""
    policy = load_policy(data.draw(st.sampled_from(("dense", "spatten-full", "h2o"))))
    machine = load_accelerator("spatten-paper")
    # A refresh that only the longer run reaches is 350 cycles: 4,365 for 3,183 and 913.
    memory = load(MemoryConfig, machine.memory, "memories").model_copy(update={"refresh": False})
    traces = [one(seed, *length) for seed, length in enumerate(lengths)]
    runs = [
        simulate(run_policy(t, policy).workload, machine, memory, "event", None, "causal")
        for t in traces
    ]
    workload = run_policy(batch_of(traces), policy).workload
    batch, exact = (
        simulate(workload, machine, memory, engine, None, "causal") for engine in ("event", "cycle")
    )
    read = [sum(run.dram_read_bytes.values()) for run in runs]
    assert sum(batch.dram_read_bytes.values()) == sum(read)
    cycles = [run.cycles for run in runs]
    assert max(cycles) * 0.98 <= batch.cycles <= sum(cycles) * 1.02
    assert abs(batch.cycles - exact.cycles) <= 0.05 * exact.cycles + 10


def test_baselines_run_sequences_in_one_call():
    short, long = one(1, 6, 2), one(2, 8, 4)
    alone = AttentionShape.from_trace(long)
    copies = AttentionShape.from_trace(batch_of([long] * 5))
    assert copies == dataclasses.replace(alone, sequences=5)
    assert AttentionShape.from_trace(batch_of([long])) == alone
    mixed = AttentionShape.from_trace(batch_of([short, long]))
    both, rest = mixed.parts
    assert (both.sequences, rest.sequences) == (2, 1)
    # The prompt, sqrt((6² + 8²) / 2) tokens, and two steps together; then two of the long one.
    contexts = [(call.queries, call.context) for call in both.calls]
    assert contexts == [(8, 8), (1, 8), (1, 9)]
    assert [(call.queries, call.context) for call in rest.calls] == [(1, 11), (1, 12)]
    assert mixed.layer_calls == alone.layer_calls


def test_sequences_that_do_not_call_alike_follow_one_another():
    whole = one(1, 8, 2)
    windows = (LayerEntry(mask=Mask(kind="window", size=4, side="left")), LayerEntry())
    other = dataclasses.replace(whole, layers=windows)
    mixed = AttentionShape.from_trace(batch_of([whole, other]))
    assert mixed.flops == sum(AttentionShape.from_trace(t).flops for t in (whole, other))


def test_not_for_batches(tmp_path):
    import accelsim

    batch = batch_of([one(1, 4, 2), one(2, 5, 1)])
    save_trace(batch, tmp_path / "t.safetensors")
    path = tmp_path / "t.safetensors"
    for machine in ("a3-base", "mnnfast"):
        with pytest.raises(AccelsimError, match="is a batch of 2 sequences; expected one"):
            accelsim.replay(path, accelerator=machine, baselines=[])
    with pytest.raises(AccelsimError, match="expected one, for the fixed-point datapath"):
        accelsim.verify(path)
    result = accelsim.replay(path, policy="h2o", baselines=["h100", "a100"])
    assert result.metrics["dram_read_bytes"] > 0
    assert result.manifest["sequences"] == 2
