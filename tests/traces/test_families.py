"""Every family of models is captured and proven, or refused with the reason."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accelsim import exploration
from accelsim.errors import TraceError
from accelsim.functional import run_policy, verify_fixed_point
from accelsim.functional.fixed_point import DATAPATHS
from accelsim.policies import load_policy
from accelsim.traces import dense_rows, load_trace, save_trace
from accelsim.traces.capture import capture
from accelsim.traces.capture._observed import Call, Observed, Place
from accelsim.traces.capture._recorder import no_progress

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SCRIPT = Path(__file__).parent / "families.py"
spec = importlib.util.spec_from_file_location("families", SCRIPT)
assert spec is not None
assert spec.loader is not None
families = importlib.util.module_from_spec(spec)
sys.modules["families"] = families  # a dataclass looks its module up
spec.loader.exec_module(families)

BY_NAME = {family.name: family for family in families.FAMILIES}
# One of each kind of trace; the others differ in the model around it.
QUICK = (
    "Llama 2, 3", "Llama 4 (chunks)", "Mistral", "Gemma 2 (windows, soft cap)", "Gemma 3 (windows)",
    "Gemma 4 (windows, wider full layers)", "Laguna (heads by layer)", "gpt-oss (windows, sinks)",
    "Qwen3-Next (hybrid)", "GPT-2 (scale by layer)",
    "DeepSeek-V3.2 (indexer)", "DiffLlama", "BERT", "ModernBERT (windows)",
    "EmbeddingGemma (windows on both sides)", "MPT (ALiBi)", "Falcon (grouped heads)", "ViT",
    "DeBERTa-v3 (stored bias)", "T5 (relative bias)", "BART", "Whisper (audio)",
    "CLIP (both towers)", "Idefics 3 (image)",
)  # fmt: skip


def present(name):
    family = BY_NAME[name]
    if not (hasattr(transformers, family.model) and hasattr(transformers, family.config)):
        pytest.skip(f"this transformers has no {family.model}")
    for package in family.needs:
        pytest.importorskip(package)
    return family


def exercise(name, tmp_path):
    """Capture a family; compare what it holds with the model under transformers' own eager."""
    family = present(name)
    if family.refused:
        with pytest.raises(TraceError, match=family.refused) as caught:
            list(families.traces(family, tmp_path))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) - len(str(tmp_path)) < 300
        return
    for trace in families.traces(family, tmp_path):
        assert trace.proof_error < 1e-5
        save_trace(trace, tmp_path / "t.safetensors", np.float32)
        again = load_trace(tmp_path / "t.safetensors")
        if "indexer" in name and trace.decode_tokens:
            continue  # keys of equal rank are chosen differently with a cache and without
        if family.gated or (trace.decode_tokens and not trace.causal):
            continue  # a prompt read in both directions is no pass over all tokens at once
        eager = families.eager_outputs(family, str(tmp_path), trace)
        assert len(eager) == again.num_layers
        for layer in range(again.num_layers):
            output = np.concatenate([rows.output for rows in dense_rows(again, layer)], axis=1)
            flat = output.transpose(1, 0, 2).reshape(again.layer(layer).tokens, -1)
            own = eager[layer].numpy()
            assert flat.shape == own.shape
            assert np.abs(flat - own).max() <= 1e-4 * np.abs(own).max()


@pytest.mark.parametrize("name", QUICK)
def test_kinds_of_attention(name, tmp_path):
    exercise(name, tmp_path)


def test_the_page_lists_every_family():
    page = families.PAGE.read_text(encoding="utf-8")
    for family in families.FAMILIES:
        assert f"| {family.name} | {'no' if family.refused else 'yes'} |" in page


def test_difference_of_heads(tmp_path):
    """DiffLlama's two calls a layer are one attention, from which its output follows."""
    import torch

    model = families.save(present("DiffLlama"), tmp_path)
    trace = capture(model, families.TEXT, prefill=10, decode=3)
    assert {trace.layer(i).value_dim for i in range(3)} == {2 * trace.head_dim}
    network = transformers.DiffLlamaForCausalLM.from_pretrained(model).eval()
    given = []
    layers = [layer.self_attn for layer in network.model.layers]
    for own in layers:
        own.o_proj.register_forward_pre_hook(lambda _, x: given.append(x[0][0].numpy()))
    with torch.inference_mode():
        network(torch.tensor([trace.token_ids.tolist()]))
    for index, own in enumerate(layers):
        output = np.concatenate([rows.output for rows in dense_rows(trace, index)], axis=1)
        with torch.no_grad():
            parts = [torch.exp((own.lambda_q1 * own.lambda_k1).sum()),
                     torch.exp((own.lambda_q2 * own.lambda_k2).sum())]  # fmt: skip
        factor = float(parts[0] - parts[1]) + own.lambda_init
        half = len(output) // 2
        both = output[:half] - factor * output[half:]
        root = np.sqrt((both**2).mean(axis=2, keepdims=True) + own.groupnorm.eps)
        flat = ((1 - own.lambda_init) * both / root).transpose(1, 0, 2).reshape(13, -1)
        assert np.abs(flat - given[index]).max() <= 1e-4 * np.abs(given[index]).max()


