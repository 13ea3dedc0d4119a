"""Windows, chunks, soft caps, sinks and scales of layers: outputs, bytes and refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from accelsim import exploration
from accelsim.attention import reference
from accelsim.attention.quantization import quantize_dequantize
from accelsim.baselines import AttentionShape
from accelsim.configs import preset_names
from accelsim.errors import AccelsimError
from accelsim.functional import fixed_point as fp
from accelsim.functional import run_policy, verify_fixed_point
from accelsim.policies import applicable, load_policy
from accelsim.traces import LayerEntry, Mask, save_trace, synthetic_trace

WINDOW = 6
LAYERS = (
    LayerEntry(mask=Mask(kind="window", size=WINDOW, side="left"), scale=0.3),
    LayerEntry(),
    LayerEntry(mask=Mask(kind="chunk", size=8), softcap=1.5),
    LayerEntry(mask=Mask(kind="window", size=WINDOW, side="left"), sinks=(0.5, -1.0, 2.0, 0.0)),
)
SHAPE: dict[str, Any] = {"num_layers": 4, "num_query_heads": 4, "num_kv_heads": 2, "head_dim": 64}


def trace(layers: tuple[LayerEntry, ...] = LAYERS, **changes: Any) -> Any:
    plain = synthetic_trace(
        seed=2, **(SHAPE | {"prefill_tokens": 20, "decode_tokens": 5} | changes)
    )
    return dataclasses.replace(plain, layers=layers)


@pytest.mark.parametrize("policy", ["dense", "static-8", "spatten-tokens", "spatten-heads"])
@pytest.mark.parametrize("prefill", [20, 4, 0])
def test_outputs_are_those_of_the_reference(policy: str, prefill: int) -> None:
    recorded, chosen = (
        trace(prefill_tokens=prefill, decode_tokens=25 - prefill),
        load_policy(policy),
    )
    steps: list[Any] = []
    run_policy(recorded, chosen, observe=steps.append)
    assert len(steps) == 4 * (25 - prefill + (prefill > 0))
    for at in steps:
        own = recorded.layer(at.layer)
        quantization = chosen.at_stage("decode" if at.step else "prefill").quantization
        key, value = (
            quantize_dequantize(tensor(at.layer), bits, quantization.scale)[:, at.kept]
            for tensor, bits in (
                (recorded.key, quantization.key_bits), (recorded.value, quantization.value_bits)
            )
        )  # fmt: skip
        seen = recorded.seen(at.layer, at.positions)[:, at.kept]
        _, output = reference.dense(
            recorded.query(at.layer)[:, at.positions], key, value, seen,
            scale=own.scale, softcap=own.softcap, sinks=own.sinks,
        )  # fmt: skip
        output[~at.alive] = 0.0
        np.testing.assert_allclose(at.outputs, output, atol=1e-11)


def test_dense_is_nearly_exact_in_every_layer() -> None:
    for layer in run_policy(trace(), load_policy("dense")).per_layer:
        assert layer["relative_output_error"] < 3e-3
        assert layer["mean_cosine"] > 0.9999
        assert layer["kept_token_fraction"] == 1.0


def test_a_decoded_token_reads_its_window_and_no_more() -> None:
    recorded = trace()
    w = run_policy(recorded, load_policy("dense")).workload
    assert w.key_indices is not None
    for row in range(w.rows):
        layer, context = int(w["layer"][row]), int(w["context_tokens"][row])
        read = w.key_indices[row]
        if w["step"][row] == 0:
            assert len(read) == 20  # each is in some query's window
            continue
        expected = {0: WINDOW, 1: context, 2: (context - 1) % 8 + 1, 3: WINDOW}[layer]
        assert read.tolist() == list(range(context - expected, context))
        assert w["keys"][row] == w["values"][row] == expected
    table = w.query_table
    assert table is not None
    first = table.position < WINDOW
    assert table.keys.max() == 25
    assert (table.keys[first] <= WINDOW).all()
    capped = w["capped_scores"].astype(int)
    assert (capped == np.where(w["layer"] == 2, w["query_keys"], 0)).all()


@pytest.mark.parametrize("engine", ["event", "cycle"])
def test_replay_moves_the_bytes_of_the_windows(engine: str) -> None:
    recorded = trace(prefill_tokens=48, decode_tokens=8)
    windowed = exploration.replay(recorded, policy="dense", engine=engine, baselines=[])
    plain = exploration.replay(
        dataclasses.replace(recorded, layers=()), policy="dense", engine=engine, baselines=[]
    )
    keys = {0: 48, 1: 56, 2: 48, 3: 48}
    decoded = [
        {0: WINDOW, 1: context, 2: (context - 1) % 8 + 1, 3: WINDOW} for context in range(49, 57)
    ]
    vectors = sum(48 + sum(step[layer] for step in decoded) for layer in keys) * 2
    for tensor in ("key_msb", "value"):
        assert windowed.dram_read_bytes_by_tensor[tensor] == vectors * 64 * 12 // 8
    assert windowed.metrics["latency_cycles"] < plain.metrics["latency_cycles"]
    assert windowed.manifest["not_served"]["soft_caps"] > 0
    assert "soft_caps" not in plain.manifest["not_served"]
    pruned = exploration.replay(recorded, policy="spatten-full", engine=engine, baselines=[])
    decided = run_policy(recorded, load_policy("spatten-full")).workload.policy_bytes()
    for tensor in ("key_msb", "key_lsb", "value"):
        assert pruned.dram_read_bytes_by_tensor[tensor] == decided[tensor]


def test_gpus_are_given_the_pairs_of_the_windows() -> None:
    recorded = trace()
    shape = AttentionShape.from_trace(recorded)
    seen = sum(int(recorded.seen(layer, np.arange(25)).sum()) for layer in range(4))
    assert sum(call.count * call.pairs for call in shape.calls) == seen
    decoded = [(call.count, call.keys) for call in shape.calls if call.queries == 1]
    assert decoded[:3] == [(2, WINDOW), (1, 21), (1, 5)]
    assert all(calls.pairs.min() > 0 for calls in shape.to_calls()[0])


def test_fixed_point_follows_the_windows() -> None:
    layers = (LAYERS[0], LayerEntry(), LayerEntry(mask=Mask(kind="chunk", size=8)), LayerEntry())
    for name in ("dense", "spatten-full"):
        found = verify_fixed_point(trace(layers), load_policy(name), fp.DATAPATHS["published"])
        limit = 0.1 if name == "dense" else 0.9
        assert 0 < found.summary["relative_error_to_policy"] < limit
    found = verify_fixed_point(trace(), load_policy("dense"), fp.DATAPATHS["published"])
    assert 0 < found.summary["relative_error_to_policy"] < 0.1
    steep = trace((LayerEntry(), LayerEntry(softcap=5000.0), LayerEntry(), LayerEntry()))
    with pytest.raises(AccelsimError, match="layer 1 has a soft cap of 5000; the fixed-point"):
        verify_fixed_point(steep, load_policy("dense"), fp.DATAPATHS["published"])


def test_every_policy_takes_windows_chunks_caps_and_sinks() -> None:
    plain = dataclasses.replace(trace(), layers=())
    taken = [name for name in preset_names("policies") if applicable(load_policy(name), plain)]
    assert len(taken) > 30
    for name in taken:
        assert applicable(load_policy(name), trace()), name


@pytest.mark.parametrize("machine", ["a3-base", "mnnfast"])
def test_other_machines_refuse_windows(tmp_path: Any, machine: str) -> None:
    save_trace(trace(), tmp_path / "t.safetensors")
    with pytest.raises(AccelsimError, match="layer 0 has sliding windows, which the rule of"):
        exploration.replay(tmp_path / "t.safetensors", accelerator=machine, baselines=[])


def test_encoder_windows_on_both_sides() -> None:
    both = LayerEntry(mask=Mask(kind="window", size=3, side="both"))
    recorded = trace((both, LayerEntry(), both, both), causal=False, decode_tokens=0)
    steps: list[Any] = []
    run = run_policy(recorded, load_policy("dense"), observe=steps.append)
    for layer in run.per_layer:
        assert layer["relative_output_error"] < 3e-3
    table = run.workload.query_table
    assert table is not None
    assert set(table.keys.tolist()) == {3, 4, 5, 20}
