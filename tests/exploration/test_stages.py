"""Energy and power of prompt and decoding, told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelsim.configs import load, preset_names
from accelsim.errors import AccelsimError
from accelsim.exploration import replay
from accelsim.functional import run_policy
from accelsim.hardware import accelerator_of, load_accelerator, simulate
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import load_policy
from accelsim.traces import AttentionTrace, synthetic_trace

TOTALS = ("latency_s", "energy_j", "energy_accesses_j")


def drawn(layers: int, prefill: int, decode: int, seed: int = 1) -> AttentionTrace:
    return synthetic_trace(
        num_layers=layers,
        num_query_heads=4,
        head_dim=64,
        prefill_tokens=prefill,
        decode_tokens=decode,
        seed=seed,
    )


def told(trace: AttentionTrace, **options: Any) -> Any:
    return replay(trace, baselines=[], stages=True, **options)


@settings(max_examples=12, deadline=None)
@given(
    layers=st.integers(1, 4),
    prefill=st.integers(2, 40),
    decode=st.integers(1, 6),
    policy=st.sampled_from(["dense", "spatten-pruned", "spatten-full"]),
    seed=st.integers(0, 1 << 20),
)
def test_a_prompt_alone_does_what_it_does_in_the_whole_run(
    layers: int, prefill: int, decode: int, policy: str, seed: int
) -> None:
    trace = drawn(layers, prefill, decode, seed)
    machine = load_accelerator("spatten-paper")
    memory = load(MemoryConfig, machine.memory, "memories")
    workload = run_policy(trace, load_policy(policy)).workload
    whole = simulate(workload, machine, memory)
    prompt = simulate(workload.part(np.flatnonzero(workload.stages()[0])), machine, memory)
    assert prompt.cycles == whole.prefill_cycles
    rest = whole.after(prompt)
    assert min(*rest.counters.values(), *rest.dram_read_bytes.values(), rest.cycles) >= 0
    for name, amount in whole.counters.items():
        assert rest.counters[name] + prompt.counters.get(name, 0) == amount


def test_stages_add_up_to_the_run() -> None:
    result = told(drawn(3, 24, 4), policy="spatten-full")
    stages, metrics = result.energy["stages"], result.metrics
    assert list(stages) == ["prefill", "decode"]
    for name in TOTALS:
        assert sum(stage[name] for stage in stages.values()) == pytest.approx(metrics[name])
    frequency = load_accelerator("spatten-paper").frequency_hz
    assert stages["prefill"]["latency_s"] * frequency == metrics["prefill_latency_cycles"]
    assert stages["decode"]["latency_s"] * frequency == metrics["decode_latency_cycles"]
    for stage in stages.values():
        assert sum(stage["power_w_by_part"].values()) == pytest.approx(stage["average_power_w"])
        assert stage["average_power_w"] == pytest.approx(stage["energy_j"] / stage["latency_s"])


def test_a_run_of_one_stage_has_one_and_an_unasked_one_none(tmp_path: Path) -> None:
    result = told(drawn(2, 24, 0))
    (stage,) = result.energy["stages"].values()
    assert list(result.energy["stages"]) == ["prefill"]
    assert [stage[name] for name in TOTALS] == [result.metrics[name] for name in TOTALS]
    assert replay("bert-base-cola", baselines=[]).energy["stages"] is None
    (decode,) = told_of("gpt2-small-wikitext2").energy["stages"]
    assert decode == "decode"


def told_of(name: str) -> Any:
    return replay(name, baselines=[], stages=True)


def test_stages_overlap_in_a_streamed_run() -> None:
    trace = drawn(2, 8, 2)
    with pytest.raises(AccelsimError, match=r"overlap.*expected dependencies 'causal'"):
        told(trace, dependencies="streamed")


@pytest.mark.parametrize("accelerator", preset_names("accelerators"))
def test_every_machine_tells_its_stages_or_why_not(accelerator: str) -> None:
    # The shape of GPT-2 small, which end-to-end machines need to know.
    trace = synthetic_trace(
        num_layers=12,
        num_query_heads=12,
        num_kv_heads=12,
        head_dim=64,
        prefill_tokens=4,
        decode_tokens=2,
    )
    options: dict[str, Any] = {"accelerator": accelerator}
    kind = load_accelerator(accelerator).kind
    if kind == "spatten-e2e":
        options["overrides"] = {"model": "gpt2-small"}
    if "causal" not in accelerator_of(kind).dependencies:
        with pytest.raises(AccelsimError, match="expected dependencies 'causal'"):
            told(trace, **options)
        return
    result = told(trace, **options)
    stages = result.energy["stages"]
    assert list(stages) == ["prefill", "decode"]
    for name in TOTALS:
        assert sum(s[name] for s in stages.values()) == pytest.approx(result.metrics[name])
        assert min(s[name] for s in stages.values()) > 0


def test_a_sampled_run_has_stages_too() -> None:
    result = replay(
        "shape:gpt2-small",
        context=2048,
        decode=16,
        policy="spatten-pruned",
        sample=0.1,
        baselines=[],
        stages=True,
    )
    assert result.manifest["sampled"]
    stages = result.energy["stages"]
    total = sum(stage["energy_j"] for stage in stages.values())
    assert total == pytest.approx(result.metrics["energy_j"], rel=1e-9)
