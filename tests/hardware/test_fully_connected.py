"""Fully connected layers: operations of Table IV, the weight stream, what pruning saves."""

from __future__ import annotations

import numpy as np
import pytest

from accelsim.configs import load, preset_names
from accelsim.errors import ConfigError, WorkloadError
from accelsim.functional import run_policy
from accelsim.hardware import load_accelerator, simulate
from accelsim.hardware.activity import Activity
from accelsim.hardware.config import MemoryConfig
from accelsim.hardware.machines._fully_connected import FcMachine, fully_connected, weight_stream
from accelsim.policies import load_policy
from accelsim.traces import synthetic_trace
from accelsim.workloads import Workload
from accelsim.workloads.models import dense_workload, load_model

MEMORY = load(MemoryConfig, "hbm2-nominal", "memories")
MACHINE = FcMachine(1024, 393216, 16, 8)


def run(work: Workload, model: str, machine: FcMachine = MACHINE) -> Activity:
    return fully_connected(work, load_model(model), machine, MEMORY, 1e9)


def test_gpt2_medium_has_the_operations_of_table_iv() -> None:
    activity = run(dense_workload(load_model("gpt2-medium"), 992, 32), "gpt2-medium")
    assert 2 * activity.counters["fc_macs"] == 32 * 24 * 12 * 1024**2 * 2  # 19.3 GFLOP
    assert activity.dram_read_bytes["weight"] == 32 * 24 * 12 * 1024**2
    # Bandwidth-bound: the stream, at no more than 512 GB/s.
    assert activity.cycles > activity.dram_read_bytes["weight"] / 512


@pytest.mark.parametrize("name", ["hbm2-nominal", "hbm2-spatten", "flat"])
def test_a_stretch_of_the_stream_stands_for_all_of_it(name: str) -> None:
    memory = load(MemoryConfig, name, "memories")
    size = 44 * 1024**2  # one 8-bit layer of the Llama-class shape
    full, full_counts = weight_stream(memory, 16, memory.clock_hz, size, simulated_bytes=size)
    cycles, counts = weight_stream(memory, 16, memory.clock_hz, size)
    assert cycles == pytest.approx(full, rel=0.01)
    assert counts["dram_reads"] == full_counts["dram_reads"]
    assert counts["dram_activations"] == pytest.approx(full_counts["dram_activations"], rel=0.03)


def test_weight_bits_scale_the_stream() -> None:
    work = dense_workload(load_model("gpt2-small"), 100, 1)
    eight = run(work, "gpt2-small")
    twelve = run(work, "gpt2-small", FcMachine(1024, 393216, 16, 12))
    assert twelve.dram_read_bytes["weight"] == 1.5 * eight.dram_read_bytes["weight"]
    assert twelve.cycles == pytest.approx(1.5 * eight.cycles, rel=0.03)


def test_an_encoder_is_compute_bound() -> None:
    activity = run(dense_workload(load_model("bert-base"), 128, 0), "bert-base")
    assert activity.cycles == 12 * 12 * 768**2 * 128 // 1024
    assert not activity.modules["fully_connected"].stall_cycles


def test_pruned_tokens_and_heads_shrink_the_layers() -> None:
    shape = load_model("bert-base")
    dense = dense_workload(shape, 128, 0)
    half = dict(dense.columns) | {"queries": dense["queries"] // 2}
    tokens = Workload.from_columns(half, head_dim=64)
    assert (
        run(tokens, "bert-base").counters["fc_macs"] * 2
        == run(dense, "bert-base").counters["fc_macs"]
    )
    heads = dense.select(dense["head"] < 9)
    saved = (
        run(dense, "bert-base").counters["fc_macs"] - run(heads, "bert-base").counters["fc_macs"]
    )
    assert saved == 12 * 3 * 64 * 4 * 768 * 128


OWN_HEAD_DIM = (
    "deepseek-v3", "gemma-3-270m", "gemma-3-27b", "gemma-3-4b", "gpt-oss-20b", "qwen3-0.6b",
    "qwen3-32b",
)  # fmt: skip
"""Models whose heads together are not as wide as a hidden vector."""


@pytest.mark.parametrize("name", preset_names("models"))
def test_shapes(name: str) -> None:
    shape = load_model(name)
    assert (shape.query_heads * shape.head_dim == shape.width) != (name in OWN_HEAD_DIM)
    assert shape.query_heads % shape.kv_heads == 0
    assert shape.layer_weights() > 0


def test_whole_model_is_attention_then_layers() -> None:
    work = dense_workload(load_model("gpt2-small"), 60, 1)
    attention = simulate(work, load_accelerator("spatten-paper"), MEMORY)
    whole = simulate(work, load_accelerator("spatten-e2e", {"model": "gpt2-small"}), MEMORY)
    layers = run(work, "gpt2-small")
    assert whole.cycles == attention.cycles + layers.cycles
    assert whole.counters["fc_macs"] == layers.counters["fc_macs"]
    assert whole.counters["qk_macs"] == attention.counters["qk_macs"]
    for module in whole.modules.values():
        assert module.busy_cycles + sum(module.stall_cycles.values()) == whole.cycles


def test_the_layers_of_a_prompt_are_paid_with_the_prompt() -> None:
    """Not while decoding: its fully connected layers end before the first token is decoded."""
    trace = synthetic_trace(
        num_layers=12, num_query_heads=12, head_dim=64, prefill_tokens=40, decode_tokens=3, seed=1
    )
    work = run_policy(trace, load_policy("dense")).workload
    machine = load_accelerator("spatten-e2e", {"model": "gpt2-small"})
    whole = simulate(work, machine, MEMORY)
    prompt = work.part(np.flatnonzero(work["step"] == 0))
    alone, layers = simulate(prompt, machine, MEMORY), run(prompt, "gpt2-small")
    attention = simulate(prompt, load_accelerator("spatten-paper"), MEMORY)
    assert whole.prefill_cycles == alone.cycles == attention.cycles + layers.cycles
    assert whole.decode_steps == 3
    told = np.array(whole.completion_cycles)
    assert told[work["step"] == 0].max() == whole.prefill_cycles
    assert told.max() == whole.cycles
    assert whole.queues == simulate(work, load_accelerator("spatten-paper"), MEMORY).queues


@pytest.mark.parametrize("order", ["causal", "streamed"])
def test_a_whole_model_tells_the_order_of_its_run(order: str) -> None:
    work = dense_workload(load_model("gpt2-small"), 100, 1)
    config = load_accelerator("spatten-e2e", {"model": "gpt2-small"})
    assert simulate(work, config, MEMORY, dependencies=order).dependencies == order


def test_errors() -> None:
    work = dense_workload(load_model("gpt2-small"), 60, 1)
    with pytest.raises(ConfigError, match="key 'model'"):
        simulate(work, load_accelerator("spatten-e2e"), MEMORY)
    with pytest.raises(ConfigError, match="did you mean 'gpt2-small'"):
        simulate(work, load_accelerator("spatten-e2e", {"model": "gpt2-smal"}), MEMORY)
    with pytest.raises(WorkloadError, match="does not come from this model"):
        run(work, "smollm2-135m")