def test_a_second_attention_of_a_layer_is_refused():
    """Two calls with other queries are two attentions."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(3))
    call = Call(q, k, v, v, np.tri(3, dtype=bool), 0.5, True)
    observed = Observed("m", None, 1, 1, no_progress)
    observed.begin(3)
    observed.add(Place(0), call)
    observed.add(Place(0), replace(call, value=2 * v, output=2 * v))
    observed.end()
    assert observed.finish().tensors["layer.0.value"].shape == (2, 3, 8)
    for other in (
        replace(call, query=q + 1), replace(call, scale=1.0),
        replace(call, bias=np.ones((2, 3, 3), dtype=np.float32)),
    ):  # fmt: skip
        observed = Observed("m", None, 1, 1, no_progress)
        observed.begin(3)
        observed.add(Place(0), call)
        with pytest.raises(TraceError, match="twice a pass, with other queries"):
            observed.add(Place(0), other)


def test_a_windowed_model_from_capture_to_bytes(tmp_path):
    """Gemma 3 decodes across its window: outputs and reads of policies are those of the model."""
    model = families.save(present("Gemma 3 (windows)"), tmp_path)
    trace = capture(model, families.TEXT, prefill=8, decode=10)
    for layer in run_policy(trace, load_policy("dense")).per_layer:
        assert layer["relative_output_error"] < 3e-3
    w = run_policy(trace, load_policy("spatten-full")).workload
    windowed = np.array([trace.layer(i).mask.kind == "window" for i in range(7)])
    assert windowed.sum() == 6
    decoded = (w["step"] > 0) & windowed[w["layer"]]
    assert w["keys"][decoded].max() <= 12 < w["context_tokens"].max()
    found = verify_fixed_point(trace, load_policy("dense"), DATAPATHS["published"])
    assert found.summary["relative_error_to_policy"] < 0.1


@pytest.mark.parametrize("engine", ["event", "cycle"])
def test_layers_of_other_heads_and_widths_from_capture_to_bytes(tmp_path, engine):
    """Gemma 4: its full layers have wider vectors and fewer KV heads than those with windows."""
    model = families.save(present("Gemma 4 (windows, wider full layers)"), tmp_path)
    trace = capture(model, families.TEXT, prefill=16, decode=6)
    decided = run_policy(trace, load_policy("spatten-full")).workload
    rows, layer = decided["keys"] * decided["key_bits"].astype(int), decided["layer"]
    asked = decided.policy_bytes()["key_msb"]
    assert asked == (rows * np.where(layer == 5, 16, 8)).sum() // 8
    found = exploration.replay(trace, policy="spatten-full", engine=engine, baselines=["h100"])
    assert asked <= found.dram_read_bytes_by_tensor["key_msb"] <= asked + 64 * decided["keys"].sum()
    assert found.baselines["h100/roofline"]["latency_s"] > 0
    heads = families.save(present("Laguna (heads by layer)"), tmp_path / "laguna")
    laguna = capture(heads, families.TEXT, prefill=16, decode=6)
    with pytest.raises(TraceError, match=r"another number of query heads.*or 'heads: none'"):
        run_policy(laguna, load_policy("spatten-full"))
    without = {"policy.heads": "none"}
    pruned = exploration.replay(
        laguna, policy="spatten-full", overrides=without, engine=engine, baselines=[]
    )
    assert pruned.metrics["latency_cycles"] > 0


@pytest.mark.parametrize(
    ("name", "stacks"),
    [
        ("T5 (relative bias)", ["encoder", "decoder"]),
        ("CLIP (both towers)", ["vision", "language"]),
        ("DeBERTa-v3 (stored bias)", ["language"]),
    ],
)
def test_stacks_and_biases_from_capture_to_bytes(tmp_path, name, stacks):
    trace = next(families.traces(present(name), tmp_path))
    assert [stack.name for stack in trace.stacks()] == stacks
    run = run_policy(trace, load_policy("dense"))
    assert all(layer["relative_output_error"] < 3e-3 for layer in run.per_layer)
    biased = [trace.layer(layer).bias is not None for layer in run.workload["layer"]]
    scored = np.where(biased, run.workload["query_keys"], 0)
    assert run.workload["biased_scores"].tolist() == scored.tolist()
    found = exploration.replay(trace, policy="spatten-full", baselines=["a100"])
    assert found.metrics["latency_cycles"] > 0
    assert found.manifest["not_served"].get("biases", 0) > 0 or not scored.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BY_NAME) - set(QUICK)))
def test_families(name, tmp_path):
    exercise(name, tmp_path)
